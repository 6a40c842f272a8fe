"""Encounters, the append-only log of decisions, and what a decision does to individuals and detections."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Numeric, Select, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.vocabulary import sex_of
from deer_reid_pipeline.store.models import Deer, Detection, DropMedia, Encounter, Image, MatchDecision

log = logging.getLogger(__name__)

_MATCHING_LOCK = 0x0DEE_0002

OPENED_PREFIX = "deer-"


def lock_matching(session: Session, say: Callable[[str], None] = log.info) -> None:
    """Let one transaction at a time decide identities: what one opens, the next must see.

    Args:
        say: is told once when another transaction has the lock and this one waits.
    """
    if session.scalar(select(func.pg_try_advisory_xact_lock(_MATCHING_LOCK))):
        return
    say("another drop is being decided; waiting")
    session.execute(select(func.pg_advisory_xact_lock(_MATCHING_LOCK)))


def next_opened_number(session: Session) -> int:
    """The number for the name of the next individual that the matcher opens (deer-0001, ...).

    It looks at every name: within a transaction ask once and count on.
    """
    number = func.substring(Deer.name, f"^{OPENED_PREFIX}([0-9]+)$")
    last = session.scalar(select(func.max(cast(number, Numeric))))
    return int(last or 0) + 1


def find_named(session: Session, name: str) -> Deer | None:
    """The individual with this name; the oldest when the owner's data has several."""
    return session.scalar(select(Deer).where(Deer.name == name).order_by(Deer.created_at, Deer.id).limit(1))


def add_deer(
    session: Session,
    key: uuid.UUID,
    name: str,
    sex: str,
    life_stage: str | None,
    identified_by: str,
    seen: tuple[datetime | None, datetime | None],
) -> None:
    """Open an individual; repeating it changes nothing.

    Args:
        sex: the owner's word: buck, doe, fawn or unknown.
        identified_by: human or machine.
        seen: first and last time.
    """
    session.execute(
        insert(Deer)
        .values(
            id=key,
            name=name,
            sex=sex,
            life_stage=life_stage,
            identified_by=identified_by,
            first_seen=seen[0],
            last_seen=seen[1],
            sighting_count=0,
        )
        .on_conflict_do_nothing()
    )


def add_encounter(session: Session, row: dict[str, Any]) -> None:
    """Store an encounter; repeating it changes nothing."""
    session.execute(insert(Encounter).values(**row).on_conflict_do_nothing())


def next_ordinal(session: Session, drop_key: str) -> int:
    """The ordinal of the next encounter of a drop."""
    last = session.scalar(select(func.max(Encounter.ordinal)).where(Encounter.drop_key == drop_key))
    return 0 if last is None else last + 1


def log_decision(session: Session, row: dict[str, Any]) -> None:
    """Append a decision to the log, which the database refuses to change afterwards."""
    session.execute(insert(MatchDecision).values(**row))


def attach(
    session: Session,
    detections: Sequence[uuid.UUID],
    encounter: uuid.UUID,
    deer: uuid.UUID | None,
    score: float | None,
    method: str,
    seen: tuple[datetime | None, datetime | None],
) -> None:
    """Give detections to an encounter and, when it was identified, to an individual; sighting counts follow.

    A detection that a person identified is never given away by the machine.
    """
    rows = session.execute(
        select(Detection.id, Detection.deer_id, Detection.classification_method).where(Detection.id.in_(detections))
    ).all()
    free = [row for row in rows if method == "human" or row.classification_method != "human"]
    ids = [row.id for row in free]
    session.execute(update(Detection).where(Detection.id.in_(ids)).values(encounter_id=encounter))
    if deer is None:
        return
    for row in free:
        if row.deer_id is not None and row.deer_id != deer:
            session.execute(update(Deer).where(Deer.id == row.deer_id).values(sighting_count=Deer.sighting_count - 1))
    gained = sum(row.deer_id != deer for row in free)
    session.execute(
        update(Detection)
        .where(Detection.id.in_(ids))
        .values(deer_id=deer, similarity_score=score, classification_method=method)
    )
    session.execute(
        update(Deer)
        .where(Deer.id == deer)
        .values(
            sighting_count=Deer.sighting_count + gained,
            first_seen=func.least(Deer.first_seen, seen[0]),
            last_seen=func.greatest(Deer.last_seen, seen[1]),
        )
    )


def learn_sex(session: Session, deer: uuid.UUID, sex: str) -> None:
    """Note the sex (buck or doe) of an individual whose sex was unknown."""
    session.execute(update(Deer).where(Deer.id == deer, Deer.sex == "unknown").values(sex=sex))


def identified_in_pictures(
    session: Session, images: Sequence[uuid.UUID], without: Collection[object]
) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """(picture, individual) pairs already decided in these pictures, other than through the given detections."""
    rows = session.execute(
        select(Detection.id, Detection.image_id, Detection.deer_id).where(
            Detection.image_id.in_(images), Detection.deer_id.is_not(None), ~Detection.superseded
        )
    )
    return [(image, deer) for key, image, deer in rows if key not in without and deer is not None]


class MachineScore(NamedTuple):
    """A machine decision: its outcome, its similarity to the best candidate (-1 to 1), and the cuts in force."""

    decision: str
    score: float
    threshold: float | None
    new_below: float | None


def machine_scores(session: Session, drop_key: str) -> list[MachineScore]:
    """The machine's decisions about a drop that had a candidate, in the order they were made."""
    rows = session.execute(
        select(MatchDecision.decision, MatchDecision.score, MatchDecision.threshold, MatchDecision.new_below)
        .where(MatchDecision.drop_key == drop_key, MatchDecision.method == "machine", MatchDecision.score.is_not(None))
        .order_by(MatchDecision.id)
    )
    return [MachineScore(*row) for row in rows]


def newest_decisions(*columns: Any) -> Select[Any]:
    """The newest decision about every encounter."""
    return (
        select(*columns)
        .distinct(MatchDecision.encounter_id)
        .order_by(MatchDecision.encounter_id, MatchDecision.id.desc())
    )


def results_of_drop(session: Session, drop_key: str) -> list[dict[str, Any]]:
    """One row a standing detection of a drop, with the latest decision about it, in the drop's order.

    Keys: detection_id, encounter, filePath, bboxX, bboxY, bboxWidth, bboxHeight, viewpoint, individualID, sex,
    log (number of the decision), decision, method, similarity, threshold, probability, recipe, release, source,
    candidates, reason.
    """
    latest = newest_decisions(MatchDecision).subquery()
    rows = session.execute(
        select(DropMedia.file_path, Detection, Image, Deer.name, Deer.sex, latest)
        .join(Image, Image.id == DropMedia.image_id)
        .join(Detection, Detection.image_id == Image.id)
        .outerjoin(Deer, Deer.id == Detection.deer_id)
        .outerjoin(latest, latest.c.encounter_id == Detection.encounter_id)
        .where(DropMedia.drop_key == drop_key, ~Detection.superseded)
        .order_by(DropMedia.ordinal, Detection.id)
    )
    result = []
    for row in rows:
        detection: Detection = row.Detection
        result.append(
            {
                "detection_id": detection.id,
                "encounter": detection.encounter_id,
                "filePath": row.file_path,
                "bboxX": detection.bbox_x,
                "bboxY": detection.bbox_y,
                "bboxWidth": detection.bbox_width,
                "bboxHeight": detection.bbox_height,
                "viewpoint": detection.viewpoint,
                "individualID": row.name,
                "sex": row.sex,
                "log": row.id,
                "decision": row.decision,
                "method": row.method,
                "similarity": row.score,
                "threshold": row.threshold,
                "probability": row.probability,
                "recipe": row.recipe_id,
                "release": row.release_id,
                "source": detection.source,
                "reason": row.reason,
                "candidates": "; ".join(f"{c['individual']} {c['score']:.3f}" for c in row.candidates or ()),
            }
        )
    return result


def all_results(session: Session) -> list[dict[str, Any]]:
    """One row a standing detection of the database, with Camtrap DP names, by picture.

    classificationProbability is empty until a calibration was measured.
    """
    latest = newest_decisions(
        MatchDecision.encounter_id,
        MatchDecision.probability,
        MatchDecision.release_id,
        MatchDecision.recipe_id,
    ).subquery()
    first_file = (
        select(DropMedia.image_id, DropMedia.drop_key, DropMedia.file_path)
        .distinct(DropMedia.image_id, DropMedia.drop_key)
        .order_by(DropMedia.image_id, DropMedia.drop_key, DropMedia.ordinal)
        .subquery()
    )
    rows = session.execute(
        select(
            Image,
            first_file.c.file_path,
            Detection,
            Encounter,
            Deer,
            latest.c.probability,
            latest.c.recipe_id,
            latest.c.release_id,
        )
        .join(Detection, Detection.image_id == Image.id)
        .outerjoin(first_file, (first_file.c.image_id == Image.id) & (first_file.c.drop_key == Image.drop_key))
        .outerjoin(Encounter, Encounter.id == Detection.encounter_id)
        .outerjoin(Deer, Deer.id == Detection.deer_id)
        .outerjoin(latest, latest.c.encounter_id == Detection.encounter_id)
        .where(~Detection.superseded)
        .order_by(Image.path, Detection.id)
    )
    return [
        {
            "filePath": file_path or image.filename,
            "eventID": image.event_id or (encounter.event_key if encounter else None),
            "deploymentID": image.deployment_id,
            "timestamp": image.timestamp.isoformat() if image.timestamp else None,
            "individualID": deer.name if deer else None,
            "classificationMethod": detection.classification_method,
            "classificationProbability": probability,
            "classifiedBy": f"{recipe} release {release}" if recipe else None,
            "sex": _camtrap_sex(deer, encounter),
            "lifeStage": detection.life_stage,
            "viewpoint": detection.viewpoint,
            "bboxX": detection.bbox_x,
            "bboxY": detection.bbox_y,
            "bboxWidth": detection.bbox_width,
            "bboxHeight": detection.bbox_height,
        }
        for image, file_path, detection, encounter, deer, probability, recipe, release in rows
    ]


def _camtrap_sex(deer: Deer | None, encounter: Encounter | None) -> str | None:
    known = sex_of(deer.sex) if deer is not None else (encounter.sex if encounter is not None else "unknown")
    return None if known == "unknown" else known
