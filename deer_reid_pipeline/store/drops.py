"""Drops, their media rows and their quarantine."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

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
    session: Session, drop: Drop, media: Sequence[dict[str, Any]], quarantined: Iterable[QuarantineRow]
) -> None:
    """Store a sealed drop, its media rows and what was quarantined while reading it; all or nothing."""
    session.add(drop)
    session.flush()
    if media:
        session.execute(insert(DropMedia).on_conflict_do_nothing(), [{"drop_key": drop.key, **row} for row in media])
    add_quarantine(session, drop.key, quarantined)


def add_quarantine(session: Session, drop_key: str, rows: Iterable[QuarantineRow]) -> None:
    """Record files or rows that could not be used; repeating it adds nothing."""
    values = [{"drop_key": drop_key, "file": r.file, "code": r.code, "reason": r.reason} for r in rows]
    if values:
        session.execute(insert(Quarantine).on_conflict_do_nothing(), values)


def add_warnings(session: Session, drop_key: str, warnings: Sequence[str]) -> None:
    """Add to what a person should know of a drop, without repeating a line."""
    if not warnings:
        return
    drop = session.get(Drop, drop_key)
    if drop is not None:
        drop.warnings = list(dict.fromkeys([*(drop.warnings or []), *warnings]))


def quarantine_of(session: Session, drop_key: str) -> list[QuarantineRow]:
    """What was quarantined of a drop, by file name."""
    rows = session.execute(
        select(Quarantine.file, Quarantine.code, Quarantine.reason)
        .where(Quarantine.drop_key == drop_key)
        .order_by(Quarantine.file, Quarantine.id)
    )
    return [QuarantineRow(*row) for row in rows]


def media_without_image(session: Session, drop_key: str) -> list[DropMedia]:
    """Media of a drop whose picture is not stored and was not quarantined, in order."""
    bad = select(Quarantine.file).where(Quarantine.drop_key == drop_key)
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


def drop_media_count(session: Session, drop_key: str) -> int:
    """Number of picture files of a drop that its tables and folder named, quarantined ones included."""
    return session.scalar(select(func.count()).select_from(DropMedia).where(DropMedia.drop_key == drop_key)) or 0


def link_images(session: Session, drop_key: str, pairs: Iterable[tuple[str, uuid.UUID]]) -> None:
    """Note which stored picture each (file path, image id) of the drop is."""
    for file_path, image in pairs:
        session.execute(
            update(DropMedia)
            .where(DropMedia.drop_key == drop_key, DropMedia.file_path == file_path)
            .values(image_id=image)
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


def forget_drop(session: Session, drop_key: str) -> None:
    """Remove a drop that brought nothing, with its quarantine; refused by the database once it has encounters."""
    session.execute(delete(Drop).where(Drop.key == drop_key))


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
        select(MatchDecision.decision, MatchDecision.method)
        .join(Detection, Detection.encounter_id == MatchDecision.encounter_id)
        .where(Detection.image_id.in_(in_drop), ~Detection.superseded)
        .distinct(MatchDecision.encounter_id)
        .order_by(MatchDecision.encounter_id, MatchDecision.id.desc())
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
