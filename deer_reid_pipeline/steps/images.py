"""`images`: every readable picture of a drop is stored once, by content; the others are quarantined."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.drops import with_zone
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.drops import (
    QuarantineRow,
    add_quarantine,
    add_warnings,
    get_drop,
    link_copies,
    link_images,
    media_with_image,
    media_without_image,
    pictures_of_other_drops,
    quarantine_of,
)
from deer_reid_pipeline.store.ids import image_id
from deer_reid_pipeline.store.media import add_images
from deer_reid_pipeline.store.models import DropMedia
from deer_reid_pipeline.vision.decode import ImageError, ImageInfo, inspect_image
from deer_reid_pipeline.vision.model_files import sha256_of

BATCH = 64

T = TypeVar("T")


@dataclass(frozen=True)
class ImageReport:
    """How many pictures were stored now, and how many were quarantined now."""

    stored: int
    quarantined: int


def in_batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def store_images(site: Site, drop_key: str) -> ImageReport:
    """Check and store the pictures of a registered drop, one transaction a batch.

    Raises:
        DropError: none of its files is a usable picture.
    """
    with site.database.session() as session:
        drop = get_drop(session, drop_key)
        assert drop is not None
        root = Path(drop.root)
        todo = media_without_image(session, drop_key)
    stored = quarantined = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in in_batches(todo, BATCH):
            looked = list(pool.map(lambda media: _look(root, media), batch))
            good = [(media, info) for media, info in zip(batch, looked, strict=True) if isinstance(info, ImageInfo)]
            bad = [info for info in looked if isinstance(info, QuarantineRow)]
            animated = [media.file_path for media, info in good if info.frames > 1]
            with site.database.session() as session:
                add_warnings(session, drop_key, [f"{f!a} is animated: its first frame was used" for f in animated])
                add_images(session, [_row(root, drop_key, media, info) for media, info in good])
                link_images(session, drop_key, [(media.file_path, image_id(media.sha256)) for media, _ in good])
                add_quarantine(session, drop_key, bad)
            stored += len(good)
            quarantined += len(bad)
            report("images", stored + quarantined, len(todo))
    with site.database.session() as session:
        link_copies(session, drop_key)
        if not media_with_image(session, drop_key):
            bad_files = quarantine_of(session, drop_key)
            first = "; ".join(f"{row.file}: {row.reason}" for row in bad_files[:3])
            raise DropError(f"the drop has no usable picture: {len(bad_files)} files or rows quarantined ({first})")
        known = pictures_of_other_drops(session, drop_key)
        if known:
            add_warnings(session, drop_key, [f"{known} pictures are known from earlier drops: what was decided stands"])
    return ImageReport(stored, quarantined)


def _look(root: Path, media: DropMedia) -> ImageInfo | QuarantineRow:
    path = root / media.file_path
    try:
        info = inspect_image(path)
        if sha256_of(path) != media.sha256:
            return QuarantineRow(media.file_path, "changed_file", "the file changed after the drop was sealed")
        return info
    except ImageError as error:
        return QuarantineRow(media.file_path, error.code, str(error))
    except OSError as error:
        return QuarantineRow(media.file_path, "unreadable", f"cannot be read: {error.strerror or error}")


def _row(root: Path, drop_key: str, media: DropMedia, info: ImageInfo) -> dict[str, object]:
    path = root / media.file_path
    return {
        "id": image_id(media.sha256),
        "filename": path.name[-255:],
        "path": str(path),
        "timestamp": media.timestamp or with_zone(info.timestamp),
        "sha256": media.sha256,
        "width": info.width,
        "height": info.height,
        "infrared": info.grey,
        "deployment_id": media.deployment_id,
        "event_id": media.event_id,
        "drop_key": drop_key,
    }
