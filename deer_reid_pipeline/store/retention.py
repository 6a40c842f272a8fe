"""Which files of reports may go, and which runs releases rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, union, update
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.models import Release, ReleaseEvent, Report


@dataclass(frozen=True)
class ReportFolder:
    """Files of a report: its number, its kind, and where they are, relative to the home."""

    report: int
    kind: str
    folder: str


def old_folders(session: Session, before: datetime) -> list[ReportFolder]:
    """Files of reports made before a moment that nothing rests on, by number.

    A report stays whole when a release or the log of releases points to it, when it is the newest of its kind about
    its recipe and candidate, and when another one that stays has its files in the same folder.
    """
    stays = union(
        select(Release.report_id).where(Release.report_id.is_not(None)),
        select(ReleaseEvent.report_id).where(ReleaseEvent.report_id.is_not(None)),
        select(func.max(Report.id)).group_by(Report.kind, Report.recipe_id, Report.candidate_id),
        select(Report.id).where(Report.created_at >= before),
    ).subquery()
    kept = select(stays.c[0])
    used = select(Report.folder).where(Report.id.in_(kept), Report.folder.is_not(None))
    rows = session.execute(
        select(Report.id, Report.kind, Report.folder)
        .where(Report.folder.is_not(None), Report.id.not_in(kept), Report.folder.not_in(used))
        .order_by(Report.id)
    )
    return [ReportFolder(number, kind, str(folder)) for number, kind, folder in rows]


def forget_folders(session: Session, reports: Sequence[int]) -> None:
    """Note that the files of these reports are gone; their figures stay."""
    session.execute(update(Report).where(Report.id.in_(reports)).values(folder=None))


def runs_behind_releases(session: Session) -> set[str]:
    """Dagster runs that releases rest on: those that proposed or promoted one, or made a report that one points to."""
    pointed = union(
        select(Release.report_id).where(Release.report_id.is_not(None)),
        select(ReleaseEvent.report_id).where(ReleaseEvent.report_id.is_not(None)),
    ).subquery()
    runs = union(
        select(Report.run_id).where(Report.id.in_(select(pointed.c[0])), Report.run_id.is_not(None)),
        select(ReleaseEvent.run_id).where(ReleaseEvent.run_id.is_not(None)),
    )
    return {str(run) for run in session.scalars(runs)}
