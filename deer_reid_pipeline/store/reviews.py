"""What people said of pairs of detections: same animal, different, unsure. Append-only; the newest word counts."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.models import Detection, Review

SAME, DIFFERENT, UNSURE = "same", "different", "unsure"
VERDICTS = (SAME, DIFFERENT, UNSURE)

_BATCH = 5000
"""Rows a statement: PostgreSQL takes at most 65,535 parameters."""


@dataclass(frozen=True)
class PairReview:
    """What one person said of two detections; `first` and `second` are in no order.

    Attributes:
        verdict: same, different or unsure.
        source: name of the file that it came from.
    """

    first: uuid.UUID
    second: uuid.UUID
    verdict: str
    reviewer: str
    reviewed_at: datetime
    source: str

    @property
    def pair(self) -> tuple[uuid.UUID, uuid.UUID]:
        """The two detections, the smaller id first, as PostgreSQL orders them."""
        return (self.first, self.second) if self.first < self.second else (self.second, self.first)


def add_reviews(session: Session, rows: Iterable[PairReview]) -> int:
    """Append reviews; returns how many are new. One that is there already (pair, reviewer, time) changes nothing.

    Raises:
        ValueError: a detection is compared with itself, or the verdict is not one of the three.
    """
    values = []
    for row in rows:
        a, b = row.pair
        if a == b:
            raise ValueError(f"detection {a} is compared with itself")
        if row.verdict not in VERDICTS:
            raise ValueError(f"verdict {row.verdict!r} is none of {', '.join(VERDICTS)}")
        values.append(
            {
                "detection_a": a,
                "detection_b": b,
                "verdict": row.verdict,
                "reviewer": row.reviewer,
                "reviewed_at": row.reviewed_at,
                "source": row.source,
            }
        )
    added = 0
    for start in range(0, len(values), _BATCH):
        statement = insert(Review).values(values[start : start + _BATCH]).on_conflict_do_nothing().returning(Review.id)
        added += len(session.scalars(statement).all())
    return added


def standing_reviews(session: Session, detections: Collection[uuid.UUID] | None = None) -> list[PairReview]:
    """The newest word of every reviewer on every pair, in order of the pair and the reviewer.

    Args:
        detections: pairs with one of these only.
    """
    query = (
        select(Review)
        .distinct(Review.detection_a, Review.detection_b, Review.reviewer)
        .order_by(Review.detection_a, Review.detection_b, Review.reviewer, Review.reviewed_at.desc(), Review.id.desc())
    )
    if detections is not None:
        query = query.where(Review.detection_a.in_(detections) | Review.detection_b.in_(detections))
    return [
        PairReview(row.detection_a, row.detection_b, row.verdict, row.reviewer, row.reviewed_at, row.source)
        for row in session.scalars(query)
    ]


def unknown_detections(session: Session, detections: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Those that are not in this database, or were superseded."""
    known = session.scalars(select(Detection.id).where(Detection.id.in_(detections), ~Detection.superseded))
    return set(detections) - set(known)
