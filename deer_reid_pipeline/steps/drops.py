"""Sealing a folder as a drop and reading what it says, before any picture is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from deer_reid_pipeline.ingest import DropContents, SealedDrop, read_drop, seal_drop
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.deployments import Place, put_deployments
from deer_reid_pipeline.store.drops import QuarantineRow, add_drop, find_again, get_drop, media_with_image
from deer_reid_pipeline.store.media import move_images
from deer_reid_pipeline.vision.model_files import sha256_of

T = TypeVar("T")

_DEADLOCK = "40P01"


def in_transaction(database: Database, work: Callable[[Session], T]) -> T:
    """Do the work in one transaction, and once more where the database ended it to break a deadlock."""
    try:
        with database.session() as session:
            return work(session)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != _DEADLOCK:
            raise
    with database.session() as session:
        return work(session)


def with_zone(moment: datetime | None) -> datetime | None:
    """Camera clocks have no zone; their reading is kept as it is, marked UTC."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def register_drop(site: Site, folder: Path, detector: str) -> SealedDrop:
    """Seal a folder and store its media rows and quarantine. The same content registers once.

    Args:
        detector: who finds boxes where the drop has none; part of the drop's key unless it is "auto".

    Raises:
        DropError: the folder cannot be used as a drop.
    """
    sealed = seal_folder(site, folder, detector)
    register_sealed(site, sealed, detector)
    return sealed


def seal_folder(
    site: Site, folder: Path, detector: str, known_hashes: Mapping[tuple[str, int, int], str] | None = None
) -> SealedDrop:
    """Seal a folder and store nothing; see `seal_drop` for `known_hashes`.

    Raises:
        DropError: the folder cannot be used as a drop.
    """
    return seal_drop(
        folder,
        tag=_tag(site, detector),
        known_hashes=known_hashes,
        progress=lambda done, total: report("sealing", done, total),
    )


def register_sealed(site: Site, sealed: SealedDrop, detector: str) -> None:
    """Store the media rows and the quarantine of a sealed drop. One that is known is noted to be where it is now.

    Raises:
        DropError: nothing in it can be used, or it is not what was sealed.
    """
    with site.database.session() as session:
        known = get_drop(session, sealed.key) is not None
    if known:
        in_transaction(site.database, lambda session: _find_again(session, sealed))
        return
    contents = read_drop(sealed, min_confidence=site.settings.min_confidence)
    hashes = {file.rel: file.sha256 for file in sealed.files}
    media = [
        {
            "file_path": item.file_path,
            "sha256": hashes[item.file_path],
            "ordinal": position,
            "timestamp": with_zone(item.timestamp),
            "deployment_id": item.deployment_id,
            "event_id": item.event_id,
            "boxes": None if item.boxes is None else [box.to_json() for box in item.boxes],
        }
        for position, item in enumerate(contents.media)
    ]
    media += _copies(contents, hashes, start=len(media))
    drop = {
        "key": sealed.key,
        "name": sealed.name,
        "root": str(sealed.root),
        "digest": sealed.digest,
        "layout": contents.layout,
        "detector": detector,
        "warnings": list(contents.warnings),
    }
    quarantined = [QuarantineRow(entry.file, entry.code, entry.reason) for entry in contents.quarantined]
    cameras = [Place(c.deployment_id, c.name, c.latitude, c.longitude) for c in contents.deployments]
    with site.database.session() as session:
        if add_drop(session, drop, media, quarantined):
            put_deployments(session, cameras, sealed.key)


def _find_again(session: Session, sealed: SealedDrop) -> None:
    """A drop that is sealed again may lie elsewhere by now; its pictures are where they are now."""
    find_again(session, sealed.key, str(sealed.root))
    moved = {
        image.id: str(sealed.root / media.file_path)
        for media, image in reversed(media_with_image(session, sealed.key))
        if not Path(image.path).is_file()
    }
    move_images(session, moved)


def _tag(site: Site, detector: str) -> str:
    """What else than the files decides which detections a drop gets, so that another choice is another drop."""
    parts = []
    if detector != "auto":
        model = Path(detector)
        parts.append(f"{model.name}:{sha256_of(model)}" if model.is_file() else detector)
    default = type(site.settings).model_fields["min_confidence"].default
    if site.settings.min_confidence != default:
        parts.append(f"confidence:{site.settings.min_confidence:g}")
    return " ".join(parts)


def _copies(contents: DropContents, hashes: Mapping[str, str], start: int) -> list[dict[str, Any]]:
    """Rows for files that are byte-identical to another of the drop.

    The picture and its boxes are stored once, under the first file; the copy stays listed, so that every file of
    the drop is accounted for.
    """
    names = [entry.file for entry in contents.quarantined if entry.code == "duplicate_image" and entry.file in hashes]
    return [
        {
            "file_path": name,
            "sha256": hashes[name],
            "ordinal": start + position,
            "timestamp": None,
            "deployment_id": None,
            "event_id": None,
            "boxes": None,
        }
        for position, name in enumerate(names)
    ]
