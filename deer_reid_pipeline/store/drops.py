"""Drops, their media rows and their quarantine."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import UUID, Text, column, delete, exists, func, select, update, values
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from deer_reid_pipeline.store.decisions import newest_decisions
from deer_reid_pipeline.store.models import (
    Deer,
    Detection,
    DetectionCrop,
    Drop,
    DropMedia,
    Image,
    MatchDecision,
    Quarantine,
)

MISSING_FILE = "missing_file"
UNREADABLE = "unreadable"
NO_CROP = "no_crop"

TRIED_AGAIN = (MISSING_FILE, UNREADABLE)
"""Codes of files that the next run looks at again: the reason may have been the disk and not the file."""

MISSED = (MISSING_FILE, NO_CROP)
"""Codes of files for which a completed drop is opened again once they are there."""


@dataclass(frozen=True)
class QuarantineRow:
    """A file (or `table:line`) that could not be used: a short code and a sentence for a person."""

    file: str
    code: str
    reason: str


def get_drop(session: Session, key: str) -> Drop | None:
    """The drop with this key, or None."""
    return session.get(Drop, key)


def add_drop(
    session: Session, drop: dict[str, Any], media: Sequence[dict[str, Any]], quarantined: Iterable[QuarantineRow]
) -> bool:
    """Store a sealed drop, its media rows and what was quarantined while reading it; all or nothing.

    Returns:
        False where another process registered the drop first, and nothing was stored.
    """
    key = session.scalar(insert(Drop).values(**drop).on_conflict_do_nothing().returning(Drop.key))
    if key is None:
        return False
    if media:
        session.execute(insert(DropMedia).on_conflict_do_nothing(), [{"drop_key": key, **row} for row in media])
    add_quarantine(session, key, quarantined)
    return True


def drop_of_content(session: Session, digest: str) -> Drop | None:
    """A drop with this content, whatever its folder's name was: a completed one if there is one, else the first."""
    return session.scalars(
        select(Drop).where(Drop.digest == digest).order_by(Drop.completed_at.is_(None), Drop.sealed_at, Drop.key)
    ).first()


def drop_keys(session: Session) -> set[str]:
    """Keys of all drops."""
    return set(session.scalars(select(Drop.key)))


def unfinished_drops(session: Session) -> list[Drop]:
    """All drops that are not processed, oldest first."""
    return list(session.scalars(select(Drop).where(Drop.completed_at.is_(None)).order_by(Drop.sealed_at, Drop.key)))


def last_completed_under(session: Session, folder: str) -> Drop | None:
    """The drop that was completed last of those that were read from sub-folders of this one."""
    inside = Drop.root.startswith(folder.rstrip("/") + "/", autoescape=True)
    return session.scalars(
        select(Drop).where(inside, Drop.completed_at.is_not(None)).order_by(Drop.completed_at.desc(), Drop.key)
    ).first()


def missed_files(session: Session) -> dict[str, frozenset[str]]:
    """Files that completed drops missed, or whose picture could not be cut, by drop."""
    found: dict[str, set[str]] = {}
    rows = session.execute(
        select(Quarantine.drop_key, Quarantine.file)
        .join(DropMedia, (DropMedia.drop_key == Quarantine.drop_key) & (DropMedia.file_path == Quarantine.file))
        .join(Drop, Drop.key == Quarantine.drop_key)
        .where(Quarantine.code.in_(MISSED), Drop.completed_at.is_not(None))
    )
    for key, file in rows:
        found.setdefault(key, set()).add(file)
    return {key: frozenset(files) for key, files in found.items()}


def find_again(session: Session, key: str, root: str) -> None:
    """A known drop was sealed again, so all of its files are in `root` now.

    Pictures are read from there from now on, and a completed drop with files that were missing, or detections whose
    picture could not be cut, is open again.
    """
    session.execute(update(Drop).where(Drop.key == key, Drop.root != root).values(root=root))
    retried = (
        select(Quarantine.id)
        .join(DropMedia, (DropMedia.drop_key == Quarantine.drop_key) & (DropMedia.file_path == Quarantine.file))
        .where(Quarantine.drop_key == key, Quarantine.code.in_(MISSED))
    )
    session.execute(
        update(Drop).where(Drop.key == key, Drop.completed_at.is_not(None), exists(retried)).values(completed_at=None)
    )


def add_quarantine(session: Session, drop_key: str, rows: Iterable[QuarantineRow]) -> None:
    """Record files or rows that could not be used; repeating it adds nothing."""
    values = [{"drop_key": drop_key, "file": r.file, "code": r.code, "reason": r.reason} for r in rows]
    if values:
        session.execute(insert(Quarantine).on_conflict_do_nothing(), values)


def remove_quarantine(session: Session, drop_key: str, files: Sequence[str], codes: Sequence[str]) -> None:
    """Take files out of the quarantine that turned out to be good."""
    if files:
        session.execute(
            delete(Quarantine).where(
                Quarantine.drop_key == drop_key, Quarantine.file.in_(files), Quarantine.code.in_(codes)
            )
        )


def quarantine_without_crop(session: Session, images: Sequence[tuple[uuid.UUID, str]]) -> None:
    """Record (picture, reason) of detections whose crop cannot be made, in every drop that holds the picture."""
    reasons = dict(images)
    media = session.execute(
        select(DropMedia.drop_key, DropMedia.file_path, DropMedia.image_id)
        .where(DropMedia.image_id.in_(reasons))
        .order_by(DropMedia.drop_key, DropMedia.file_path)
    )
    for drop_key, file_path, image in media:
        remove_quarantine(session, drop_key, [file_path], [NO_CROP])
        add_quarantine(session, drop_key, [QuarantineRow(file_path, NO_CROP, reasons[image])])


def release_cropped(session: Session, images: Sequence[uuid.UUID]) -> None:
    """Take pictures all of whose crops could be made after all out of the quarantine, in every drop."""
    session.execute(
        delete(Quarantine).where(
            Quarantine.code == NO_CROP,
            DropMedia.drop_key == Quarantine.drop_key,
            DropMedia.file_path == Quarantine.file,
            DropMedia.image_id.in_(images),
        )
    )


def add_warnings(session: Session, drop_key: str, warnings: Sequence[str], *, instead_of: str | None = None) -> None:
    """Add to what a person should know of a drop, without repeating a line.

    Args:
        instead_of: a line that the new ones replace.
    """
    if not warnings:
        return
    drop = session.get(Drop, drop_key, with_for_update=True)
    if drop is not None:
        standing = [line for line in drop.warnings or [] if line != instead_of]
        drop.warnings = list(dict.fromkeys([*standing, *warnings]))


def quarantine_of(session: Session, drop_key: str) -> list[QuarantineRow]:
    """What was quarantined of a drop, by file name."""
    rows = session.execute(
        select(Quarantine.file, Quarantine.code, Quarantine.reason)
        .where(Quarantine.drop_key == drop_key)
        .order_by(Quarantine.file, Quarantine.id)
    )
    return [QuarantineRow(*row) for row in rows]


def media_without_image(session: Session, drop_key: str) -> list[DropMedia]:
    """Media of a drop whose picture is not stored and was not quarantined for good, in order."""
    bad = select(Quarantine.file).where(Quarantine.drop_key == drop_key, Quarantine.code.not_in(TRIED_AGAIN))
    return list(
        session.scalars(
            select(DropMedia)
            .where(DropMedia.drop_key == drop_key, DropMedia.image_id.is_(None), DropMedia.file_path.not_in(bad))
            .order_by(DropMedia.ordinal)
        )
    )


def media_with_image(session: Session, drop_key: str) -> list[tuple[DropMedia, Image]]:
    """Media of a drop with their stored pictures, in order."""
    rows = session.execute(
        select(DropMedia, Image)
        .join(Image, Image.id == DropMedia.image_id)
        .where(DropMedia.drop_key == drop_key)
        .order_by(DropMedia.ordinal)
    )
    return [(media, image) for media, image in rows]


def has_images(session: Session, drop_key: str) -> bool:
    """Whether a picture of the drop is stored."""
    return bool(session.scalar(select(exists().where(DropMedia.drop_key == drop_key, DropMedia.image_id.is_not(None)))))


def drop_media_count(session: Session, drop_key: str) -> int:
    """Number of picture files of a drop that its tables and folder named, quarantined ones included."""
    return session.scalar(select(func.count()).select_from(DropMedia).where(DropMedia.drop_key == drop_key)) or 0


def link_images(session: Session, drop_key: str, pairs: Iterable[tuple[str, uuid.UUID]]) -> None:
    """Note which stored picture each (file path, image id) of the drop is."""
    rows = sorted(pairs)
    if not rows:
        return
    found = values(column("file_path", Text), column("image_id", UUID(as_uuid=True)), name="found").data(rows)
    session.execute(
        update(DropMedia)
        .where(DropMedia.drop_key == drop_key, DropMedia.file_path == found.c.file_path)
        .values(image_id=found.c.image_id)
        .execution_options(synchronize_session=False)
    )


def note_look(session: Session, drop_key: str, files: Sequence[str], detector: str) -> None:
    """Note which detector looked at these files, so that a blank picture is not asked about again."""
    if files:
        session.execute(
            update(DropMedia)
            .where(DropMedia.drop_key == drop_key, DropMedia.file_path.in_(files))
            .values(looked_at_by=detector)
            .execution_options(synchronize_session=False)
        )


def places_of(session: Session, images: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[str]]:
    """Files that are these pictures, by picture: where each drop that brought it had it, newest drop first."""
    found: dict[uuid.UUID, list[str]] = {}
    rows = session.execute(
        select(DropMedia.image_id, Drop.root, DropMedia.file_path)
        .join(Drop, Drop.key == DropMedia.drop_key)
        .where(DropMedia.image_id.in_(images))
        .order_by(Drop.sealed_at.desc(), DropMedia.ordinal)
    )
    for image, root, file_path in rows:
        if image is not None:
            found.setdefault(image, []).append(f"{root}/{file_path}")
    return found


def link_known(session: Session, drop_key: str) -> None:
    """Let files of the drop point to pictures that an earlier drop brought, with which detector looked at them.

    Only where the picture is known whole and the file is not in the drop's quarantine.
    """
    bad = select(Quarantine.file).where(Quarantine.drop_key == drop_key)
    other = aliased(DropMedia)
    looked = select(func.max(other.looked_at_by)).where(other.image_id == Image.id).scalar_subquery()
    session.execute(
        update(DropMedia)
        .where(
            DropMedia.drop_key == drop_key,
            DropMedia.image_id.is_(None),
            DropMedia.sha256 == Image.sha256,
            Image.width.is_not(None),
            Image.height.is_not(None),
            Image.infrared.is_not(None),
            DropMedia.file_path.not_in(bad),
        )
        .values(image_id=Image.id, looked_at_by=func.coalesce(DropMedia.looked_at_by, looked))
        .execution_options(synchronize_session=False)
    )


def link_copies(session: Session, drop_key: str) -> None:
    """Let files of the drop that are byte-identical to a stored picture point to it."""
    session.execute(
        update(DropMedia)
        .where(DropMedia.drop_key == drop_key, DropMedia.image_id.is_(None), DropMedia.sha256 == Image.sha256)
        .values(image_id=Image.id)
        .execution_options(synchronize_session=False)
    )


def pictures_of_other_drops(session: Session, drop_key: str) -> int:
    """Pictures of this drop that an earlier one brought."""
    return (
        session.scalar(
            select(func.count(func.distinct(Image.id)))
            .join(DropMedia, DropMedia.image_id == Image.id)
            .where(DropMedia.drop_key == drop_key, Image.drop_key.is_distinct_from(drop_key))
        )
        or 0
    )


def complete_drop(session: Session, drop_key: str, summary: dict[str, Any]) -> None:
    """Mark a drop as processed, with its summary. The first completion stands."""
    session.execute(
        update(Drop)
        .where(Drop.key == drop_key, Drop.completed_at.is_(None))
        .values(completed_at=datetime.now(UTC), summary=summary)
    )


@dataclass(frozen=True)
class DropSummary:
    """What a drop amounts to; matched and new count a person's identities and the machine's together."""

    images: int
    detections: int
    crops: int
    encounters: int
    matched: int
    new: int
    uncertain: int
    by_person: int
    matched_by_machine: int
    new_by_machine: int
    individuals: int


def summarize_drop(session: Session, drop_key: str) -> DropSummary:
    """Count the rows of a drop.

    Pictures count once a content, detections once a file (a copy of a picture shows its boxes again), encounters are
    those of its pictures, whichever drop brought them first, each with its latest decision.
    """
    images = session.scalar(select(func.count(func.distinct(DropMedia.image_id))).where(DropMedia.drop_key == drop_key))
    in_drop = select(DropMedia.image_id).where(DropMedia.drop_key == drop_key)
    detections = session.scalar(
        select(func.count())
        .select_from(Detection)
        .join(DropMedia, DropMedia.image_id == Detection.image_id)
        .where(DropMedia.drop_key == drop_key, ~Detection.superseded)
    )
    crops = session.scalar(
        select(func.count(func.distinct(DetectionCrop.detection_id)))
        .join(Detection, Detection.id == DetectionCrop.detection_id)
        .where(Detection.image_id.in_(in_drop), ~Detection.superseded)
    )
    latest = (
        newest_decisions(MatchDecision.decision, MatchDecision.method)
        .join(Detection, Detection.encounter_id == MatchDecision.encounter_id)
        .where(Detection.image_id.in_(in_drop), ~Detection.superseded)
        .subquery()
    )
    outcomes = {
        (decision, method): count
        for decision, method, count in session.execute(
            select(latest.c.decision, latest.c.method, func.count()).group_by(latest.c.decision, latest.c.method)
        )
    }
    return DropSummary(
        images=images or 0,
        detections=detections or 0,
        crops=crops or 0,
        encounters=sum(outcomes.values()),
        matched=sum(n for (decision, _), n in outcomes.items() if decision == "matched"),
        new=sum(n for (decision, _), n in outcomes.items() if decision == "new_individual"),
        uncertain=sum(n for (decision, _), n in outcomes.items() if decision == "uncertain"),
        by_person=sum(n for (_, method), n in outcomes.items() if method == "human"),
        matched_by_machine=outcomes.get(("matched", "machine"), 0),
        new_by_machine=outcomes.get(("new_individual", "machine"), 0),
        individuals=count_individuals(session),
    )


def count_individuals(session: Session) -> int:
    """Individuals that the database knows: every deer but machine-opened ones that lost all their sightings."""
    return (
        session.scalar(
            select(func.count())
            .select_from(Deer)
            .where((Deer.sighting_count > 0) | (Deer.identified_by.is_distinct_from("machine")))
        )
        or 0
    )
