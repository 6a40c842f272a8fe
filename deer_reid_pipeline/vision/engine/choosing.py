"""Which way of computing is used: measured against float32 as loaded, judged by the vectors, and kept in a file.

A way is used only if the vectors of the calibration pictures agree with those of float32 and it was measured to be
faster. What was found holds for one recipe on one device with these versions; with any of them changed it is measured
anew.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine.backends import BackendError, Runner, absent, candidates
from deer_reid_pipeline.vision.engine.loading import cores
from deer_reid_pipeline.vision.engine.options import AUTO, PLAIN, Choice, EngineOptions, Plan
from deer_reid_pipeline.vision.engine.timing import timed
from deer_reid_pipeline.vision.features import lay_out
from deer_reid_pipeline.vision.model_files import write_whole

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Preprocess

log = logging.getLogger(__name__)

WANTED_COSINE = 0.999
"""To float32 as loaded, in every branch, of any picture."""
LEAST_COSINE = 0.9995
"""The same of every calibration picture, because other pictures lie lower."""
LEAST_BATCH_COSINE = 0.9999
"""Of a crop embedded alone to the same crop in a batch."""
LEAST_GAIN = 1.05
HOPELESS = 2.0
"""What takes this many times as long as float32 as loaded on a few crops is not tried on more."""
TIME_LIMIT = 180.0
"""Seconds after which no other way is tried."""
ENGINE_VERSION = "2"
"""Raised when the computing or the measuring changes: what is kept is then measured anew."""

_ALONE = 4
_ROUNDS = 3


@dataclass(frozen=True)
class Trial:
    """One way of computing one backbone, and what came of it.

    Attributes:
        crops_per_second: of the bare forward pass in whole batches; None: it did not run.
        cosine: least cosine to float32 as loaded, over pictures and branches.
        batch_cosine: least cosine between a crop alone and the same crop in a batch.
        start_seconds: what making it ready took.
        reason: why it is not used; empty: it may be.
    """

    backbone: str
    choice: Choice
    crops_per_second: float | None = None
    cosine: float | None = None
    batch_cosine: float | None = None
    start_seconds: float = 0.0
    reason: str = ""

    @property
    def usable(self) -> bool:
        return self.crops_per_second is not None and not self.reason

    def describe(self) -> str:
        """One line for a log or a report."""
        measured = ""
        if self.crops_per_second is not None:
            measured = f"{self.crops_per_second:.1f} crops/s"
            if self.cosine is not None:
                measured += f", cosine {self.cosine:.5f}"
        return f"{self.backbone}: {self.choice}: " + "; ".join(part for part in (measured, self.reason) if part)


@dataclass(frozen=True)
class Decision:
    """What was measured for one recipe on one device; `full`: with the libraries that take long to start."""

    circumstances: dict[str, str]
    full: bool
    trials: tuple[Trial, ...]

    def best(self, key: str, options: EngineOptions, quick_start: bool) -> Trial | None:
        """The fastest usable way for a backbone; None where nothing beats float32 as loaded.

        Args:
            quick_start: only what is ready at once.
        """
        mine = [trial for trial in self.trials if trial.backbone == key]
        plain = next((t.crops_per_second for t in mine if t.choice == PLAIN and t.crops_per_second), 0.0)
        able = [
            t
            for t in mine
            if t.usable
            and t.choice != PLAIN
            and options.allows(t.choice)
            and (not quick_start or t.choice.backend == "torch")
            and (t.crops_per_second or 0.0) >= LEAST_GAIN * plain
        ]
        return max(able, key=lambda t: t.crops_per_second or 0.0, default=None)

    def plan(self, options: EngineOptions, quick_start: bool = False) -> Plan:
        """Backbone -> how to compute it."""
        keys = dict.fromkeys(trial.backbone for trial in self.trials)
        found = {key: self.best(key, options, quick_start) for key in keys}
        return {key: trial.choice if trial else PLAIN for key, trial in found.items()}

    def seconds_a_crop(self, plan: Plan) -> float:
        """Of the bare forward passes by a plan."""
        rates = {(t.backbone, t.choice): t.crops_per_second for t in self.trials}
        return sum(1.0 / (rates.get(item) or float("inf")) for item in plan.items())

    def start_seconds(self, plan: Plan) -> float:
        return sum(t.start_seconds for t in self.trials if plan.get(t.backbone) == t.choice)

    def describe(self) -> list[str]:
        """What was measured, a line each."""
        return [trial.describe() for trial in self.trials]


def circumstances(embedder: Embedder) -> dict[str, str]:
    """All that a measurement depends on."""
    device = embedder.device
    name = _cpu_name()
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, capability {torch.cuda.get_device_capability(device)}"
    return {
        "recipe": embedder.recipe.id,
        "device": f"{device.type}: {name}",
        "cores": str(cores()),
        "threads": str(torch.get_num_threads()),
        "batch": str(embedder.limit.crops),
        "torch": torch.__version__,
        "openvino": _version("openvino"),
        "compiler": shutil.which(os.environ.get("CXX", "g++")) or "none",
        "calibration": "drawn",
        "engine": ENGINE_VERSION,
    }


def kept(folder: Path, embedder: Embedder) -> Decision | None:
    """What was measured here before under the same circumstances; None where nothing was, or something changed."""
    path = _place(folder, embedder)
    try:
        data = json.loads(path.read_text(encoding="ascii"))
        if data["circumstances"] != circumstances(embedder):
            return None
        trials = tuple(Trial(**{**trial, "choice": Choice(**trial["choice"])}) for trial in data["trials"])
        return Decision(data["circumstances"], bool(data["full"]), trials)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): how to compute is measured anew", path.name, error)
        return None


def keep(folder: Path, embedder: Embedder, decision: Decision) -> Path:
    """Write a decision beside the models.

    Raises:
        WeightsError: the folder cannot be written.
    """
    path = _place(folder, embedder)
    write_whole(path, json.dumps(asdict(decision), indent=1, sort_keys=True).encode("ascii"))
    return path


def measure(
    embedder: Embedder,
    pictures: Sequence[Pixels],
    full: bool = True,
    options: EngineOptions = AUTO,
    time_limit: float = TIME_LIMIT,
    say: Callable[[str], None] = log.info,
) -> Decision:
    """Try the ways of computing each backbone. The embedder goes on computing as before.

    Args:
        pictures: what the vectors are compared on, uint8 [h, w, 3].
        full: also the libraries that take seconds to minutes to start.
        time_limit: seconds after which nothing more is begun; what is under way is finished.
    """
    if not pictures:
        raise ValueError("no calibration pictures were given")
    began = time.perf_counter()
    trials: list[Trial] = []
    for key in embedder.trunks:
        views = embedder.recipe.backbones[key].preprocess.each_view()
        bench = _Bench(embedder, key, {spec: lay_out(pictures, spec) for spec in views})
        plain = bench.try_out(PLAIN)
        bench.plain_rate = plain.crops_per_second
        trials.append(plain)
        for choice in candidates(embedder.device):
            if not options.allows(choice) or (choice.backend != "torch" and not full):
                continue
            reason = absent(choice.backend, embedder.device)
            if reason is None and time.perf_counter() - began > time_limit:
                reason = f"not tried: {time_limit:.0f} s had passed"
            trials.append(Trial(key, choice, reason=reason) if reason else bench.try_out(choice))
            say(trials[-1].describe())
    return Decision(circumstances(embedder), full, tuple(trials))


class _Bench:
    """One backbone and the pictures that its ways of computing are tried on."""

    def __init__(self, embedder: Embedder, key: str, laid_out: Mapping[Preprocess, NDArray[np.uint8]]) -> None:
        self.embedder, self.key, self.laid_out = embedder, key, laid_out
        self.few = {spec: batch[:_ALONE] for spec, batch in laid_out.items()}
        self.reference = plain_vectors(embedder, key, laid_out)
        self.plain_rate: float | None = None
        """Crops a second of float32 as loaded, once it was tried."""

    def try_out(self, choice: Choice) -> Trial:
        start = time.perf_counter()
        try:
            runner = self.embedder.runner(self.key, choice)
            if choice.backend == "torch" and self.plain_rate:
                gain = self._gain_on_few(runner)
                if gain < 1 / HOPELESS:
                    return Trial(self.key, choice, self.plain_rate * gain, reason="much slower than float32 as loaded")
            together = self._vectors(runner, self.laid_out)
            ready = time.perf_counter() - start
            alone = [
                self._vectors(runner, {spec: batch[row : row + 1] for spec, batch in self.laid_out.items()})
                for row in range(min(_ALONE, len(next(iter(self.laid_out.values())))))
            ]
            rate = self._rate(runner)
        except (BackendError, torch.cuda.OutOfMemoryError, RuntimeError) as error:
            return Trial(self.key, choice, reason=str(error).splitlines()[0])
        finally:
            self.embedder.release()
        cosine = least_cosine(self.reference, together)
        batch_cosine = min(
            least_cosine({name: values[row : row + 1] for name, values in together.items()}, each)
            for row, each in enumerate(alone)
        )
        reason = ""
        if cosine < LEAST_COSINE:
            reason = f"cosine to float32 is {cosine:.5f}, below {LEAST_COSINE}"
        elif batch_cosine < LEAST_BATCH_COSINE:
            reason = f"a crop alone and in a batch have cosine {batch_cosine:.6f}, below {LEAST_BATCH_COSINE}"
        return Trial(self.key, choice, rate, cosine, batch_cosine, ready, reason)

    def _vectors(
        self, runner: Runner, laid_out: Mapping[Preprocess, NDArray[np.uint8]]
    ) -> dict[str, NDArray[np.float32]]:
        """No more crops at once than the embedder's limit; what does not fit is not tried with fewer."""
        size = self.embedder.limit.crops
        return _joined(
            [
                self.embedder.vectors_of(
                    self.key, runner, {spec: batch[start : start + size] for spec, batch in laid_out.items()}
                )
                for start in range(0, len(next(iter(laid_out.values()))), size)
            ]
        )

    def _gain_on_few(self, runner: Runner) -> float:
        """How many times as fast as float32 as loaded, on a few crops; again where that looks hopeless, because other
        work comes and goes."""
        plain, best = self.embedder.runner(self.key, PLAIN), 0.0
        for _ in range(_ROUNDS):
            before = timed(lambda: self._vectors(plain, self.few))
            best = max(best, before / timed(lambda: self._vectors(runner, self.few)))
            if best >= 1 / HOPELESS:
                break
        return best

    def _rate(self, runner: Runner) -> float:
        """Crops a second in whole batches, by float32 as loaded at the same time, because other work comes and goes."""
        size = self.embedder.limit.crops
        batches = {spec: np.resize(batch, (size, *batch.shape[1:])) for spec, batch in self.laid_out.items()}
        plain = self.embedder.runner(self.key, PLAIN)
        pairs = [
            (timed(lambda: self._vectors(plain, batches)), timed(lambda: self._vectors(runner, batches)))
            for _ in range(_ROUNDS)
        ]
        if self.plain_rate is None:
            return size / min(took for _, took in pairs)
        return self.plain_rate * statistics.median(before / took for before, took in pairs)


def plain_vectors(
    embedder: Embedder, key: str, laid_out: Mapping[Preprocess, NDArray[np.uint8]]
) -> dict[str, NDArray[np.float32]]:
    """branch -> float32 [n, 512] by float32 as loaded, for the branches of one backbone; more than the embedder's limit
    run in turns.

    Args:
        laid_out: uint8 [n, height, width, 3] for each view of the backbone.
    """
    runner = embedder.runner(key, PLAIN)

    def part(start: int, end: int) -> dict[str, NDArray[np.float32]]:
        return embedder.vectors_of(key, runner, {spec: batch[start:end] for spec, batch in laid_out.items()})

    return _joined(embedder.limit.run(len(next(iter(laid_out.values()))), part))


def _joined(parts: Sequence[Mapping[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def least_cosine(one: Mapping[str, NDArray[np.float32]], other: Mapping[str, NDArray[np.float32]]) -> float:
    """Least cosine between unit vectors of the same crops, over crops and branches; -1 where one is not finite."""
    least = min(float((values * other[name]).sum(axis=1).min()) for name, values in one.items())
    return least if np.isfinite(least) else -1.0


def _place(folder: Path, embedder: Embedder) -> Path:
    return folder / "engine" / f"{embedder.recipe.id}-{embedder.device.type}{embedder.device.index or ''}.json"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _cpu_name() -> str:
    """Name of the processor and the narrow types that it computes in."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    can = torch.cpu.get_capabilities()
    flags = [f for f in ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16") if can.get(f)]
    return " ".join([name, *flags])
