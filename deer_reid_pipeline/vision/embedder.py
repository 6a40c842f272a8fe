"""Crops in, unit vectors out, by a recipe. The same vectors in any batch, thread or process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.vision.backbones import Network, load_backbone
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.features import lay_out, mean_direction, normalise, pooled_taps
from deer_reid_pipeline.vision.projections import Projector
from deer_reid_pipeline.vision.recipe import DIMENSION, Preprocess, Recipe, Tap
from deer_reid_pipeline.vision.weights import WeightStore

MAX_BATCH = 32


class EmbeddingError(DeerReidError):
    """The network gave something that is not a vector, or the device cannot be used."""


@dataclass(frozen=True)
class EmbeddedBatch:
    """Vectors of a batch of crops, in the order of the crops.

    `vectors`: branch -> float32 [n, 512], unit length. `seconds`: stage -> wall time; stages are
    'preprocess', 'backbone:<key>' and 'project:<branch>'. `branch_seconds`: what each branch alone would have
    taken, so branches that share a backbone both count it.
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

    Raises:
        WeightsError: weights or projections are missing, damaged or do not fit.
        EmbeddingError: the device is absent.
    """

    def __init__(self, recipe: Recipe, store: WeightStore, device: str = "auto", threads: int | None = None) -> None:
        self.recipe = recipe
        self.device = resolve_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        used = {branch.backbone for branch in recipe.branches.values()}
        self._networks = {
            key: load_backbone(backbone, store).to(memory_format=torch.channels_last).to(self.device)
            for key, backbone in recipe.backbones.items()
            if key in used
        }
        self._projectors = {
            name: Projector(branch, recipe.features(name), store.models.load(branch.projection.sha256)).to(self.device)
            for name, branch in recipe.branches.items()
        }
        self._forward = threading.Lock()

    def embed(self, crops: Sequence[Pixels]) -> EmbeddedBatch:
        """Vectors of crops (uint8 [h, w, 3] RGB, any sizes, as `decode_crop` gives them); more than 32 run in
        turns.

        Raises:
            EmbeddingError: a vector is not finite, or has no direction.
            ValueError: a crop is not uint8 [h, w, 3].
        """
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self.recipe.branches}
        seconds: dict[str, float] = {}
        for start in range(0, len(crops), MAX_BATCH):
            for name, values in self._embed(crops[start : start + MAX_BATCH], seconds).items():
                parts[name].append(values)
        vectors = {
            name: np.concatenate(each) if each else np.zeros((0, DIMENSION), np.float32) for name, each in parts.items()
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
        for start in range(0, len(crops), MAX_BATCH):
            for found in self._pooled(crops[start : start + MAX_BATCH], {}).items():
                for tap, values in found[1].items():
                    parts.setdefault((found[0], tap), []).append(values.cpu().numpy())
        return {key: np.concatenate(each) for key, each in parts.items()}

    def _embed(self, crops: Sequence[Pixels], seconds: dict[str, float]) -> dict[str, NDArray[np.float32]]:
        with self._timed("preprocess", seconds):
            laid_out = {spec: lay_out(crops, spec) for spec in self._layouts()}
        vectors = {}
        with self._forward, precision(self.device):
            for key, network in self._networks.items():
                branches = {name: each for name, each in self.recipe.branches.items() if each.backbone == key}
                views = self.recipe.backbones[key].preprocess.each_view()
                seen: dict[str, list[torch.Tensor]] = {name: [] for name in branches}
                for spec in views:
                    pooled = self._taps(key, network, laid_out[spec], spec, seconds)
                    for name in branches:
                        with self._timed(f"project:{name}", seconds):
                            seen[name].append(self._projectors[name](pooled))
                for name, each in seen.items():
                    vectors[name] = mean_direction(each).cpu().numpy()
        return {name: vectors[name] for name in self.recipe.branches}

    def _pooled(self, crops: Sequence[Pixels], seconds: dict[str, float]) -> dict[str, dict[Tap, torch.Tensor]]:
        """Taps of the first view."""
        pooled = {}
        with self._forward, precision(self.device):
            for key, network in self._networks.items():
                spec = self.recipe.backbones[key].preprocess.each_view()[0]
                pooled[key] = self._taps(key, network, lay_out(crops, spec), spec, seconds)
        return pooled

    def _taps(
        self, key: str, network: Network, batch: NDArray[np.uint8], spec: Preprocess, seconds: dict[str, float]
    ) -> dict[Tap, torch.Tensor]:
        taps = [t for b in self.recipe.branches.values() if b.backbone == key for t in b.taps]
        with self._timed(f"backbone:{key}", seconds):
            x = normalise(batch, spec, self.device)
            return pooled_taps(network, x.contiguous(memory_format=torch.channels_last), taps)

    def _layouts(self) -> list[Preprocess]:
        """The different layouts that the backbones want, one a view, each made once."""
        specs = (self.recipe.backbones[key].preprocess for key in self._networks)
        return list(dict.fromkeys(view for spec in specs for view in spec.each_view()))

    def _branch_seconds(self, seconds: dict[str, float]) -> dict[str, float]:
        return {
            name: seconds.get("preprocess", 0.0)
            + seconds.get(f"backbone:{branch.backbone}", 0.0)
            + seconds.get(f"project:{name}", 0.0)
            for name, branch in self.recipe.branches.items()
        }

    @contextlib.contextmanager
    def _timed(self, stage: str, seconds: dict[str, float]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
