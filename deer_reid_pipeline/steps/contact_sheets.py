"""Contact sheets of crops, small enough to be kept with a run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.media import crop_jobs
from deer_reid_pipeline.vision.contact_sheet import contact_sheet
from deer_reid_pipeline.vision.crops import decode_crop
from deer_reid_pipeline.vision.decode import ImageError

MOST = 24

T = TypeVar("T")


@dataclass(frozen=True)
class SheetItem:
    """A detection and the short label under its crop."""

    detection_id: uuid.UUID
    label: str


def draw_sheet(site: Site, items: Sequence[SheetItem]) -> bytes | None:
    """A PNG of up to 24 evenly chosen crops; None when no crop is there."""
    chosen = evenly(items, MOST)
    with site.database.session() as session:
        files = {
            job.detection_id: job.crop_file
            for job in crop_jobs(session, site.crop_spec().id, detections=[i.detection_id for i in chosen])
        }
    crops, labels = [], []
    for item in chosen:
        name = files.get(item.detection_id)
        if name is None:
            continue
        try:
            crops.append(decode_crop(site.settings.crops_dir / name))
        except (ImageError, OSError):
            continue
        labels.append(item.label)
    return contact_sheet(crops, labels) if crops else None


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Up to `most` of the items in their order, the same distance apart give or take one, the first one included."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]
