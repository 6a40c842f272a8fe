"""Pairs of crops that the matcher got most wrong, as thumbnails for the report."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath

from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.steps.crops import SPEC
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.media import CropJob, crop_jobs
from deer_reid_pipeline.vision.crops import decode_crop
from deer_reid_pipeline.vision.decode import ImageError

SIDE = 220
"""Longest side of a thumbnail, pixels."""
QUALITY = 70

DETAILS = ("light", "sex", "camera")
"""Strata named in a caption, beside the viewpoint."""

ScoredPair = tuple[int, int, float]
"""Two rows of `Labelled` and their similarity."""


@dataclass(frozen=True)
class Shot:
    """One picture of a pair.

    Attributes:
        name: the animal that it shows, as a person said.
        image: the thumbnail as a data URI; "" where it cannot be shown.
        missing: why it cannot be shown.
        details: flank, light, camera, as far as they are known.
    """

    name: str
    file: str
    details: str
    image: str = ""
    missing: str = ""


@dataclass(frozen=True)
class PicturePair:
    """Two pictures and the similarity that the matcher gave them."""

    left: Shot
    right: Shot
    score: float


def picture_pairs(site: Site, labelled: Labelled, pairs: Sequence[ScoredPair]) -> tuple[PicturePair, ...]:
    """Thumbnails and captions of these pairs. A crop whose file is gone becomes a pair member without picture."""
    rows = sorted({row for first, second, _ in pairs for row in (first, second)})
    keys = {row: key for row in rows if isinstance(key := labelled.keys[row], uuid.UUID)}
    with site.database.session() as session:
        jobs = {job.detection_id: job for job in crop_jobs(session, SPEC.id, detections=list(keys.values()))}
    shots = {row: _shot(site, labelled, row, jobs.get(keys[row]) if row in keys else None) for row in rows}
    return tuple(PicturePair(shots[first], shots[second], score) for first, second, score in pairs)


def _shot(site: Site, labelled: Labelled, row: int, job: CropJob | None) -> Shot:
    known = [labelled.viewpoints[row], *(labelled.strata[name][row] for name in DETAILS if name in labelled.strata)]
    name = labelled.names[int(labelled.individual[row])]
    details = ", ".join(dict.fromkeys(str(value) for value in known if value))
    if job is None:
        return Shot(name, "", details, missing="this detection is no longer in the database")
    file = PureWindowsPath(job.path).name  # splits at / and at \
    if job.crop_file is None:
        return Shot(name, file, details, missing="no crop was stored")
    try:
        return Shot(name, file, details, image=_thumbnail(site.settings.crops_dir / job.crop_file))
    except (ImageError, OSError):
        return Shot(name, file, details, missing="the crop file is missing or damaged")


def _thumbnail(path: object) -> str:
    from PIL import Image

    image = Image.fromarray(decode_crop(str(path)))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
