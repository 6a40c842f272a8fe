"""Pictures and crops on their way into a package and out of it. A file is known by its sha256, never by its name."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import HandoverError
from deer_reid_pipeline.ingest.scan import PICTURE_SUFFIXES
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.crops import find_picture
from deer_reid_pipeline.steps.handover.camtrap import Copies, original_path, read_rows
from deer_reid_pipeline.steps.handover.package import COPY_COLUMNS, CROPS_FOLDER, MEDIA_FOLDER
from deer_reid_pipeline.steps.images import ascii_line, in_batches
from deer_reid_pipeline.store.drops import places_of
from deer_reid_pipeline.store.handover import CropFile, PictureRow, crop_files, move_drops, picture_rows
from deer_reid_pipeline.store.media import image_paths, move_images
from deer_reid_pipeline.vision.metadata import without_metadata
from deer_reid_pipeline.vision.model_files import sha256_of, write_whole

PICTURE, CROP = "picture", "crop"
BATCH = 64

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_FILES = {
    PICTURE: re.compile(rf"{MEDIA_FOLDER}/[0-9a-f]{{2}}/({_UUID})\.[a-z]{{3,4}}"),
    CROP: re.compile(rf"{CROPS_FOLDER}/[A-Za-z0-9_-]{{1,40}}/({_UUID})\.crop"),
}
_SPEC = re.compile(r"[A-Za-z0-9_-]{1,40}")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Copy:
    """A file of a package: what it is a copy of, its path in the package, and its sha256 there."""

    kind: str
    id: uuid.UUID
    file: str
    sha256: str


@dataclass
class CopyReport:
    """Files that came along, and pictures that did not, each with the reason."""

    copies: list[Copy] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def copy_files(session: Session, package: Path, crops_dir: Path, places: bool) -> CopyReport:
    """Copy all pictures and crops into a package.

    Args:
        places: copy pictures byte for byte; otherwise without metadata, as `without_metadata` does it.
    """
    result = CopyReport()

    def copied(row: PictureRow, known: Sequence[str]) -> Copy | str:
        path, reason = find_picture(known, row.sha256)
        if path is None:
            return reason
        try:
            content: bytes | None = path.read_bytes()
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        assert content is not None
        content = content if places else without_metadata(content)
        if content is None:
            return "only JPEG and PNG can be copied without their metadata; --with-coordinates copies it as it is"
        suffix = path.suffix.lower() if path.suffix.lower() in PICTURE_SUFFIXES else ".jpg"
        return _written(package, PICTURE, row.id, f"{MEDIA_FOLDER}/{row.id.hex[:2]}/{row.id}{suffix}", content)

    rows = list(picture_rows(session))
    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in in_batches(rows, BATCH):
            keys = [row.id for row in batch]
            paths, others = image_paths(session, keys), places_of(session, keys)
            known = [[paths[key], *others.get(key, [])] for key in keys]
            for row, outcome in zip(batch, pool.map(copied, batch, known), strict=True):
                if isinstance(outcome, Copy):
                    result.copies.append(outcome)
                else:
                    result.left_out.append((original_path(row), outcome))
            done += len(batch)
            report("pictures", done, len(rows))
        crops = crop_files(session)
        done = 0
        for part in in_batches(crops, BATCH):
            made = pool.map(lambda crop: _copied_crop(package, crops_dir, crop), part)
            result.copies += [copy for copy in made if copy is not None]
            done += len(part)
            report("crops", done, len(crops))
    return result


def _copied_crop(package: Path, crops_dir: Path, crop: CropFile) -> Copy | None:
    """A crop that is what was written; one that is not is cut again where it is needed, and does not come along."""
    if not _SPEC.fullmatch(crop.spec_id):
        return None
    try:
        content = (crops_dir / crop.file).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != crop.sha256:
        return None
    return _written(package, CROP, crop.detection_id, _crop_path(crop), content)


def _crop_path(crop: CropFile) -> str:
    return f"{CROPS_FOLDER}/{crop.spec_id}/{crop.detection_id}.crop"


def _written(package: Path, kind: str, key: uuid.UUID, file: str, content: bytes) -> Copy:
    path = package / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Copy(kind, key, file, hashlib.sha256(content).hexdigest())


def write_copies(copies: Iterable[Copy], target: IO[bytes]) -> None:
    """The table of the files that came along."""
    text = io.TextIOWrapper(target, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COPY_COLUMNS)
    writer.writerows((copy.kind, copy.id, copy.file, copy.sha256) for copy in copies)
    text.flush()
    text.detach()


def read_copies(source: IO[bytes]) -> list[Copy]:
    """The files that a package says it brings.

    Raises:
        HandoverError: one of them has a path that no export writes.
    """
    found = []
    for row in read_rows(source):
        pattern = _FILES.get(row["kind"])
        named = None if pattern is None else pattern.fullmatch(row["file"])
        if named is None or named.group(1) != row["id"]:
            raise HandoverError(
                f"the package names the file {ascii_line(row['file'])[:120]}, which no export writes: it was changed "
                "after it was written; have it exported again"
            )
        found.append(Copy(row["kind"], uuid.UUID(row["id"]), row["file"], row["sha256"]))
    return found


def check_copies(package: Path, copies: Sequence[Copy]) -> None:
    """Make sure that every file that came along is there and is what was written.

    Raises:
        HandoverError: names the first that is not.
    """
    root = package.resolve()

    def wrong(copy: Copy) -> str | None:
        path = root / copy.file
        try:
            if path.resolve() != path or not path.is_file():
                return "is missing"
            return None if sha256_of(path) == copy.sha256 else "is not the file that was written"
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in in_batches(copies, BATCH):
            for copy, said in zip(batch, pool.map(wrong, batch), strict=True):
                if said is not None:
                    raise HandoverError(f"{copy.file} {said}: copy the package again, whole")
            done += len(batch)
            report("checking", done, len(copies))


def as_copies(copies: Iterable[Copy]) -> Copies:
    """Picture -> its path in the package."""
    return {copy.id: copy.file for copy in copies if copy.kind == PICTURE}


@dataclass(frozen=True)
class Located:
    """Pictures whose file is known after an import, and those whose is not."""

    found: int
    missing: int


def locate_pictures(session: Session, package: Path, copies: Copies, media: Path | None) -> Located:
    """Note where the pictures are: in the package, else below `media`, as their drop had them, by sha256."""
    root = package.resolve()
    rows = list(picture_rows(session))
    moved = {row.id: str(root / copies[row.id]) for row in rows if row.id in copies}
    roots: dict[str, str] = {}
    wanted = [row for row in rows if row.id not in copies and media is not None]
    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in in_batches(wanted, BATCH):
            for row, path in zip(batch, pool.map(lambda row: _find_below(media, row), batch), strict=True):
                if path is None:
                    continue
                moved[row.id] = str(path)
                if row.drop_key is not None and row.file_path is not None:
                    roots.setdefault(row.drop_key, str(path)[: -len(row.file_path) - 1])
            done += len(batch)
            report("pictures", done, len(wanted))
    move_images(session, moved)
    move_drops(session, roots)
    return Located(len(moved), len(rows) - len(moved))


def _find_below(media: Path | None, row: PictureRow) -> Path | None:
    if media is None:
        return None
    root = media.resolve()
    names = [original_path(row)]
    if row.file_path is not None:
        names += [row.file_path, f"{row.drop_key}/{row.file_path}"]
    return find_picture([str(root / name) for name in names], row.sha256)[0]


def restore_crops(session: Session, package: Path, copies: Sequence[Copy], crops_dir: Path) -> Callable[[], None]:
    """Copy the crops that came along into the home; returns what takes them away again.

    Raises:
        HandoverError: a crop has no row, or its row names another file than this version writes.
    """
    rows = {_crop_path(crop): crop for crop in crop_files(session)}
    crops = [copy for copy in copies if copy.kind == CROP]
    made: list[Path] = []

    def undo() -> None:
        for path in made:
            with suppress(OSError):
                path.unlink()

    try:
        for number, copy in enumerate(crops, start=1):
            row = rows.get(copy.file)
            name = f"{row.spec_id}/{row.detection_id.hex[:2]}/{row.detection_id}.jpg" if row is not None else ""
            if row is None or row.file != name or row.sha256 != copy.sha256:
                raise HandoverError(f"{copy.file} belongs to no crop of the package: have it exported again")
            target = crops_dir / name
            if not target.exists():
                made.append(target)
            write_whole(target, (package / copy.file).read_bytes())
            if number % BATCH == 0 or number == len(crops):
                report("crops", number, len(crops))
    except BaseException:
        undo()
        raise
    return undo
