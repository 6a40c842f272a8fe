"""Encounters that the matcher left without a name, as the newest decision about each has them."""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.decisions import newest_decisions
from deer_reid_pipeline.store.models import Detection, Encounter, MatchDecision


@dataclass(frozen=True)
class Resembled:
    """An individual on the shortlist of a decision, and its similarity then (-1 to 1)."""

    deer_id: uuid.UUID
    similarity: float


@dataclass(frozen=True)
class PictureRow:
    """A standing detection of an encounter."""

    detection_id: uuid.UUID
    viewpoint: str | None
    confidence: float


@dataclass(frozen=True)
class UncertainRow:
    """An encounter without a name.

    Attributes:
        probability: that the first of the shortlist is right, 0 to 1; None where no calibration was measured.
        shortlist: the most similar first.
        pictures: its standing detections that nobody has identified, by id; at least one.
    """

    encounter_id: uuid.UUID
    drop_key: str
    started_at: datetime | None
    probability: float | None
    shortlist: tuple[Resembled, ...]
    pictures: tuple[PictureRow, ...]


def uncertain_rows(session: Session, drop_key: str | None = None) -> list[UncertainRow]:
    """Encounters whose newest decision is uncertain, by id, but for those with an empty shortlist.

    Args:
        drop_key: of this drop only.
    """
    newest = newest_decisions(MatchDecision)
    if drop_key is not None:
        newest = newest.where(MatchDecision.drop_key == drop_key)
    decision = newest.subquery()
    rows = session.execute(
        select(
            decision.c.encounter_id,
            decision.c.drop_key,
            decision.c.probability,
            decision.c.candidates,
            Encounter.started_at,
            Detection.id,
            Detection.viewpoint,
            Detection.confidence,
        )
        .join(Encounter, Encounter.id == decision.c.encounter_id)
        .join(Detection, Detection.encounter_id == decision.c.encounter_id)
        .where(decision.c.decision == "uncertain", ~Detection.superseded, Detection.deer_id.is_(None))
        .order_by(decision.c.encounter_id, Detection.id)
    ).all()
    pictures: dict[uuid.UUID, list[PictureRow]] = defaultdict(list)
    for row in rows:
        pictures[row.encounter_id].append(PictureRow(row.id, row.viewpoint, row.confidence))
    first = {row.encounter_id: row for row in reversed(rows)}
    return [
        UncertainRow(
            encounter_id=key,
            drop_key=first[key].drop_key,
            started_at=first[key].started_at,
            probability=first[key].probability,
            shortlist=tuple(Resembled(uuid.UUID(item["deer_id"]), item["score"]) for item in first[key].candidates),
            pictures=tuple(members),
        )
        for key, members in pictures.items()
        if first[key].candidates
    ]
