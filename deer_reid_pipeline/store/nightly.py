"""What the night's decisions ask the store: what cannot be embedded, and what was reported already."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import date, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.drops import NO_CROP
from deer_reid_pipeline.store.models import Deer, Detection, DropMedia, Profile, Quarantine, Report
from deer_reid_pipeline.store.reports import MONITORING, VALIDATION

AT_ONCE = 2000
"""Detections asked for in one statement."""


def without_picture(session: Session, detections: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these detections whose crop could not be made when it was last tried, by the quarantine."""
    found: set[uuid.UUID] = set()
    for start in range(0, len(detections), AT_ONCE):
        found.update(
            session.scalars(
                select(Detection.id)
                .join(DropMedia, DropMedia.image_id == Detection.image_id)
                .join(
                    Quarantine,
                    (Quarantine.drop_key == DropMedia.drop_key) & (Quarantine.file == DropMedia.file_path),
                )
                .where(Quarantine.code == NO_CROP, Detection.id.in_(detections[start : start + AT_ONCE]))
            )
        )
    return found


def has_empty_profiles(session: Session) -> bool:
    """Whether a profile stands of an individual that no standing detection belongs to any more."""
    alive = select(Detection.deer_id).where(Detection.deer_id.is_not(None), ~Detection.superseded)
    return session.scalar(select(Profile.deer_id).where(Profile.deer_id.not_in(alive)).limit(1)) is not None


def newest_of_release(session: Session, kind: str, release_id: int, recipe_id: str) -> Report | None:
    """The newest report of a kind that was made while this release was live, about its recipe.

    A validation that judged a candidate beside it does not count: it looked at fewer pictures.
    """
    query = select(Report).where(Report.kind == kind, Report.release_id == release_id, Report.recipe_id == recipe_id)
    if kind == VALIDATION:
        query = query.where(Report.candidate_id.is_(None))
    return session.scalar(query.order_by(Report.id.desc()).limit(1))


def days_reported_whole(session: Session, first: date, last: date) -> set[date]:
    """Days, both included, of which a monitoring report was made after they had ended (days are UTC)."""
    ended = func.timezone("UTC", Report.day + timedelta(days=1))
    return {
        day
        for day in session.scalars(
            select(Report.day).where(
                Report.kind == MONITORING, Report.day >= first, Report.day <= last, Report.created_at >= ended
            )
        )
        if day is not None
    }


def has_individuals(session: Session) -> bool:
    """Whether any individual is known at all."""
    return session.scalar(select(Deer.id).limit(1)) is not None
