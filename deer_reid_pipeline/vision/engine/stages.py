"""Where the time of a crop goes: the stages of the engine apart, its branches apart, and batch by batch.

Stages are timed one after the other with all cores each, so that they add up to what nothing overlapped would take.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from deer_reid_pipeline.vision.crops import cut_from, decode_crop, open_for_crop
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder, precision
from deer_reid_pipeline.vision.engine.batches import largest_batch, limit_memory, peak_bytes
from deer_reid_pipeline.vision.engine.loading import Job, cores
from deer_reid_pipeline.vision.engine.measuring import batches_on_device, finish
from deer_reid_pipeline.vision.engine.settling import whole_batches
from deer_reid_pipeline.vision.engine.timing import timed

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Preprocess

S = TypeVar("S")
T = TypeVar("T")

AT_ONCE = 16
"""Decoded pictures that are held at once: a dozen megapixels each."""

READ, CUT, LAY_OUT = "read and decode", "cut and encode the crop", "decode the crop and lay out"

VARIANTS = {
    "baseline": ("baseline",),
    "multiscale": ("multiscale",),
    "efficientnet": ("efficientnet",),
    "ensemble": ("multiscale", "efficientnet"),
    "all three": ("baseline", "multiscale", "efficientnet"),
}
"""What is compared -> the branches that it computes; branches of one backbone share its pass."""


@dataclass(frozen=True)
class MemoryOfBatches:
    """Memory of a CUDA device by batch size, in MiB.

    Attributes:
        peaks: batch -> most that torch held while one batch ran; None: `budget` does not hold it.
        largest: the largest batch that stays within `budget`; 0 where not even one crop does.
    """

    device: str
    total: float
    budget: float
    peaks: dict[int, float | None]
    largest: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def stage_seconds(embedder: Embedder, jobs: Sequence[Job[int]], batch: int) -> dict[str, float]:
    """Stage -> seconds a crop, each stage alone on all cores: 'read and decode', 'cut and encode the crop' (pictures
    with a box only), 'decode the crop and lay out', 'forward: <backbone>', 'projection: <branch>'.

    Raises:
        ImageError, OSError: a picture cannot be read.
        ValueError: there are no jobs.
    """
    if not jobs:
        raise ValueError("no pictures to measure on were given")
    seconds: defaultdict[str, float] = defaultdict(float)
    prepared = []
    with ThreadPoolExecutor(cores()) as pool:

        def timed(stage: str, work: Callable[[S], T], items: Sequence[S]) -> list[T]:
            start = time.perf_counter()
            results = list(pool.map(work, items))
            seconds[stage] += time.perf_counter() - start
            return results

        for start in range(0, len(jobs), AT_ONCE):
            part = jobs[start : start + AT_ONCE]
            crops = [_stored(job) for job in part if job.box is None]
            boxed = [job for job in part if job.box is not None]
            if boxed:
                pictures = timed(READ, lambda job: open_for_crop(_file(job), job.box or (), job.spec), boxed)
                pairs = list(zip(pictures, boxed, strict=True))
                crops += timed(CUT, lambda pair: cut_from(pair[0], pair[1].box or (), pair[1].spec), pairs)
            prepared += timed(LAY_OUT, lambda content: embedder.prepare(decode_crop(content)), crops)
    for start in range(0, len(prepared), batch):
        for stage, took in embedder.embed_prepared(prepared[start : start + batch]).seconds.items():
            kind, _, name = stage.partition(":")
            words = {"backbone": "forward", "project": "projection"}.get(kind)
            if words is not None:
                seconds[f"{words}: {name}"] += took
    return {stage: took / len(jobs) for stage, took in seconds.items()}


def variant_seconds(embedder: Embedder, crops: Sequence[Pixels], batch: int, rounds: int = 3) -> dict[str, float]:
    """What of `VARIANTS` -> seconds a crop of its forward passes and projections, in whole batches, which the
    embedder's limit bounds; the median."""
    size = min(batch, embedder.limit.crops)
    on_device = batches_on_device(embedder, crops, size)
    took: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, branches in VARIANTS.items():
            took[name].append(timed(lambda: compute(embedder, on_device, branches)))  # noqa: B023
    return {name: statistics.median(each) / size for name, each in took.items()}


def batch_seconds(
    embedder: Embedder, crops: Sequence[Pixels], sizes: Sequence[int], rounds: int = 3
) -> dict[int, float | None]:
    """Batch size -> seconds a crop of all forward passes and projections; None where it does not fit the device."""
    every = tuple(embedder.recipe.branches)

    def median(size: int) -> float:
        on_device = batches_on_device(embedder, crops, size)
        compute(embedder, on_device, every)
        return statistics.median(timed(lambda: compute(embedder, on_device, every)) for _ in range(rounds))

    found: dict[int, float | None] = {}
    for size in sizes:
        try:
            found[size] = median(size) / size
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            found[size] = None
    return found


def compute(embedder: Embedder, on_device: Mapping[Preprocess, torch.Tensor], branches: Sequence[str]) -> None:
    """The vectors of some branches of a batch that lies on the device; each backbone runs once and where needed."""
    recipe = embedder.recipe
    with precision(embedder.device):
        for key, choice in embedder.plan.items():
            mine = [name for name in branches if recipe.branches[name].backbone == key]
            if not mine:
                continue
            runner = embedder.runner(key, choice)
            for spec in recipe.backbones[key].preprocess.each_view():
                pooled = dict(zip(embedder.trunks[key].taps, runner(on_device[spec]), strict=True))
                for name in mine:
                    embedder.projector(name)(pooled)
    finish(embedder.device)


def memory_of_batches(embedder: Embedder, budget: int, shown: Sequence[int] = (1, 8, 16, 32)) -> MemoryOfBatches | None:
    """Memory of the device at some batch sizes, and the largest batch within a budget; None without a CUDA device.

    This process is kept to the budget from then on.

    Args:
        budget: bytes.
    """
    device = embedder.device
    if device.type != "cuda":
        return None
    limit_memory(budget, device)
    before = embedder.limit.crops
    measured = peak_bytes(whole_batches(embedder), device)
    peaks: dict[int, float | None] = {}
    try:
        for size in shown:
            try:
                peaks[size] = measured(size) / 2**20
            except torch.cuda.OutOfMemoryError:
                peaks[size] = None
        largest = largest_batch(measured)
    finally:
        embedder.limit.crops = before
        torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory / 2**20
    return MemoryOfBatches(torch.cuda.get_device_name(device), total, budget / 2**20, peaks, largest)


def device_peak_mib(device: torch.device) -> float | None:
    """Most memory of a CUDA device that torch held in this process, in MiB; None for another device."""
    return torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else None


def _stored(job: Job[int]) -> bytes:
    return job.source if isinstance(job.source, bytes) else job.source.read_bytes()


def _file(job: Job[int]) -> Path:
    if isinstance(job.source, bytes):
        raise ValueError("a box is cut out of a picture file, not out of bytes")
    return job.source
