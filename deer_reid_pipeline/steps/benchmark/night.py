"""A night's work in a home of its own: pictures are drawn, and what processing them took is reported.

Who processes them is the caller's affair, because that is a Dagster job. Nothing of it touches the home's own data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.sample.herd import HerdSummary, draw_herd
from deer_reid_pipeline.sample.plan import make_plan
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.benchmark.config import NIGHT
from deer_reid_pipeline.steps.benchmark.criteria import FEWEST_SUSTAINED, NIGHT_HOURS, overnight, throughput
from deer_reid_pipeline.steps.benchmark.files import PAGE, write_report
from deer_reid_pipeline.steps.benchmark.machine import BUSY, machine
from deer_reid_pipeline.steps.benchmark.pictures import boxes_of
from deer_reid_pipeline.steps.benchmark.plots import steps_plot
from deer_reid_pipeline.steps.benchmark.tables import Table, criteria_table, machine_table
from deer_reid_pipeline.steps.checks import vector_counts
from deer_reid_pipeline.steps.owner_criteria import Criterion
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import describe_drop, summarize

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.engine.measuring import SpeedReport

SEED = 11
INDIVIDUALS = 165
ENCOUNTERS_A_PICTURE = 0.47
COMPARED = 64
"""Pictures of the night on which floor and plain loop are measured afterwards."""


@dataclass(frozen=True)
class Night:
    """What processing a drop of drawn pictures took.

    Attributes:
        asked: pictures that were asked for; `images`: those that the database holds afterwards.
        seconds: from the sealed folder to the last profile, the start of everything included; drawing is not.
        steps: step -> seconds, in order; what is not in a step is the start of the run.
        failures: whatever did not go as it should, in words.
        speed: of the engine on some of the pictures, afterwards.
    """

    made_at: datetime
    asked: int
    drawn: HerdSummary
    size: tuple[int, int]
    drawing: float
    recipe_id: str
    images: int
    detections: int
    encounters: int
    individuals: int
    seconds: float
    steps: dict[str, float]
    failures: tuple[str, ...]
    speed: SpeedReport
    peak_mib: float
    load: float
    machine: dict[str, str]

    @property
    def pictures_a_second(self) -> float:
        return self.images / self.seconds

    @property
    def capacity(self) -> float:
        """Pictures in 8 hours at this rate."""
        return self.pictures_a_second * 3600 * NIGHT_HOURS

    @property
    def sentence(self) -> str:
        """The result in words."""
        slowest = max(self.steps, key=lambda step: self.steps[step])
        share = self.steps[slowest] / self.seconds
        went = "without a failure" if not self.failures else f"with {len(self.failures)} failures"
        rate = f"{self.images:,} pictures {went}: {self.pictures_a_second:.2f} pictures a second"
        most = f"{share:.0%} of the time went into {slowest}."
        if self.images < FEWEST_SUSTAINED:
            return f"{rate}, start-up included: too few to say anything of a night. {most}"
        met = "exceeds" if self.capacity > NIGHT else f"misses by {NIGHT - self.capacity:,.0f}"
        projected = f"projected to {NIGHT_HOURS} hours {self.capacity:,.0f}"
        return f"{rate}, {projected}, which {met} the {NIGHT:,} that are wanted. {most}"

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """The owner's criteria that a night measures."""
        width, height = self.size
        detail = f"{self.images:,} drawn pictures of {width} x {height} pixels, everything included but drawing"
        return throughput(self.pictures_a_second, detail, self.images), overnight(self.images, len(self.failures))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        detections = self.detections / self.seconds
        return {
            "asked": self.asked,
            "pictures": self.drawn.pictures,
            "processed": self.images,
            "detections": self.detections,
            "encounters": self.encounters,
            "individuals": self.individuals,
            "failures": list(self.failures),
            "seconds": self.seconds,
            "drawing_seconds": self.drawing,
            "pictures_per_second": self.pictures_a_second,
            "capacity_8_hours": self.capacity,
            "wanted": NIGHT,
            "missed_by": max(0.0, NIGHT - self.capacity),
            "steps": self.steps,
            "crops_per_second": detections,
            "night_vs_floor": detections / self.speed.floor,
            "night_vs_loop": detections / self.speed.loop,
            "engine_vs_floor": self.speed.engine_vs_floor,
            "engine_vs_loop": self.speed.engine_vs_loop,
            "cosine_min": self.speed.cosine_min,
            "speed": self.speed.to_json(),
            "memory": {"process_peak_mib": self.peak_mib},
            "in_words": self.sentence,
            "owner": [item.as_dict() for item in self.criteria],
            "recipe": self.recipe_id,
            "device": self.machine["device"],
            "machine": self.machine,
            "load_before": None if math.isnan(self.load) else self.load,
            "made_at": self.made_at.isoformat(),
        }


def draw_night(folder: Path, pictures: int, size: tuple[int, int]) -> HerdSummary:
    """Draw at least this many pictures, as a drop with boxes in its table."""
    encounters = math.ceil(pictures * ENCOUNTERS_A_PICTURE)
    individuals = min(INDIVIDUALS, max(2, encounters // 4))
    while sum(len(event.frames) for event in make_plan(individuals, encounters, SEED, 0.5).events) < pictures:
        encounters = math.ceil(encounters * 1.02) + 1
    return draw_herd(
        folder,
        individuals=individuals,
        encounters=encounters,
        seed=SEED,
        size=size,
        progress=lambda done, total: report("drawing", done, total),
    )


@contextmanager
def own_home(settings: Settings, folder: Path, recipe: str) -> Iterator[None]:
    """Let everything in this process work in `folder` during the block, with the weights and models of the real home.

    Args:
        recipe: a built-in one.
    """
    weights = settings.weights_dir or settings.home / "weights"
    for name, target in (("models", settings.models_dir), ("weights", settings.home / "weights")):
        target.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target, target_is_directory=True)
    values = {
        "DEER_REID_HOME": str(folder),
        "DAGSTER_HOME": str(folder / "dagster"),
        "DATABASE_URL": "",  # set and empty, because a .env file may have one
        "DEER_REID_DAGSTER_DATABASE_URL": "",
        "DEER_REID_RECIPE": recipe,
        "DEER_REID_WEIGHTS_DIR": str(weights),
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Processed:
    """How the job over a drop ended; `error` is None where it succeeded."""

    drop_key: str
    error: str | None
    seconds: float
    steps: dict[str, float]


def night_of(
    site: Site,
    processed: Processed,
    *,
    made_at: datetime,
    asked: int,
    drawn: HerdSummary,
    size: tuple[int, int],
    drawing: float,
    load: float,
) -> Night:
    """Look at what is stored of a processed drop, and measure floor and loop on some of its pictures.

    Args:
        site: the home that it was processed in.
    """
    from deer_reid_pipeline.vision.engine.choosing import circumstances
    from deer_reid_pipeline.vision.engine.loading import Job
    from deer_reid_pipeline.vision.engine.measuring import evenly, measure_speed, peak_mib

    peak = peak_mib()
    matcher = site.matcher()
    summary = summarize(site, processed.drop_key)
    embedder = site.embedder(matcher.recipe)
    some = evenly(boxes_of(drawn.folder), COMPARED)
    jobs = [Job(number, path, box) for number, (path, box) in enumerate(some)]
    return Night(
        made_at=made_at,
        asked=asked,
        drawn=drawn,
        size=size,
        drawing=drawing,
        recipe_id=matcher.recipe.id,
        images=summary.images,
        detections=summary.detections,
        encounters=summary.encounters,
        individuals=summary.individuals,
        seconds=processed.seconds,
        steps=processed.steps,
        failures=tuple(_failures(site, matcher.recipe.id, processed, drawn)),
        speed=measure_speed(embedder, jobs, rounds=1),
        peak_mib=peak,
        load=load,
        machine=machine(circumstances(embedder)),
    )


def write_night(home: Path, night: Night) -> dict[str, Any]:
    """Write the report into the home; returns its figures with the place of the page.

    Raises:
        DeerReidError: it cannot be written.
    """
    found = night.to_json()
    notes = [f"Failure: {line}" for line in night.failures]
    if night.load > BUSY:
        notes.append(f"The machine had other work: {night.load:.1f} processes wanted each core. Figures are too low.")
    folder = write_report(
        home,
        "benchmark",
        title="A night",
        headline=night.sentence,
        warnings=notes,
        found=found,
        made=[criteria_table(night.criteria), _steps(night), _compared(night), machine_table(night.machine)],
        plot=steps_plot(night.steps),
        made_at=night.made_at,
        recipe_id=f"night-{night.recipe_id}",
    )
    return {**found, "report": str(folder / PAGE)}


def _failures(site: Site, recipe_id: str, processed: Processed, drawn: HerdSummary) -> Iterator[str]:
    if processed.error is not None:
        yield f"the job failed: {processed.error}"
    about, summary = describe_drop(site, processed.drop_key), summarize(site, processed.drop_key)
    for row in about.quarantined:
        yield f"{row.file} was quarantined: {row.reason}"
    for what, found, wanted in (
        ("pictures are stored", summary.images, drawn.pictures),
        ("detections are stored", summary.detections, drawn.detections),
        ("encounters are decided", summary.matched + summary.new + summary.uncertain, summary.encounters),
        *(
            (f"{branch} vectors are stored", count, drawn.detections)
            for branch, count in vector_counts(site, recipe_id).items()
        ),
    ):
        if found != wanted:
            yield f"{found:,} {what}, {wanted:,} should be"


def _steps(night: Night) -> Table:
    known = sum(night.steps.values())
    rows = [*night.steps.items(), ("between the steps", night.seconds - known), ("altogether", night.seconds)]
    return Table(
        "Where the time goes",
        "Each step of the job over the whole drop, one after the other.",
        ("step", "seconds", "share", "ms a picture"),
        tuple(
            (step, f"{took:.1f}", f"{took / night.seconds:.1%}", f"{1000 * took / max(night.images, 1):.2f}")
            for step, took in rows
        ),
    )


def _compared(night: Night) -> Table:
    speed = night.speed
    rate = night.detections / night.seconds
    rows = (
        ("the whole job", rate),
        ("the engine, files in and vectors out", speed.engine),
        ("the floor", speed.floor),
        ("the plain loop", speed.loop),
    )
    return Table(
        "Beside the floor and the plain loop",
        f"Crops a second; all but the first measured on {speed.crops} of the pictures afterwards.",
        ("what", "crops/s", "of the floor", "of the loop"),
        tuple(
            (name, f"{value:.2f}", f"{value / speed.floor:.2f} times", f"{value / speed.loop:.1f} times")
            for name, value in rows
        ),
    )
