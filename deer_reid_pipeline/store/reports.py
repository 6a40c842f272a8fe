"""Reports as rows: what was measured, about which release, with which verdict. Their files are under the home."""

from __future__ import annotations

from datetime import date
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.models import Report

VALIDATION, TUNING, MONITORING, AB, TRAINING = "validation", "tuning", "monitoring", "ab", "training"
BENCHMARK, GPU_MEMORY = "benchmark", "gpu_memory"


def add_report(
    session: Session,
    kind: str,
    summary: dict[str, Any],
    *,
    day: date | None = None,
    recipe_id: str | None = None,
    release_id: int | None = None,
    candidate_id: int | None = None,
    verdict: str | None = None,
    data_digest: str | None = None,
    folder: str | None = None,
    run_id: str | None = None,
) -> Report:
    """Store a report; a repeated one is another row.

    Args:
        kind: validation, tuning, monitoring, ab, training, benchmark or gpu_memory.
        summary: JSON: no NaN, no infinity.
        release_id: the release that was live, which a candidate was judged against.
        verdict: PASS, FAIL or INCONCLUSIVE.
        folder: of its files, relative to the home.
    """
    report = Report(
        kind=kind,
        day=day,
        recipe_id=recipe_id,
        release_id=release_id,
        candidate_id=candidate_id,
        verdict=verdict,
        data_digest=data_digest,
        summary=summary,
        folder=folder,
        run_id=run_id,
    )
    session.add(report)
    session.flush()
    return report


def get_report(session: Session, report_id: int) -> Report | None:
    """A report by its number."""
    return session.get(Report, report_id)


def newest_report(session: Session, kind: str, *, day: date | None = None) -> Report | None:
    """The newest report of a kind, about any day or this one."""
    query = select(Report).where(Report.kind == kind).order_by(Report.id.desc()).limit(1)
    return session.scalar(query if day is None else query.where(Report.day == day))


def newest_about_candidate(session: Session, candidate_id: int) -> Report | None:
    """The newest validation report that judged this release against the live one."""
    return session.scalar(
        select(Report)
        .where(Report.kind == VALIDATION, Report.candidate_id == candidate_id)
        .order_by(Report.id.desc())
        .limit(1)
    )


def report_of_run(session: Session, kind: str, run_id: str) -> Report | None:
    """The newest report of a kind that a Dagster run stored."""
    return session.scalar(
        select(Report).where(Report.kind == kind, Report.run_id == run_id).order_by(Report.id.desc()).limit(1)
    )


def newest_folder_about(session: Session, kind: str, recipe_id: str, below: str) -> str | None:
    """Where the newest report of a kind about a recipe has its files, relative to the home; None where none has any.

    Args:
        below: folder under the home that they lie in.
    """
    return session.scalar(
        select(Report.folder)
        .where(Report.kind == kind, Report.recipe_id == recipe_id, Report.folder.startswith(f"{below}/"))
        .order_by(Report.id.desc())
        .limit(1)
    )
