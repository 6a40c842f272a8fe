"""The pictures that are measured on: the home's own, evenly spaced, or drawn ones of the sizes asked for."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.sample.herd import draw_herd
from deer_reid_pipeline.sample.tables import TRUTH
from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig
from deer_reid_pipeline.steps.crops import box_in_shares
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.benchmark import evenly_spaced_detections
from deer_reid_pipeline.vision.crops import Box
from deer_reid_pipeline.vision.decode import ImageError, image_size, open_upright
from deer_reid_pipeline.vision.engine.loading import Job

HOME, DRAWN = "home", "drawn"

SEED = 5
DRAWN_PIXELS = 200e6
"""Pixels that are drawn of each size, between the fewest and the most pictures: drawing takes longer than reading."""
FEWEST, MOST = 6, 40


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one kind, each with the box of one animal.

    Attributes:
        origin: 'home' or 'drawn'.
        distinct: different picture files; with fewer than jobs, files come round again.
        megapixels: of the pictures, the median.
        left_out: detections of the home that were drawn for this and whose picture cannot be read where it was.
    """

    name: str
    origin: str
    jobs: tuple[Job[int], ...]
    distinct: int
    megapixels: float
    left_out: int = 0

    def describe(self) -> str:
        """One line for a report."""
        what = "drawn pictures" if self.origin == DRAWN else "pictures of this home"
        again = "" if self.distinct >= len(self.jobs) else f", {self.distinct} files in turns"
        lost = f"; {self.left_out} more could not be read where they were" if self.left_out else ""
        return f"{len(self.jobs)} animals in {what} of {self.megapixels:.1f} megapixels{again}{lost}"


def picture_sets(
    site: Site, config: BenchmarkConfig, folder: Path, say: Callable[[str], None]
) -> tuple[PictureSet, ...]:
    """The home's pictures as one set; where there are none to read, or drawn ones are asked for, a set of each size.

    Args:
        folder: an empty one, where drawn pictures are written.
    """
    if not config.drawn:
        own = _own(site, config.pictures)
        if own is not None:
            return (own,)
        say("this home has no pictures that can be read: measuring on drawn ones")
    return tuple(_drawn(folder / f"herd-{size:g}", size, config.pictures) for size in config.megapixels)


def size_of(megapixels: float) -> tuple[int, int]:
    """Width and height, 4 to 3, the width a multiple of 16 pixels and 160 at least."""
    width = max(160, 16 * round(math.sqrt(megapixels * 1e6 * 4 / 3) / 16))
    return width, width * 3 // 4


def _own(site: Site, most: int) -> PictureSet | None:
    spec = site.crop_spec()
    with site.database.session() as session:
        found = evenly_spaced_detections(session, spec.id, most)
    jobs: list[Job[int]] = []
    sizes: list[float] = []
    for crop in found:
        path = Path(crop.path)
        try:
            box = box_in_shares(crop, path)
            if box is None:
                continue
            width, height = image_size(path)
            open_upright(path, 64)
        except (ImageError, OSError):
            continue
        jobs.append(Job(len(jobs), path, box, spec=spec))
        sizes.append(width * height / 1e6)
    if not jobs:
        return None
    distinct = len({job.source for job in jobs})
    return PictureSet("own", HOME, tuple(jobs), distinct, statistics.median(sizes), len(found) - len(jobs))


def _drawn(folder: Path, megapixels: float, count: int) -> PictureSet:
    size = size_of(megapixels)
    wanted = min(count, MOST, max(FEWEST, int(DRAWN_PIXELS / (size[0] * size[1]))))
    # About two and a half pictures an encounter are drawn.
    draw_herd(
        folder,
        individuals=8,
        encounters=max(1, wanted * 2 // 5),
        seed=SEED,
        size=size,
        progress=lambda done, total: report("drawing", done, total),
    )
    boxes = boxes_of(folder)
    jobs = tuple(Job(number, *boxes[number % len(boxes)]) for number in range(count))
    distinct = len({job.source for job in jobs})
    return PictureSet(f"{size[0]} x {size[1]}", DRAWN, jobs, distinct, size[0] * size[1] / 1e6)


def boxes_of(folder: Path) -> Sequence[tuple[Path, Box]]:
    """File and box of the first animal of every picture of a drawn herd."""
    first: dict[Path, Box] = {}
    with (folder / TRUTH).open(encoding="ascii", newline="") as stream:
        for row in csv.DictReader(stream):
            box = (float(row["bboxX"]), float(row["bboxY"]), float(row["bboxWidth"]), float(row["bboxHeight"]))
            first.setdefault(folder / row["filePath"], box)
    return list(first.items())
