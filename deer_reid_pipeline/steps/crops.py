"""`detection_crops`: the pixels of every detection as a file of the home, written once and read by every recipe."""

from __future__ import annotations

import hashlib
import math
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.drops import in_transaction
from deer_reid_pipeline.steps.images import ascii_line, from_the_disk, gone, in_batches, unreadable_now
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.drops import get_drop, places_of, quarantine_without_crop, release_cropped
from deer_reid_pipeline.store.media import CropJob, add_crops, crop_jobs, forget_crops, move_images
from deer_reid_pipeline.vision.crops import CropSpec, cut_crops, decode_crop
from deer_reid_pipeline.vision.decode import ImageError, image_size
from deer_reid_pipeline.vision.model_files import sha256_of, write_whole

Box = tuple[float, float, float, float]

BATCH = 64


@dataclass(frozen=True)
class CropReport:
    """Crops written now, crops that were there, and detections whose picture could not be read any more."""

    written: int
    present: int
    lost: tuple[str, ...]


@dataclass
class _Cut:
    """What came of cutting one picture: rows, a line for each crop that cannot be cut, and where it lay at last.

    `away` says instead that the picture cannot be read now, for a reason that is not its own.
    """

    image: uuid.UUID
    rows: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    without: list[uuid.UUID] = field(default_factory=list)
    moved_to: str | None = None
    away: DropError | None = None


@dataclass(frozen=True)
class _Search:
    """Where a picture was found, or why nowhere, with the places that could not be read."""

    path: Path | None
    reason: str
    unread: dict[str, OSError]


def store_crops(
    site: Site,
    *,
    drop_key: str | None = None,
    detections: Sequence[uuid.UUID] | None = None,
    spec: CropSpec | None = None,
) -> CropReport:
    """Cut the crops of a drop (or of these detections); a crop whose file is gone is cut again.

    Without `spec` they are those that matching reads.

    A detection whose crop cannot be made, because its picture is gone or is another one by now, is quarantined, so
    that the rest of its drop can go on; every later run tries again. Of detections that are given, a picture on a disk
    that is away counts as gone: drops that were processed may be moved away.

    Raises:
        DropError: a file of the drop cannot be read now (the disk, not the file); then what was cut before it is
            stored, and running again goes on.
    """
    spec = site.crop_spec() if spec is None else spec
    with site.database.session() as session:
        jobs = crop_jobs(session, spec.id, drop_key=drop_key, detections=detections)
        drop = None if drop_key is None else get_drop(session, drop_key)
    root = None if drop is None else drop.root
    folder = site.settings.crops_dir
    missing = [job for job in jobs if job.crop_file is None or not (folder / job.crop_file).is_file()]
    pictures = [list(group) for _, group in groupby(missing, key=lambda job: job.image_id)]
    written = 0
    lost: list[str] = []
    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in in_batches(pictures, BATCH):
            with site.database.session() as session:
                places = places_of(session, [group[0].image_id for group in batch])
            cut = pool.map(
                lambda group: _cut(folder, spec, group, places.get(group[0].image_id, []), root),  # noqa: B023
                batch,
            )
            outcomes = list(cut)
            in_transaction(site.database, lambda session: _note(session, spec, outcomes))  # noqa: B023
            for outcome in outcomes:
                if outcome.away is not None:
                    raise outcome.away
                written += len(outcome.rows)
                lost += outcome.lost
            done += len(batch)
            report("crops", done, len(pictures))
    return CropReport(written, len(jobs) - len(missing), tuple(lost))


def _note(session: Session, spec: CropSpec, outcomes: Sequence[_Cut]) -> None:
    outcomes = [outcome for outcome in outcomes if outcome.away is None]
    add_crops(session, [row for outcome in outcomes for row in outcome.rows])
    forget_crops(session, spec.id, [key for outcome in outcomes for key in outcome.without])
    move_images(session, {outcome.image: outcome.moved_to for outcome in outcomes if outcome.moved_to is not None})
    release_cropped(session, [outcome.image for outcome in outcomes if not outcome.lost])
    quarantine_without_crop(session, [(outcome.image, outcome.lost[0]) for outcome in outcomes if outcome.lost])


def _cut(folder: Path, spec: CropSpec, group: list[CropJob], places: Sequence[str], root: str | None) -> _Cut:
    """Cut the crops of one picture from where it was last, else from where a drop had it.

    Args:
        root: folder of the drop that is worked on; one of its files that cannot be read for now is not lost.
    """
    first = group[0]
    found = _search([first.path, *(place for place in places if place != first.path)], first.image_sha256)
    path = found.path
    if path is None:
        for place, error in found.unread.items():
            if root is not None and place.startswith(f"{root}/") and gone(Path(place), place) is None:
                return _Cut(first.image_id, away=unreadable_now(Path(place), error))
        line = ascii_line(f"{Path(first.path).name}: {found.reason}")
        return _Cut(first.image_id, lost=[line] * len(group), without=[job.detection_id for job in group])
    result = _Cut(first.image_id, moved_to=None if str(path) == first.path else str(path))
    placed: list[tuple[CropJob, Box]] = []
    try:
        for job in group:
            box = box_in_shares(job, path)
            if box is None:
                result.lost.append(ascii_line(f"{path.name}: detection {job.detection_id} has no box with an area"))
                result.without.append(job.detection_id)
            else:
                placed.append((job, box))
        crops = cut_crops(path, [box for _, box in placed], spec) if placed else []
    except (ImageError, OSError) as error:
        cause = from_the_disk(error) if isinstance(error, ImageError) else error
        if root is not None and cause is not None and gone(path, path.name) is None:
            return _Cut(first.image_id, away=unreadable_now(path, cause))
        lines = [*result.lost, *[ascii_line(f"{path.name}: {error}")] * (len(group) - len(result.lost))]
        return _Cut(first.image_id, lost=lines, without=[job.detection_id for job in group])
    result.rows = [_store(folder, spec, job, content) for (job, _), content in zip(placed, crops, strict=True)]
    return result


def find_picture(places: Sequence[str], sha256: str | None) -> tuple[Path | None, str]:
    """The first of these files that is the picture, or why none is. Without a sha256 the first that is there is it."""
    found = _search(places, sha256)
    return found.path, found.reason


def _search(places: Sequence[str], sha256: str | None) -> _Search:
    reason = ""
    unread: dict[str, OSError] = {}
    for place in places:
        try:
            if sha256 is None and Path(place).is_file():
                return _Search(Path(place), "", unread)
            if sha256 is not None and sha256_of(Path(place)) == sha256:
                return _Search(Path(place), "", unread)
            said = f"no file at {place}" if sha256 is None else f"another picture is at {place} by now"
        except OSError as error:
            said = f"the picture cannot be read from {place} ({error.strerror or error})"
            unread[place] = error
        reason = reason or said
    return _Search(None, f"{reason}; put it back and run again", unread)


def _store(folder: Path, spec: CropSpec, job: CropJob, content: bytes) -> dict[str, Any]:
    name = f"{spec.id}/{job.detection_id.hex[:2]}/{job.detection_id}.jpg"
    write_whole(folder / name, content)
    height, width = decode_crop(content).shape[:2]
    return {
        "detection_id": job.detection_id,
        "spec_id": spec.id,
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "width": width,
        "height": height,
    }


def box_in_shares(job: CropJob, path: Path) -> Box | None:
    """The box as shares of the picture, clipped to it; None when it has no area.

    Rows from before the enhancement have pixels, which need the picture's size.
    """
    x, y, width, height = job.box
    if width <= 0:
        pixels = [job.pixel_box.get(name) for name in ("x", "y", "width", "height")]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in pixels):
            return None
        across, down = image_size(path)
        x, y, width, height = (float(v or 0) / size for v, size in zip(pixels, (across, down) * 2, strict=True))
    left, top, right, bottom = max(0.0, x), max(0.0, y), min(1.0, x + width), min(1.0, y + height)
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None
