"""Who is known by now: counts over encounters, detections and individuals, for the assignment report."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.decisions import newest_decisions
from deer_reid_pipeline.store.models import Deer, Detection, MatchDecision


class DecisionCount(NamedTuple):
    """Encounters by the latest decision about them; everything is None for those nobody decided yet.

    Attributes:
        decision: matched, new_individual or uncertain.
        method: human or machine.
        release_id: None for a person's decision and for trials without a release.
    """

    decision: str | None
    method: str | None
    release_id: int | None
    encounters: int


class DetectionCount(NamedTuple):
    """Standing detections by who gave them their individual; None: they have none."""

    method: str | None
    detections: int


class Sightings(NamedTuple):
    """An individual with at least one standing detection.

    Attributes:
        sex: the owner's word: buck, doe, fawn or unknown.
        identified_by: human, machine, or None for those from before the pipeline.
    """

    sex: str
    identified_by: str | None
    detections: int
    encounters: int


def decision_counts(session: Session) -> list[DecisionCount]:
    """Encounters that have a standing detection, by their latest decision."""
    standing = (
        select(Detection.encounter_id)
        .where(Detection.encounter_id.is_not(None), ~Detection.superseded)
        .distinct()
        .subquery()
    )
    latest = newest_decisions(
        MatchDecision.encounter_id, MatchDecision.decision, MatchDecision.method, MatchDecision.release_id
    ).subquery()
    said = (latest.c.decision, latest.c.method, latest.c.release_id)
    rows = session.execute(
        select(*said, func.count())
        .select_from(standing)
        .outerjoin(latest, latest.c.encounter_id == standing.c.encounter_id)
        .group_by(*said)
        .order_by(*said)
    )
    return [DecisionCount(*row) for row in rows]


def detection_counts(session: Session) -> list[DetectionCount]:
    """Standing detections with and without an individual.

    A detection with an individual but without a method is from before the pipeline; it counts as the machine's.
    """
    method = func.coalesce(Detection.classification_method, "machine")
    assigned = session.execute(
        select(method, func.count())
        .where(Detection.deer_id.is_not(None), ~Detection.superseded)
        .group_by(method)
        .order_by(method)
    )
    counts = [DetectionCount(*row) for row in assigned]
    unassigned = session.scalar(
        select(func.count()).select_from(Detection).where(Detection.deer_id.is_(None), ~Detection.superseded)
    )
    return [*counts, DetectionCount(None, unassigned or 0)]


def sightings(session: Session) -> list[Sightings]:
    """Every individual that has a standing detection, most seen first."""
    seen = func.count()
    rows = session.execute(
        select(Deer.sex, Deer.identified_by, seen, func.count(func.distinct(Detection.encounter_id)))
        .join(Detection, Detection.deer_id == Deer.id)
        .where(~Detection.superseded)
        .group_by(Deer.id)
        .order_by(seen.desc(), Deer.id)
    )
    return [Sightings(*row) for row in rows]
