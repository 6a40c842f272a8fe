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
from dataclasses import asdict, dataclass, replace
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
from deer_reid_pipeline.vision.engine.variations import variations
from deer_reid_pipeline.vision.features import lay_out
from deer_reid_pipeline.vision.model_files import write_whole

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Preprocess

log = logging.getLogger(__name__)

WANTED_COSINE = 0.999
"""To float32 as loaded, in every branch, of any picture."""
LEAST_COSINE = 0.9997
"""The same of every calibration picture. Other pictures lie lower: 1 - cosine was up to 2.9 times that of the worst
calibration picture, over ten networks in bfloat16 (docs/decisions/0031)."""
LEAST_BATCH_COSINE = 0.9999
"""Of a crop embedded alone to the same crop in a batch."""
LEAST_GAIN = 1.05
HOPELESS = 2.0
"""What takes this many times as long as float32 as loaded on a few crops is not tried on more."""
MOST_WIDE = 8
"""Last parts of a network that are kept in float32 at most; with about half of it so, narrow weights gain little."""
FAR = 4.0
"""How many times the error that is allowed is a miss by far."""
TIME_LIMIT = 240.0
"""Seconds after which no other way is tried."""
ENGINE_VERSION = "6"
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
    """What was measured for one recipe on one device; `full`: with what takes minutes to measure."""

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
        ]
        narrow = [t for t in able if t.choice.wide is not None]
        if narrow:
            # The less is in float32, the faster: where the clock has it otherwise, other work came in between.
            fewest = min(narrow, key=lambda t: t.choice.wide or 0)
            rate = max(t.crops_per_second or 0.0 for t in narrow)
            able = [t for t in able if t not in narrow] + [replace(fewest, crops_per_second=rate)]
        able = [t for t in able if (t.crops_per_second or 0.0) >= LEAST_GAIN * plain]
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
        "pillow": _version("pillow"),
        "numpy": np.__version__,
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
    first: str = "auto",
    time_limit: float = TIME_LIMIT,
    say: Callable[[str], None] = log.info,
) -> Decision:
    """Try the ways of computing each backbone. The embedder goes on computing as before.

    Args:
        pictures: what the vectors are compared on, uint8 [h, w, 3], and once more each, made harder.
        full: also what takes minutes to measure: every library, in every arithmetic.
        first: library that is tried before the others, because it was asked for.
        time_limit: seconds after which nothing more is begun; what is under way is finished.
    """
    if not pictures:
        raise ValueError("no calibration pictures were given")
    began = time.perf_counter()
    shown = [*pictures, *variations(pictures)]
    trials: list[Trial] = []
    benches: list[_Bench] = []
    for key in embedder.trunks:
        views = embedder.recipe.backbones[key].preprocess.each_view()
        bench = _Bench(embedder, key, {spec: lay_out(shown, spec) for spec in views})
        plain = bench.try_out(PLAIN)
        bench.plain_rate = plain.crops_per_second
        trials.append(plain)
        benches.append(bench)
    ways = [c for c in candidates(embedder.device) if options.allows(c) and (full or measured_briefly(c))]
    asked = [choice for choice in ways if choice.backend == first]
    slowest = [choice for choice in ways if choice.backend == "compile" and choice not in asked]
    quick = [choice for choice in ways if measured_briefly(choice) and choice not in asked]
    others = [choice for choice in ways if choice not in (*asked, *quick, *slowest)]
    too_late: list[Choice] = []

    def attempt(bench: _Bench, choice: Choice) -> None:
        reason = absent(choice.backend, embedder.device) or _refused_before(choice, tried(bench))
        if reason is None and time.perf_counter() - began > time_limit:
            reason = f"not tried: {time_limit:.0f} s had passed"
            too_late.append(choice)
        trials.append(Trial(bench.key, choice, reason=reason) if reason else bench.try_out(choice))
        say(trials[-1].describe())

    def tried(bench: _Bench) -> list[Trial]:
        return [trial for trial in trials if trial.backbone == bench.key]

    for bench in benches:
        for choice in asked:
            attempt(bench, choice)
    # Then what is likeliest to be used, for all backbones, before the time limit leaves anything out.
    for bench in benches:
        for choice in quick:
            attempt(bench, choice)
    for bench in benches:
        for choice in others:
            attempt(bench, choice)
        while (wider := next_wide(tried(bench), options)) is not None:
            attempt(bench, wider)
    # What takes longest to start comes last.
    for bench in benches:
        for choice in slowest:
            attempt(bench, choice)
    if any(choice in quick for choice in too_late):
        full = False
        log.warning("the machine was so busy that measuring ended early: the next long work measures again")
    return Decision(circumstances(embedder), full, tuple(trials))


def measured_briefly(choice: Choice) -> bool:
    """Whether a way is measured within seconds: torch is ready at once, OpenVINO in float32 starts in two seconds here
    and keeps the vectors."""
    return choice.backend == "torch" or choice == Choice("openvino", "float32")


def next_wide(before: Sequence[Trial], options: EngineOptions = AUTO) -> Choice | None:
    """How to try bfloat16 without the shift of rounding next: the fewest last parts of the network that must stay in
    float32 are found by halving. None: they are found, there are no such, or narrow weights would gain nothing.

    Args:
        before: what was tried of this backbone.
    """
    narrow = [t for t in before if (t.choice.backend, t.choice.precision) == ("openvino", "bfloat16")]
    if not narrow or narrow[0].usable or any(t.crops_per_second is None or t.cosine is None for t in narrow):
        return None
    fastest = max((t.crops_per_second or 0.0 for t in before if t.usable and t.choice.wide is None), default=0.0)
    if (narrow[0].crops_per_second or 0.0) < LEAST_GAIN * fastest:
        return None
    tried = {t.choice.wide: t.usable for t in narrow if t.choice.wide is not None}
    enough = min((wide for wide, usable in tried.items() if usable), default=None)
    lacking = max((wide for wide, usable in tried.items() if not usable), default=None)
    wide = 0 if not tried else MOST_WIDE if enough is None else (enough + (lacking or 0)) // 2
    choice = Choice("openvino", "bfloat16", wide=wide)
    return choice if wide not in tried and options.allows(choice) else None


def _refused_before(choice: Choice, before: Sequence[Trial]) -> str | None:
    """A guess that saves half a minute: torch.compile rounds less often than torch in the same arithmetic, but where
    torch misses by far, it does too."""
    if choice.backend != "compile":
        return None
    same = (t for t in before if t.choice == Choice("torch", choice.precision))
    hopeless = any(t.cosine is not None and 1.0 - t.cosine > FAR * (1.0 - LEAST_COSINE) for t in same)
    return f"not tried: torch in {choice.precision} missed by far" if hopeless else None


class _Bench:
    """One backbone and the pictures that its ways of computing are tried on."""

    def __init__(self, embedder: Embedder, key: str, laid_out: Mapping[Preprocess, NDArray[np.uint8]]) -> None:
        self.embedder, self.key, self.laid_out = embedder, key, laid_out
        self.few = {spec: batch[:_ALONE] for spec, batch in laid_out.items()}
        count = len(next(iter(laid_out.values())))
        self.rows = sorted({int(row) for row in np.linspace(0, count - 1, _ALONE)})
        """Crops that are computed alone too, harder ones among them."""
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
            alone = {
                row: self._vectors(runner, {spec: batch[row : row + 1] for spec, batch in self.laid_out.items()})
                for row in self.rows
            }
            cosine = least_cosine(self.reference, together)
            batch_cosine = min(
                least_cosine({name: values[row : row + 1] for name, values in together.items()}, each)
                for row, each in alone.items()
            )
            reason = _refusal(cosine, batch_cosine)
            # Nothing depends on how fast a step of the search was that did not pass.
            rate = self._rate(runner, rounds=1 if reason and choice.wide is not None else _ROUNDS)
        except (BackendError, torch.cuda.OutOfMemoryError, RuntimeError) as error:
            return Trial(self.key, choice, reason=str(error).splitlines()[0])
        finally:
            self.embedder.release()
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

    def _rate(self, runner: Runner, rounds: int) -> float:
        """Crops a second in whole batches, by float32 as loaded at the same time, because other work comes and goes."""
        size = self.embedder.limit.crops
        batches = {spec: np.resize(batch, (size, *batch.shape[1:])) for spec, batch in self.laid_out.items()}
        if self.plain_rate is None:
            return size / min(timed(lambda: self._vectors(runner, batches)) for _ in range(rounds))
        plain = self.embedder.runner(self.key, PLAIN)
        gains = [
            timed(lambda: self._vectors(plain, batches)) / timed(lambda: self._vectors(runner, batches))
            for _ in range(rounds)
        ]
        return self.plain_rate * statistics.median(gains)


def _refusal(cosine: float, batch_cosine: float) -> str:
    """Why vectors like these are not used; empty: they may be."""
    if cosine < LEAST_COSINE:
        return f"cosine to float32 is {cosine:.5f}, below {LEAST_COSINE}"
    if batch_cosine < LEAST_BATCH_COSINE:
        return f"a crop alone and in a batch have cosine {batch_cosine:.6f}, below {LEAST_BATCH_COSINE}"
    return ""


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
