"""How near the engine is to what the machine can do, and how far from the loop that a user would write.

All figures of one run are made one after the other on the same pictures, because only their ratios mean something on a
machine that does other work too.
"""

from __future__ import annotations

import copy
import resource
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deer_reid_pipeline.vision.crops import cut_crop, decode_crop, open_for_crop
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder, precision
from deer_reid_pipeline.vision.engine.batches import BatchLimit
from deer_reid_pipeline.vision.engine.choosing import circumstances, least_cosine, plain_vectors
from deer_reid_pipeline.vision.engine.loading import Job, cores, load_crop
from deer_reid_pipeline.vision.engine.stream import embed_jobs
from deer_reid_pipeline.vision.engine.timing import timed
from deer_reid_pipeline.vision.features import lay_out, mean_direction, normalise, pooled_taps

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Preprocess

T = TypeVar("T")

_COMPARED = 32
"""Crops whose vectors are compared with those of float32 as loaded, evenly spaced over those of the run."""


@dataclass(frozen=True)
class SpeedReport:
    """Speeds in crops a second; every `seconds` is for all crops of the run.

    Attributes:
        floor: crops over (decoding on all cores + bare batched forward passes on all cores), the way of computing
            being the engine's.
        engine: files in, vectors out.
        loop: one picture at a time, full decode, float32 as loaded, nothing overlapped; timed on `loop_crops` of them.
        cosine_min: least cosine of the engine's vectors to those of float32 as loaded, over branches and some crops.
        peak_mib: most memory that this process ever held, the networks included.
        stages: 'decode', 'forward', 'engine' and 'loop' -> seconds; the median over the rounds.
    """

    recipe: str
    crops: int
    batch: int
    plan: dict[str, str]
    floor: float
    engine: float
    loop: float
    loop_crops: int
    engine_vs_floor: float
    engine_vs_loop: float
    cosine_min: float
    peak_mib: float
    stages: dict[str, float]
    machine: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_speed(
    embedder: Embedder, jobs: Sequence[Job[int]], batch: int = 32, rounds: int = 3, loop_crops: int = 16
) -> SpeedReport:
    """Floor, engine and plain loop on the same pictures, in turns; ratios are medians over the rounds.

    Args:
        jobs: stored crops or pictures with a box; none of them may fail.

    Raises:
        ImageError, OSError: a picture cannot be read.
        ValueError: there are no jobs.
    """
    if not jobs:
        raise ValueError("no pictures to measure on were given")
    few = [load_crop(job) for job in evenly(jobs, _COMPARED)]
    cosine = cosine_to_plain(embedder, few)
    plain = PlainLoop(embedder)
    at_once = min(batch, embedder.limit.crops)
    on_device = batches_on_device(embedder, few, at_once)
    count = len(jobs)
    some = evenly(jobs, loop_crops)
    _run_engine(embedder, jobs[: 2 * batch], batch)
    plain.embed(some[0])
    took: dict[str, list[float]] = {name: [] for name in ("decode", "forward", "engine", "loop")}
    for _ in range(rounds):
        took["decode"].append(timed(lambda: _decode_all(jobs)))
        took["forward"].append(timed(lambda: _forward_all(embedder, on_device, count, at_once)))
        took["engine"].append(timed(lambda: _run_engine(embedder, jobs, batch)))
        took["loop"].append(timed(lambda: [plain.embed(job) for job in some]) * count / len(some))
    floors = [decode + forward for decode, forward in zip(took["decode"], took["forward"], strict=True)]
    engines, loops = took["engine"], took["loop"]
    return SpeedReport(
        recipe=embedder.recipe.id,
        crops=count,
        batch=batch,
        plan={key: str(choice) for key, choice in embedder.plan.items()},
        floor=count / statistics.median(floors),
        engine=count / statistics.median(engines),
        loop=count / statistics.median(loops),
        loop_crops=len(some),
        engine_vs_floor=statistics.median(f / e for f, e in zip(floors, engines, strict=True)),
        engine_vs_loop=statistics.median(one / e for one, e in zip(loops, engines, strict=True)),
        cosine_min=cosine,
        peak_mib=peak_mib(),
        stages={name: statistics.median(each) for name, each in took.items()},
        machine=circumstances(embedder),
    )


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most this many of the items, evenly spaced."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def batches_on_device(embedder: Embedder, crops: Sequence[Pixels], batch: int) -> dict[Preprocess, torch.Tensor]:
    """One batch of laid-out crops on the device for each layout, uint8 [batch, h, w, 3]; crops come round again."""
    return {
        spec: torch.from_numpy(np.resize(lay_out(crops, spec), (batch, spec.height, spec.width, 3))).to(embedder.device)
        for spec in embedder.layouts()
    }


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib() -> float:
    """Most memory that this process ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _decode_all(jobs: Sequence[Job[int]]) -> None:
    """Every picture decoded as small as its crop allows, on all cores, and nothing else."""
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(_decode, jobs):
            pass


def _decode(job: Job[int]) -> int:
    if job.box is not None and isinstance(job.source, Path):
        return open_for_crop(job.source, job.box, job.spec).width
    return decode_crop(job.source if isinstance(job.source, bytes) else job.source.read_bytes()).size


def _forward_all(embedder: Embedder, on_device: Mapping[Preprocess, torch.Tensor], count: int, batch: int) -> None:
    """The networks alone, over as many batches as the crops fill; the last one may be a part.

    Batches that do not fit beside the plain loop's networks are halved.
    """
    BatchLimit(batch).run(
        count, lambda start, end: forward(embedder, {spec: each[: end - start] for spec, each in on_device.items()})
    )
    finish(embedder.device)


def forward(embedder: Embedder, on_device: Mapping[Preprocess, torch.Tensor]) -> None:
    """The networks alone, by the plan in use, over a batch that lies on the device; the device is not waited for."""
    with precision(embedder.device):
        for key, choice in embedder.plan.items():
            runner = embedder.runner(key, choice)
            for spec in embedder.recipe.backbones[key].preprocess.each_view():
                runner(on_device[spec])


def _run_engine(embedder: Embedder, jobs: Sequence[Job[int]], batch: int) -> None:
    for made in embed_jobs(embedder, jobs, batch):
        if made.failed:
            raise made.failed[0][1]


def cosine_to_plain(embedder: Embedder, crops: Sequence[Pixels]) -> float:
    """Least cosine between the vectors of the plan in use and those of float32 as loaded."""
    used = embedder.embed(crops).vectors
    laid_out = {spec: lay_out(crops, spec) for spec in embedder.layouts()}
    plain: dict[str, NDArray[np.float32]] = {}
    for key in embedder.trunks:
        plain.update(plain_vectors(embedder, key, laid_out))
    return min(1.0, least_cosine(plain, used))


class PlainLoop:
    """What a user would write around the same networks: one picture after the other, nothing prepared."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.networks = {
            key: copy.deepcopy(trunk.network).to(memory_format=torch.contiguous_format).to(embedder.device)
            for key, trunk in embedder.trunks.items()
        }

    @torch.inference_mode()
    def embed(self, job: Job[int]) -> dict[str, NDArray[np.float32]]:
        recipe, device = self.embedder.recipe, self.embedder.device
        assert isinstance(job.source, Path)
        with Image.open(job.source) as image:
            pixels = np.asarray(image.convert("RGB"))
        crop = pixels if job.box is None else cut_crop(pixels, job.box, job.spec)
        vectors = {}
        for key, network in self.networks.items():
            seen: dict[str, list[torch.Tensor]] = {n: [] for n, b in recipe.branches.items() if b.backbone == key}
            for spec in recipe.backbones[key].preprocess.each_view():
                x = normalise(lay_out([crop], spec), spec, device).contiguous()
                pooled = pooled_taps(network, x, self.embedder.trunks[key].taps)
                for name, each in seen.items():
                    each.append(self.embedder.projector(name)(pooled))
            vectors.update({name: mean_direction(each).cpu().numpy() for name, each in seen.items()})
        return vectors
