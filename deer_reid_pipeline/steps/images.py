"""`images`: every readable picture of a drop is stored once, by content; the others are quarantined."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest.wording import NAME_LIMIT, printable
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.drops import in_transaction, with_zone
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.drops import (
    MISSING_FILE,
    TRIED_AGAIN,
    QuarantineRow,
    add_quarantine,
    add_warnings,
    get_drop,
    has_images,
    link_copies,
    link_images,
    link_known,
    media_with_image,
    media_without_image,
    pictures_of_other_drops,
    quarantine_of,
    remove_quarantine,
)
from deer_reid_pipeline.store.ids import image_id
from deer_reid_pipeline.store.media import add_images, image_paths, move_images
from deer_reid_pipeline.store.models import DropMedia
from deer_reid_pipeline.vision.decode import ImageError, ImageInfo, inspect_image
from deer_reid_pipeline.vision.model_files import sha256_of

BATCH = 64
_LINE_LIMIT = 5000

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


def ascii_line(text: object) -> str:
    """A text with names in it as one line that every log and terminal can show."""
    return printable(" ".join(str(text).split()), _LINE_LIMIT)


def store_images(site: Site, drop_key: str) -> ImageReport:
    """Check and store the pictures of a registered drop, one transaction a batch.

    Pictures that an earlier drop brought are not read again.

    Raises:
        DropError: none of its files is a usable picture, or a file cannot be read now (the disk, not the file); then
            what was read before it is stored, and running again goes on.
    """
    in_transaction(site.database, lambda session: link_known(session, drop_key))
    with site.database.session() as session:
        drop = get_drop(session, drop_key)
        assert drop is not None
        root = Path(drop.root)
        _follow_moved(session, root, drop_key)
        todo = media_without_image(session, drop_key)
    stored = quarantined = 0
    animated: list[str] = []
    told: str | None = None
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in in_batches(todo, BATCH):
            looked = list(pool.map(lambda media: _look(root, media), batch))
            good = [(media, info) for media, info in zip(batch, looked, strict=True) if isinstance(info, ImageInfo)]
            bad = [info for info in looked if isinstance(info, QuarantineRow)]
            animated += [media.file_path for media, info in good if info.frames > 1]
            line = _animated_line(animated)
            in_transaction(site.database, lambda session: _store(session, root, drop_key, good, bad, line, told))  # noqa: B023
            told = line
            for failure in looked:
                if isinstance(failure, DropError):
                    raise failure
            stored += len(good)
            quarantined += len(bad)
            report("images", stored + quarantined, len(todo))
    with site.database.session() as session:
        link_copies(session, drop_key)
        if not has_images(session, drop_key):
            bad_files = quarantine_of(session, drop_key)
            first = "; ".join(row.reason for row in bad_files[:3])
            more = f"; {len(bad_files) - 3} more are in its quarantine" if len(bad_files) > 3 else ""
            raise DropError(f"the drop has no usable picture: {first}{more}; send whole copies")
        known = pictures_of_other_drops(session, drop_key)
        if known:
            add_warnings(session, drop_key, [f"{known} pictures are known from earlier drops: what was decided stands"])
    return ImageReport(stored, quarantined)


def _follow_moved(session: Session, root: Path, drop_key: str) -> None:
    """Known pictures that are no longer where they were are where this drop has them."""
    moved = {
        image.id: str(root / media.file_path)
        for media, image in reversed(media_with_image(session, drop_key))
        if not Path(image.path).is_file() and (root / media.file_path).is_file()
    }
    move_images(session, moved)


def _animated_line(files: Sequence[str]) -> str | None:
    if not files:
        return None
    if len(files) == 1:
        return f"{files[0]!a} is animated: its first frame was used"
    return f"{len(files)} pictures are animated (first: {files[0]!a}): the first frame of each was used"


def _store(
    session: Session,
    root: Path,
    drop_key: str,
    good: Sequence[tuple[DropMedia, ImageInfo]],
    bad: Sequence[QuarantineRow],
    warning: str | None,
    instead_of: str | None,
) -> None:
    ids = add_images(session, [_row(root, drop_key, media, info) for media, info in good])
    places = {ids[media.sha256]: str(root / media.file_path) for media, _ in good}
    before = image_paths(session, list(places))
    move_images(session, {key: place for key, place in places.items() if not Path(before[key]).is_file()})
    link_images(session, drop_key, [(media.file_path, ids[media.sha256]) for media, _ in good])
    remove_quarantine(session, drop_key, [media.file_path for media, _ in good], TRIED_AGAIN)
    add_quarantine(session, drop_key, bad)
    add_warnings(session, drop_key, [warning] if warning else [], instead_of=instead_of)


def _look(root: Path, media: DropMedia) -> ImageInfo | QuarantineRow | DropError:
    """What a file is: a picture, one for the quarantine, or unreadable now for a reason that is not its own."""
    path = root / media.file_path
    try:
        info = inspect_image(path)
        if sha256_of(path) != media.sha256:
            return QuarantineRow(media.file_path, "changed_file", "the file changed after the drop was sealed")
        return info
    except ImageError as error:
        cause = from_the_disk(error)
        if cause is not None:
            return unreadable_now(path, cause)
        return QuarantineRow(media.file_path, error.code, printable(str(error), NAME_LIMIT))
    except OSError as error:
        return gone(path, media.file_path) or unreadable_now(path, error)


def from_the_disk(error: ImageError) -> OSError | None:
    """The failure to read behind a failure to decode; None where the content is to blame.

    Pillow's complaints about content are OSErrors without a number, but for seeking to where no file can reach.
    """
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL, errno.EOVERFLOW):
        return cause
    return None


def gone(path: Path, file_path: str) -> QuarantineRow | None:
    """A quarantine row for a file that is no longer in its folder; None where it, or the folder, cannot be read."""
    try:
        if path.parent.is_dir():
            path.lstat()
    except FileNotFoundError:
        return QuarantineRow(file_path, MISSING_FILE, "it is no longer in its folder; once it is, run again")
    except OSError:
        return None
    return None


def unreadable_now(path: Path, error: OSError) -> DropError:
    """One line: which file cannot be read, and what to do."""
    reason = error.strerror or type(error).__name__
    return DropError(
        ascii_line(f"{path} cannot be read now ({reason}): mount the disk, or make the file readable, and run again; ")
        + " it goes on where it stopped"
    )


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
