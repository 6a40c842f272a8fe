"""Crops small enough to stand in a page that is one file."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from sqlalchemy.orm import Session

from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.media import CropJob, crop_jobs
from deer_reid_pipeline.vision.crops import decode_crop
from deer_reid_pipeline.vision.decode import ImageError

LONGEST = 220
"""Longest side of a thumbnail, pixels."""


QUALITY = 70
"""Of the JPEG."""


@dataclass(frozen=True)
class Thumbnail:
    """A detection's picture.

    Attributes:
        file: name of its file, without folders.
        image: the crop as a data URI; "" where it cannot be shown.
        missing: why it cannot be shown.
    """

    file: str = ""
    image: str = ""
    missing: str = ""


GONE = Thumbnail(missing="this detection is no longer in the database")


def thumbnails(site: Site, session: Session, detections: Iterable[uuid.UUID]) -> dict[uuid.UUID, Thumbnail]:
    """The thumbnail of each detection; one that cannot be shown says why."""
    wanted = list(dict.fromkeys(detections))
    jobs = {job.detection_id: job for job in crop_jobs(session, site.crop_spec().id, detections=wanted)}
    return {key: _thumbnail(site, jobs.get(key)) for key in wanted}


def _thumbnail(site: Site, job: CropJob | None) -> Thumbnail:
    if job is None:
        return GONE
    file = PureWindowsPath(job.path).name  # splits at / and at \
    if job.crop_file is None:
        return Thumbnail(file, missing="no crop was stored")
    try:
        return Thumbnail(file, _small(site.settings.crops_dir / job.crop_file))
    except (ImageError, OSError):
        return Thumbnail(file, missing="the crop file is missing or damaged")


def _small(crop: Path) -> str:
    from PIL import Image

    image = Image.fromarray(decode_crop(crop))
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
