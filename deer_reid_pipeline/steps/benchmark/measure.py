"""All figures of one benchmark, measured one after the other in one process. Writes no report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.steps.benchmark.config import ON_A_CARD_ABOVE, BenchmarkConfig
from deer_reid_pipeline.steps.benchmark.database import SearchTimes, search_times
from deer_reid_pipeline.steps.benchmark.machine import machine, other_work
from deer_reid_pipeline.steps.benchmark.pictures import PictureSet, picture_sets
from deer_reid_pipeline.steps.benchmark.scratch import scratch_folder
from deer_reid_pipeline.steps.benchmark.subject import Subject, subject
from deer_reid_pipeline.steps.site import Site, engine_options
from deer_reid_pipeline.store.benchmark import WriteTimes, server_versions, time_writes

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.embedder import Embedder
    from deer_reid_pipeline.vision.engine.loading import Job
    from deer_reid_pipeline.vision.engine.measuring import SpeedReport
    from deer_reid_pipeline.vision.engine.starting import Starts

Say = Callable[[str], None]

ALONE = 20
"""Detections that are taken from file to vectors one at a time."""

STAGED = 256
"""Crops on which the stages are timed apart: they are held in memory, where the engine streams."""


@dataclass(frozen=True)
class SetFigures:
    """What was measured on one set of pictures.

    Attributes:
        stages: stage -> seconds a crop, each alone on all cores.
        alone: seconds of single detections, from file to vectors with nothing else under way; median and slowest.
    """

    pictures: str
    name: str
    origin: str
    megapixels: float
    distinct: int
    speed: SpeedReport
    stages: dict[str, float]
    alone: tuple[float, float]

    @property
    def floor_seconds(self) -> float:
        """Seconds a crop that the floor takes."""
        return 1.0 / self.speed.floor

    @property
    def loop_seconds(self) -> float:
        """Seconds a crop that the plain loop takes."""
        return 1.0 / self.speed.loop


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        load: processes that wanted a core before it began, for each core.
        variants: branches compared -> seconds a crop of their forward passes and projections, in whole batches.
        batches: batch size -> seconds a crop of all of them; None: it does not fit the device.
        peak_mib: most memory that the process held until everything but the batch sizes was measured.
        device_peak_mib: most memory of the card that torch held until then; None without a card.
    """

    made_at: datetime
    seconds: float
    config: BenchmarkConfig
    subject: Subject
    device: str
    machine: dict[str, str]
    load: float
    sets: tuple[SetFigures, ...]
    variants: dict[str, float]
    batches: dict[int, float | None]
    starts: Starts | None
    writes: WriteTimes
    search: SearchTimes
    peak_mib: float
    device_peak_mib: float | None

    @property
    def slowest(self) -> SetFigures:
        """The set of pictures that the engine is slowest on."""
        return min(self.sets, key=lambda item: item.speed.engine)

    def sustained(self, of: SetFigures) -> float:
        """Pictures a second where each holds one animal: the engine, then writing, then matching, not overlapped."""
        writing = (self.writes.insert + self.writes.commit) / of.speed.batch
        return 1.0 / (1.0 / of.speed.engine + writing + self.search.median_ms / 1000)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the ratios first, each the worst over the sets of pictures."""
        return {
            "engine_vs_floor": min(item.speed.engine_vs_floor for item in self.sets),
            "engine_vs_loop": min(item.speed.engine_vs_loop for item in self.sets),
            "cosine_min": min(item.speed.cosine_min for item in self.sets),
            "crops_per_second": self.slowest.speed.engine,
            "pictures_per_second": min(self.sustained(item) for item in self.sets),
            "stages": _stages(self.slowest),
            "sets": [
                {
                    "name": item.name,
                    "pictures": item.pictures,
                    "origin": item.origin,
                    "megapixels": item.megapixels,
                    "distinct": item.distinct,
                    "speed": item.speed.to_json(),
                    "stages": _stages(item),
                    "one_detection_seconds": {"median": item.alone[0], "slowest": item.alone[1]},
                    "pictures_per_second": self.sustained(item),
                }
                for item in self.sets
            ],
            "variants": {name: self._compared(seconds) for name, seconds in self.variants.items()},
            "batches": {str(n): None if s is None else self._compared(s) for n, s in self.batches.items()},
            "starts": None if self.starts is None else asdict(self.starts),
            "database": {
                "write": {"batch": self.sets[0].speed.batch, **asdict(self.writes)},
                "search": asdict(self.search),
            },
            "memory": {"process_peak_mib": self.peak_mib, "device_peak_mib": self.device_peak_mib},
            "recipe": self.subject.recipe.id,
            "random_weights": self.subject.recipe.random_weights,
            "release": self.subject.release_id,
            "device": self.device,
            "machine": self.machine,
            "load_before": None if np.isnan(self.load) else self.load,
            "config": self.config.model_dump(mode="json"),
            "made_at": self.made_at.isoformat(),
            "seconds": self.seconds,
        }

    def _compared(self, seconds: float) -> dict[str, float]:
        """A time a crop beside the floor's and the loop's of the slowest set: how many times as fast."""
        of = self.slowest
        return {
            "milliseconds": 1000 * seconds,
            "crops_per_second": 1 / seconds,
            "vs_floor": of.floor_seconds / seconds,
            "vs_loop": of.loop_seconds / seconds,
        }


def _stages(of: SetFigures) -> dict[str, dict[str, float]]:
    """Stage -> milliseconds a crop, and that as a share of what the floor and the plain loop take for a crop."""
    every = {**of.stages, "end to end": 1.0 / of.speed.engine}
    return {
        stage: {
            "milliseconds": 1000 * seconds,
            "of_floor": seconds / of.floor_seconds,
            "of_loop": seconds / of.loop_seconds,
        }
        for stage, seconds in every.items()
    }


def run_benchmark(site: Site, config: BenchmarkConfig, say: Say) -> Benchmark:
    """Measure everything; takes minutes, and longer where the ways of computing were not measured here before.

    Raises:
        DatabaseError, RecipeError, WeightsError: the recipe cannot be used.
        DeerReidError: the home cannot be written to, or a new process could not compute.
    """
    from deer_reid_pipeline.vision.crops import encode_crop
    from deer_reid_pipeline.vision.engine.batches import DEFAULT
    from deer_reid_pipeline.vision.engine.choosing import circumstances
    from deer_reid_pipeline.vision.engine.loading import load_crop
    from deer_reid_pipeline.vision.engine.measuring import evenly, peak_mib
    from deer_reid_pipeline.vision.engine.settling import settle, use_kept
    from deer_reid_pipeline.vision.engine.stages import batch_seconds, device_peak_mib, variant_seconds
    from deer_reid_pipeline.vision.engine.starting import measure_starts

    load, begun, made_at = other_work(), time.perf_counter(), datetime.now(UTC)
    of = subject(site, config.recipe)
    embedder = site.embedder(of.recipe)
    options = engine_options(site.settings)
    if config.ahead:
        settle(embedder, site.settings.models_dir, options, config.ahead, say)
    else:
        use_kept(embedder, site.settings.models_dir, options, say)
    batch = max(site.settings.batch_size, embedder.limit.crops) if embedder.device.type == "cuda" else DEFAULT
    with scratch_folder(site.settings.home, "benchmark") as folder:
        sets = picture_sets(site, config, folder, say)
        parts = _Parts(len(sets) + 4)
        figures = []
        for item in sets:
            say(f"measuring on {item.describe()}")
            figures.append(_measure_set(embedder, item, config, batch))
            parts.done()
        crops = [load_crop(job) for job in evenly(sets[0].jobs, batch)]
        vectors = embedder.embed(crops).vectors
        writes = _writes(site, of, vectors)
        search = search_times(site, of, vectors)
        parts.done()
        starts = None
        if config.starts:
            say("measuring how long a new process takes to its first vector")
            plan = {key: asdict(choice) for key, choice in embedder.plan.items()}
            starts = measure_starts(
                of.recipe.to_json(),
                site.settings.weight_search_dirs,
                site.settings.models_dir,
                str(embedder.device),
                plan,
                encode_crop(crops[0]),
                config.rounds,
            )
        parts.done()
        variants = variant_seconds(embedder, crops, batch, config.rounds)
        peak, on_card = peak_mib(), device_peak_mib(embedder.device)
        parts.done()
        sizes = [size for size in config.batches if size <= ON_A_CARD_ABOVE or embedder.device.type == "cuda"]
        batches = batch_seconds(embedder, crops, sizes, config.rounds)
        parts.done()
    with site.database.session() as session:
        versions = server_versions(session)
    about = circumstances(embedder)
    return Benchmark(
        made_at=made_at,
        seconds=time.perf_counter() - begun,
        config=config,
        subject=of,
        device=about["device"],
        machine={**machine(about), **versions},
        load=load,
        sets=tuple(figures),
        variants=variants,
        batches=batches,
        starts=starts,
        writes=writes,
        search=search,
        peak_mib=peak,
        device_peak_mib=on_card,
    )


class _Parts:
    """Progress over the parts of a benchmark."""

    def __init__(self, total: int) -> None:
        self._count, self._total = 0, total
        report("benchmark", 0, total)

    def done(self) -> None:
        self._count += 1
        report("benchmark", self._count, self._total)


def _measure_set(embedder: Embedder, item: PictureSet, config: BenchmarkConfig, batch: int) -> SetFigures:
    from deer_reid_pipeline.vision.engine.measuring import evenly, measure_speed
    from deer_reid_pipeline.vision.engine.stages import stage_seconds

    speed = measure_speed(embedder, item.jobs, batch, config.rounds, config.loop_pictures)
    stages = stage_seconds(embedder, evenly(item.jobs, STAGED), batch)
    alone = _alone(embedder, evenly(item.jobs, ALONE))
    return SetFigures(item.describe(), item.name, item.origin, item.megapixels, item.distinct, speed, stages, alone)


def _alone(embedder: Embedder, jobs: Sequence[Job[int]]) -> tuple[float, float]:
    from deer_reid_pipeline.vision.engine.loading import load_crop

    took = []
    for job in jobs:
        start = time.perf_counter()
        embedder.embed([load_crop(job)])
        took.append(time.perf_counter() - start)
    return float(np.median(took)), max(took)


def _writes(site: Site, of: Subject, vectors: dict[str, FloatArray]) -> WriteTimes:
    site.database.ensure_alive()
    return time_writes(site.database, of.recipe.id, vectors)
