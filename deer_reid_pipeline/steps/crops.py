"""`detection_crops`: the pixels of every detection as a file of the home, written once and read by every recipe."""

from __future__ import annotations

import hashlib
import math
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.images import in_batches
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.media import CropJob, add_crops, crop_jobs
from deer_reid_pipeline.vision.crops import CropSpec, cut_crops, decode_crop
from deer_reid_pipeline.vision.decode import ImageError, image_size
from deer_reid_pipeline.vision.model_files import write_whole

Box = tuple[float, float, float, float]

BATCH = 64
SPEC = CropSpec()


@dataclass(frozen=True)
class CropReport:
    """Crops written now, crops that were there, and detections whose picture could not be read any more."""

    written: int
    present: int
    lost: tuple[str, ...]


def store_crops(
    site: Site, *, drop_key: str | None = None, detections: Sequence[uuid.UUID] | None = None
) -> CropReport:
    """Cut the crops of a drop (or of these detections); a crop whose file is gone is cut again."""
    with site.database.session() as session:
        jobs = crop_jobs(session, SPEC.id, drop_key=drop_key, detections=detections)
    folder = site.settings.crops_dir
    missing = [job for job in jobs if job.crop_file is None or not (folder / job.crop_file).is_file()]
    pictures = [list(group) for _, group in groupby(missing, key=lambda job: job.image_id)]
    written = 0
    lost: list[str] = []
    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in in_batches(pictures, BATCH):
            rows: list[dict[str, Any]] = []
            for outcome in pool.map(lambda group: _cut(folder, group), batch):
                rows += outcome[0]
                lost += outcome[1]
            with site.database.session() as session:
                add_crops(session, rows)
            written += len(rows)
            done += len(batch)
            report("crops", done, len(pictures))
    return CropReport(written, len(jobs) - len(missing), tuple(lost))


def _cut(folder: Path, group: list[CropJob]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the crops of one picture, and a line for each that cannot be cut."""
    path = Path(group[0].path)
    placed: list[tuple[CropJob, Box]] = []
    lost: list[str] = []
    try:
        for job in group:
            box = _shares(job, path)
            if box is None:
                lost.append(f"{path.name}: detection {job.detection_id} has no box with an area")
            else:
                placed.append((job, box))
        crops = cut_crops(path, [box for _, box in placed], SPEC) if placed else []
    except (ImageError, OSError) as error:
        return [], [*lost, f"{path.name}: {error}"]
    return [_store(folder, job, content) for (job, _), content in zip(placed, crops, strict=True)], lost


def _store(folder: Path, job: CropJob, content: bytes) -> dict[str, Any]:
    name = f"{SPEC.id}/{job.detection_id.hex[:2]}/{job.detection_id}.jpg"
    write_whole(folder / name, content)
    height, width = decode_crop(content).shape[:2]
    return {
        "detection_id": job.detection_id,
        "spec_id": SPEC.id,
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "width": width,
        "height": height,
    }


def _shares(job: CropJob, path: Path) -> Box | None:
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
