"""Crops in, unit vectors out, by a recipe. The same vectors in any batch, thread or process that computes alike.

How is a plan (`engine.options`): float32 as loaded, unless somebody chose another that passed its self-test.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.vision.architectures import DIMENSION
from deer_reid_pipeline.vision.backbones import Network, load_backbone
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.engine.backends import Runner, build_runner
from deer_reid_pipeline.vision.engine.batches import BatchLimit
from deer_reid_pipeline.vision.engine.options import PLAIN, Choice, Plan
from deer_reid_pipeline.vision.features import lay_out, mean_direction
from deer_reid_pipeline.vision.projections import Projector
from deer_reid_pipeline.vision.trunk import Trunk

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Backbone, Preprocess, Recipe, Tap
    from deer_reid_pipeline.vision.weights import WeightStore

Prepared = tuple[NDArray[np.uint8], ...]
"""One crop laid out for every view that the recipe looks at it by: uint8 [height, width, 3] each."""


class EmbeddingError(DeerReidError):
    """The network gave something that is not a vector, or the device cannot be used."""


@dataclass(frozen=True)
class EmbeddedBatch:
    """Vectors of a batch of crops, in the order of the crops.

    `vectors`: branch -> float32 [n, 512], unit length, of the branches that were asked for. `seconds`: stage -> wall
    time; stages are 'preprocess', 'backbone:<key>' and 'project:<branch>'. `branch_seconds`: what each branch alone
    would have taken, so branches that share a backbone both count it.
    """

    recipe_id: str
    vectors: dict[str, NDArray[np.float32]]
    seconds: dict[str, float] = field(default_factory=dict)
    branch_seconds: dict[str, float] = field(default_factory=dict)


def resolve_device(device: str = "auto") -> torch.device:
    """'auto' (cuda, else mps, else cpu), 'cpu', 'cuda', 'cuda:N' or 'mps' as a torch device that is there.

    Raises:
        EmbeddingError: the device is absent.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise EmbeddingError(f"{device!r} is not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if wanted.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (wanted.index or 0) >= count:
            raise EmbeddingError(f"device {device} is absent: {count} CUDA devices here; set DEER_REID_DEVICE=auto")
        return torch.device("cuda", wanted.index or 0)
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise EmbeddingError("device mps is absent on this machine; set DEER_REID_DEVICE=auto")
    if wanted.type not in ("cpu", "mps"):
        raise EmbeddingError(f"{device!r} is not supported; use auto, cpu, cuda, cuda:N or mps")
    return wanted


@contextlib.contextmanager
def precision(device: torch.device) -> Iterator[None]:
    """The one place where the numbers' precision is chosen: full float32, on CUDA without TF32 shortcuts."""
    with torch.inference_mode():
        if device.type != "cuda":
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield


class Embedder:
    """A recipe's networks, loaded on one device. Safe to call from many threads; forward passes take turns.

    Args:
        recipe: what to compute.
        store: where its weights and projections are.
        device: see `resolve_device`.
        threads: CPU threads of torch in this process; None leaves them as they are.
        load: gives the network of a backbone; another than the recipe's only where speed alone is measured.

    Raises:
        WeightsError: weights or projections are missing, damaged or do not fit.
        EmbeddingError: the device is absent.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: WeightStore,
        device: str = "auto",
        threads: int | None = None,
        load: Callable[[Backbone, WeightStore], Network] = load_backbone,
    ) -> None:
        self.recipe = recipe
        self.branches = tuple(recipe.branches)
        self.device = resolve_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        used = {branch.backbone for branch in recipe.branches.values()}
        self.trunks = {
            key: Trunk(load(backbone, store), backbone.preprocess.each_view()[0], self._taps(key))
            for key, backbone in recipe.backbones.items()
            if key in used
        }
        self._projectors = {
            name: Projector(branch, recipe.features(name), store.models.load(branch.projection.sha256)).to(self.device)
            for name, branch in recipe.branches.items()
        }
        self.limit = BatchLimit()
        self.plan: Plan = dict.fromkeys(self.trunks, PLAIN)
        self._ready: dict[tuple[str, Choice, int], Runner] = {}
        self._forward = threading.Lock()

    def only(self, branches: Collection[str]) -> Embedder:
        """The same networks, of which only those that these branches need are computed, in the way that is in use now.

        Nothing is loaded again; forward passes of both take turns. How is chosen on this embedder (`use`), before its
        part is taken. With all branches it is this embedder itself.

        Raises:
            ValueError: the recipe has no such branch, or none is asked for.
        """
        unknown = set(branches) - set(self.recipe.branches)
        if unknown or not branches:
            raise ValueError(
                f"recipe {self.recipe.id} has no branches {', '.join(sorted(unknown)) or '(none asked for)'}"
            )
        wanted = tuple(name for name in self.branches if name in branches)
        if wanted == self.branches:
            return self
        part = copy.copy(self)
        part.branches = wanted
        used = {self.recipe.branches[name].backbone for name in wanted}
        part.trunks = {key: trunk for key, trunk in self.trunks.items() if key in used}
        part.plan = {key: choice for key, choice in self.plan.items() if key in used}
        return part

    def runner(self, key: str, choice: Choice) -> Runner:
        """A backbone made ready to be computed in this way; made once, until `release`.

        Raises:
            BackendError: the library is absent, or cannot take this network.
        """
        name = (key, choice, self.limit.crops if choice.backend == "compile" else 0)
        if name not in self._ready:
            self._ready[name] = build_runner(self.trunks[key], choice, self.device, self.limit.crops)
        return self._ready[name]

    def projector(self, branch: str) -> Projector:
        """What brings a branch's pooled taps to its unit vector, on the device."""
        return self._projectors[branch]

    def use(self, plan: Plan) -> None:
        """Compute in this way from the next batch on; backbones that the plan does not name stay as they are.

        Raises:
            BackendError: a library is absent, or cannot take a network; then nothing is changed.
        """
        for key, choice in plan.items():
            self.runner(key, choice)
        with self._forward:
            self.plan = {**self.plan, **plan}
        self.release()

    def release(self) -> None:
        """Let go of the networks that were made ready and are not computed with."""
        with self._forward:
            in_use = {name: ready for name, ready in self._ready.items() if name[1] in (PLAIN, self.plan.get(name[0]))}
            self._ready = in_use

    def embed(self, crops: Sequence[Pixels]) -> EmbeddedBatch:
        """Vectors of crops (uint8 [h, w, 3] RGB, any sizes, as `decode_crop` gives them); more than
        `limit` run in turns.

        Raises:
            EmbeddingError: a vector is not finite, or has no direction.
            ValueError: a crop is not uint8 [h, w, 3].
        """
        seconds: dict[str, float] = {}

        def part(start: int, end: int) -> dict[str, NDArray[np.float32]]:
            with self._timed("preprocess", seconds):
                laid_out = {spec: lay_out(crops[start:end], spec) for spec in self.layouts()}
            return self._vectors(laid_out, seconds)

        return self._checked(self.limit.run(len(crops), part), seconds)

    def prepare(self, crop: Pixels) -> Prepared:
        """Lay one crop out for the network, on any thread.

        Raises:
            ValueError: it is not uint8 [h, w, 3].
        """
        return tuple(lay_out([crop], spec)[0] for spec in self.layouts())

    def embed_prepared(self, crops: Sequence[Prepared]) -> EmbeddedBatch:
        """Vectors of crops that `prepare` laid out; the same as `embed` gives.

        Raises:
            EmbeddingError: a vector is not finite, or has no direction.
        """
        seconds: dict[str, float] = {}

        def part(start: int, end: int) -> dict[str, NDArray[np.float32]]:
            with self._timed("preprocess", seconds):
                views = zip(self.layouts(), zip(*crops[start:end], strict=True), strict=True)
                laid_out = {spec: np.stack(each) for spec, each in views}
            return self._vectors(laid_out, seconds)

        return self._checked(self.limit.run(len(crops), part), seconds)

    def _checked(self, parts: list[dict[str, NDArray[np.float32]]], seconds: dict[str, float]) -> EmbeddedBatch:
        vectors = {
            name: np.concatenate([part[name] for part in parts]) if parts else np.zeros((0, DIMENSION), np.float32)
            for name in self.branches
        }
        for name, values in vectors.items():
            norms = np.linalg.norm(values, axis=1)
            bad = np.flatnonzero(~(np.abs(norms - 1.0) < 1e-4))
            if bad.size:
                raise EmbeddingError(
                    f"recipe {self.recipe.id} gives no usable {name} vector for {bad.size} of {len(values)} "
                    f"crops (first: number {bad[0]}); check its weights with 'deer-reid doctor'"
                )
        return EmbeddedBatch(self.recipe.id, vectors, seconds, self._branch_seconds(seconds))

    def warm_up(self) -> float:
        """Run one crop of noise through everything; returns the seconds that took. The first picture must not
        wait."""
        start = time.perf_counter()
        self.embed([np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)])
        return time.perf_counter() - start

    def pooled(self, crops: Sequence[Pixels]) -> dict[tuple[str, Tap], NDArray[np.float32]]:
        """(backbone key, tap) -> features before projection, float32 [n, features]; what projections are
        fitted on."""
        parts: dict[tuple[str, Tap], list[NDArray[np.float32]]] = {}

        def part(start: int, end: int) -> None:
            with self._forward, precision(self.device):
                for key, trunk in self.trunks.items():
                    batch = lay_out(crops[start:end], self.recipe.backbones[key].preprocess.each_view()[0])
                    for tap, values in zip(trunk.taps, self.runner(key, PLAIN)(self._moved(batch)), strict=True):
                        parts.setdefault((key, tap), []).append(values.cpu().numpy())

        self.limit.run(len(crops), part)
        return {key: np.concatenate(each) for key, each in parts.items()}

    def vectors_of(
        self,
        key: str,
        runner: Runner,
        laid_out: Mapping[Preprocess, NDArray[np.uint8]],
        seconds: dict[str, float] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """branch -> float32 [n, 512] for the branches of one backbone, computed by `runner`; not checked.

        Args:
            laid_out: uint8 [n, height, width, 3] for each view of the backbone.
        """
        seconds = {} if seconds is None else seconds
        taps = self.trunks[key].taps
        seen: dict[str, list[torch.Tensor]] = {n: [] for n in self.branches if self.recipe.branches[n].backbone == key}
        with precision(self.device):
            for spec in self.recipe.backbones[key].preprocess.each_view():
                with self._timed(f"backbone:{key}", seconds):
                    pooled = dict(zip(taps, runner(self._moved(laid_out[spec])), strict=True))
                for name, each in seen.items():
                    with self._timed(f"project:{name}", seconds):
                        each.append(self._projectors[name](pooled))
            return {name: mean_direction(each).cpu().numpy() for name, each in seen.items()}

    def layouts(self) -> list[Preprocess]:
        """The different layouts that the backbones want, one a view, each made once."""
        specs = (self.recipe.backbones[key].preprocess for key in self.trunks)
        return list(dict.fromkeys(view for spec in specs for view in spec.each_view()))

    def _vectors(
        self, laid_out: Mapping[Preprocess, NDArray[np.uint8]], seconds: dict[str, float]
    ) -> dict[str, NDArray[np.float32]]:
        vectors: dict[str, NDArray[np.float32]] = {}
        with self._forward:
            for key, choice in self.plan.items():
                vectors.update(self.vectors_of(key, self.runner(key, choice), laid_out, seconds))
        return vectors

    def _moved(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        """Bytes travel, not floats; to a CUDA device from pinned memory, so that the copy does not hold up the host."""
        tensor = torch.from_numpy(batch)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _taps(self, key: str) -> list[Tap]:
        return [tap for branch in self.recipe.branches.values() if branch.backbone == key for tap in branch.taps]

    def _branch_seconds(self, seconds: dict[str, float]) -> dict[str, float]:
        return {
            name: seconds.get("preprocess", 0.0)
            + seconds.get(f"backbone:{branch.backbone}", 0.0)
            + seconds.get(f"project:{name}", 0.0)
            for name, branch in self.recipe.branches.items()
            if name in self.branches
        }

    @contextlib.contextmanager
    def _timed(self, stage: str, seconds: dict[str, float]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
