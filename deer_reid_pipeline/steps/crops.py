"""`detection_crops`: the pixels of every detection as a file of the home, written once and read by every recipe."""

from __future__ import annotations

import hashlib
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
                if isinstance(outcome, str):
                    lost.append(outcome)
                else:
                    rows += outcome
            with site.database.session() as session:
                add_crops(session, rows)
            written += len(rows)
            done += len(batch)
            report("crops", done, len(pictures))
    return CropReport(written, len(jobs) - len(missing), tuple(lost))


def _cut(folder: Path, group: list[CropJob]) -> list[dict[str, Any]] | str:
    path = Path(group[0].path)
    try:
        boxes = [_shares(job, path) for job in group]
        crops = cut_crops(path, boxes, SPEC)
    except (ImageError, OSError) as error:
        return f"{path.name}: {error}"
    rows = []
    for job, content in zip(group, crops, strict=True):
        digest = hashlib.sha256(content).hexdigest()
        name = f"{SPEC.id}/{job.detection_id.hex[:2]}/{job.detection_id}.jpg"
        write_whole(folder / name, content)
        height, width = decode_crop(content).shape[:2]
        rows.append(
            {
                "detection_id": job.detection_id,
                "spec_id": SPEC.id,
                "file": name,
                "sha256": digest,
                "width": width,
                "height": height,
            }
        )
    return rows


def _shares(job: CropJob, path: Path) -> tuple[float, float, float, float]:
    """The box as shares; rows from before the enhancement have pixels, which need the picture's size."""
    if job.box[2] > 0:
        return job.box
    width, height = image_size(path)
    box = job.pixel_box
    return (box["x"] / width, box["y"] / height, box["width"] / width, box["height"] / height)
