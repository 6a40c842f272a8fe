"""`embedding_release`: what is live, what waits, and how another release becomes live.

Promote and rollback are one transaction each. They wait for nobody who takes long: a drop being matched keeps the
release it started with and holds no lock on it, and individuals whom it is changing get their columns afterwards.
The evidence is a validation report; this module obeys it and never measures anything itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import ReleaseError
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.steps.policies import asked_for_as
from deer_reid_pipeline.steps.site import Site, os_user
from deer_reid_pipeline.store import releases as table
from deer_reid_pipeline.store.backup import back_up
from deer_reid_pipeline.store.columns import columns_due, show_columns
from deer_reid_pipeline.store.models import Release, ReleaseEvent, Report
from deer_reid_pipeline.store.profiles import individuals_lacking
from deer_reid_pipeline.store.reports import newest_about_candidate

PASS = "PASS"

COLUMNS_BUDGET_S = 0.45
"""Seconds that a promotion spends on the columns of `deer`; what is left follows after it, batch by batch."""

COLUMNS_BATCH = 25
COLUMNS_MOST = 500
"""Individuals that a promotion looks at for their columns; more than it can show in its budget."""

LOCK_TIMEOUT_S = 10


@dataclass(frozen=True)
class ReleaseInfo:
    """A release as people and programs see it.

    Attributes:
        report: the newest validation report that judged it against the live release, and `verdict` what that says.
        trusted: whether its identities could be trusted when it was last judged while live, at `trusted_at`: PASS,
            FAIL or INCONCLUSIVE; None where it was not.
        individuals_lacking: individuals whose profiles under its recipe are missing or made of fewer detections.
    """

    release: int
    recipe: str
    name: str | None
    live: bool
    reason: str
    author: str | None
    made_from: int | None
    matched_from: float
    new_below: float
    report: int | None
    verdict: str | None
    trusted: str | None
    trusted_at: datetime | None
    individuals_lacking: int
    created_at: datetime
    promoted_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Event:
    """A row of the log of releases."""

    action: str
    release: int
    previous: int | None
    report: int | None
    verdict: str | None
    forced: bool
    reason: str
    actor: str | None
    run_id: str | None
    at: datetime

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Status:
    """What is live, what a rollback returns to, what waits (newest first), and the log (newest first)."""

    live: ReleaseInfo | None
    previous: ReleaseInfo | None
    candidates: tuple[ReleaseInfo, ...]
    history: tuple[Event, ...]


@dataclass(frozen=True)
class Change:
    """A promotion or a rollback that was done.

    Attributes:
        seconds: of its transaction.
        columns_shown: individuals whose columns of `deer` the transaction let show the release.
        columns_complete: none are left; otherwise they follow by `steps.profiles.show_live_columns`.
        individuals_lacking: as in `ReleaseInfo`; matching embeds those that it does not know before it begins.
        backup: the file written before, None if none was asked for.
    """

    action: str
    release: int
    recipe: str
    previous: int | None
    report: int | None
    verdict: str | None
    forced: bool
    reason: str
    seconds: float
    columns_shown: int
    columns_complete: bool
    individuals_lacking: int
    backup: str | None = None
    backup_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Evidence:
    """What a promotion rests on, and why it must be refused unless it is forced."""

    report: int | None = None
    verdict: str | None = None
    refusal: str | None = None


_Judge = Callable[[Session, Release | None], tuple[Release, _Evidence, str]]
"""Given the live release, under the lock: the release to make live, what that rests on, and the reason."""


def status(site: Site) -> Status:
    """What is live, what it was before, and what waits."""
    with site.database.session() as session:
        live = table.live_release(session)
        path = table.live_path(session)
        before = table.get_release(session, path[-2]) if len(path) > 1 else None
        lacking: dict[str, int] = {}
        return Status(
            live=None if live is None else _info(session, live, lacking),
            previous=None if before is None else _info(session, before, lacking),
            candidates=tuple(_info(session, release, lacking) for release in table.candidates(session)),
            history=tuple(_event(event) for event in reversed(table.events(session))),
        )


def propose(
    site: Site,
    recipe_id: str,
    fitted: FittedPolicy,
    reason: str,
    *,
    report_id: int | None = None,
    name: str | None = None,
    actor: str | None = None,
    run_id: str | None = None,
) -> int:
    """Add a candidate and return its number; nothing that matches changes. An equal one that waits is not added again.

    Raises:
        DatabaseError: the recipe is unknown or can never be released.
    """
    with site.database.session() as session:
        return table.add_candidate(
            session,
            recipe_id,
            fitted,
            reason,
            report_id=report_id,
            name=name,
            actor=actor or os_user(),
            run_id=run_id,
        ).id


def promote(
    site: Site,
    release_id: int,
    *,
    force: bool = False,
    reason: str = "",
    backup: bool = True,
    actor: str | None = None,
    run_id: str | None = None,
) -> Change:
    """Make a release live, in one transaction.

    Its newest validation report must say PASS against the release that is live now. `force` overrides that with a
    reason; it never overrides that a recipe cannot be released or that its profiles are incomplete.

    Args:
        backup: dump the database before; done outside the transaction.

    Raises:
        ReleaseError: it may not become live; the text says what is missing.
        DatabaseError: it does not exist, its recipe can never be released, or the backup failed.
        WeightsError: its recipe cannot be used here.
    """
    reason = reason.strip()
    if force and not reason:
        raise ReleaseError("--force goes against the gate and needs a reason: --reason TEXT")
    with site.database.session() as session:  # refused before a long backup
        release = table.get_release(session, release_id)
        _require(session, release, table.live_release(session), force)
        _require_profiles(session, release)
    site.usable(site.stored_recipe(release.recipe_id))
    saved, backup_seconds = _saved(site, release_id) if backup else (None, 0.0)

    def judge(session: Session, live: Release | None) -> tuple[Release, _Evidence, str]:
        release = table.get_release(session, release_id)
        evidence = _require(session, release, live, force)
        return release, evidence, reason or f"validation report {evidence.report}: {evidence.verdict}"

    done = _change(site, table.PROMOTED, judge, actor, run_id)
    return replace(done, backup=None if saved is None else str(saved), backup_seconds=backup_seconds)


def rollback(site: Site, *, reason: str, actor: str | None = None, run_id: str | None = None) -> Change:
    """Return to the release that was live before, in one transaction; the next rollback goes one further back.

    The release that is left stays as it is, and can be promoted again on a report made after the rollback.

    Raises:
        ReleaseError: there is nothing to return to, or no reason was given.
    """
    why = reason.strip()
    if not why:
        raise ReleaseError("a rollback needs a reason: --reason TEXT")

    def judge(session: Session, live: Release | None) -> tuple[Release, _Evidence, str]:
        path = table.live_path(session)
        if live is None or len(path) < 2:
            raise ReleaseError("there is no earlier release to return to: deer-reid release status shows the history")
        before = table.get_release(session, path[-2])
        table.refuse_unreleasable(session, before.recipe_id)
        return before, _Evidence(), why

    done = _change(site, table.ROLLED_BACK, judge, actor, run_id)
    with site.database.session() as session:
        return replace(done, individuals_lacking=individuals_lacking(session, done.recipe))


def _change(site: Site, action: str, judge: _Judge, actor: str | None, run_id: str | None) -> Change:
    started = time.perf_counter()
    with _one_transaction(site) as session:
        table.lock_releases(session)
        live = table.live_release(session)
        release, evidence, reason = judge(session, live)
        forced = evidence.refusal is not None
        table.set_live(session, release.id)
        shown, complete = _show_columns(session, release.recipe_id)
        table.log_event(
            session,
            action,
            release.id,
            reason,
            previous=None if live is None else live.id,
            report_id=evidence.report,
            verdict=evidence.verdict,
            forced=forced,
            actor=actor or os_user(),
            run_id=run_id,
        )
        recipe, before, number = release.recipe_id, None if live is None else live.id, release.id
    return Change(
        action=action,
        release=number,
        recipe=recipe,
        previous=before,
        report=evidence.report,
        verdict=evidence.verdict,
        forced=forced,
        reason=reason,
        seconds=time.perf_counter() - started,
        columns_shown=shown,
        columns_complete=complete,
        individuals_lacking=0,
    )


@contextmanager
def _one_transaction(site: Site) -> Iterator[Session]:
    """A transaction that gives up rather than wait long.

    Raises:
        ReleaseError: another session held the releases; nothing was changed.
    """
    try:
        with site.database.session() as session:
            session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
            yield session
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != "55P03":
            raise
        raise ReleaseError(
            f"another session held the releases for {LOCK_TIMEOUT_S} s; nothing was changed, run this again"
        ) from error


def _require(session: Session, release: Release, live: Release | None, force: bool) -> _Evidence:
    """What the promotion rests on.

    Raises:
        ReleaseError: it is refused.
        DatabaseError: the recipe can never be released.
    """
    table.refuse_unreleasable(session, release.recipe_id)
    if live is not None and live.id == release.id:
        raise ReleaseError(f"release {release.id} is live already")
    report = newest_about_candidate(session, release.id)
    refusal = _refusal(session, release, live, report)
    if refusal is not None and not force:
        raise ReleaseError(f"{refusal}, or go against the gate with --force --reason TEXT")
    return _Evidence(None if report is None else report.id, None if report is None else report.verdict, refusal)


def _require_profiles(session: Session, release: Release) -> None:
    """Make sure that the recipe knows every individual. An individual that a drop opens after this look is no gap:
    matching embeds whom it does not know before it begins.

    Raises:
        ReleaseError: it does not.
    """
    lacking = individuals_lacking(session, release.recipe_id)
    if lacking:
        name = asked_for_as(release.recipe_id)
        raise ReleaseError(
            f"{lacking} individuals lack profiles under {release.recipe_id}, or have them of fewer detections, and "
            f"might be taken for new ones: run deer-reid reembed --recipe {name} first"
        )


def _refusal(session: Session, release: Release, live: Release | None, report: Report | None) -> str | None:
    again = f"run deer-reid validate --candidate {release.id}"
    if report is None:
        return f"no validation report is about release {release.id}: {again}"
    if report.verdict != PASS:
        return (
            f"the newest validation report about release {release.id} (report {report.id}) says {report.verdict}, and "
            "only PASS promotes"
        )
    if report.release_id != (live.id if live else None):
        return (
            f"report {report.id} compares release {release.id} with release {report.release_id}, but release "
            f"{live.id if live else None} is live now: {again}"
        )
    left = table.last_taken_back(session, release.id)
    if left is not None and left.at > report.created_at:
        return f"release {release.id} was taken back ({left.reason}) after report {report.id} was made: {again}"
    return None


def _show_columns(session: Session, recipe_id: str) -> tuple[int, bool]:
    """Show the release in the columns of as many individuals as the budget allows: how many, and whether that is all.

    Measured on two cores: 2 to 4 ms an individual, because each of three HNSW indexes gets a new entry.
    """
    started = time.perf_counter()
    due = columns_due(session, recipe_id, COLUMNS_MOST)
    shown = 0
    for start in range(0, len(due), COLUMNS_BATCH):
        if time.perf_counter() - started > COLUMNS_BUDGET_S:
            break
        shown += show_columns(session, recipe_id, due[start : start + COLUMNS_BATCH])
    return shown, shown == len(due) < COLUMNS_MOST


def _saved(site: Site, release_id: int) -> tuple[Path, float]:
    started = time.perf_counter()
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-before-release-{release_id}.dump"
    path = back_up(site.database, site.settings.home / "backups" / name)
    return path, time.perf_counter() - started


def _info(session: Session, release: Release, lacking: dict[str, int]) -> ReleaseInfo:
    report = newest_about_candidate(session, release.id)
    judged = table.newest_judgement(session, release.id)
    policy = table.fitted_of(release).policy
    if release.recipe_id not in lacking:
        lacking[release.recipe_id] = individuals_lacking(session, release.recipe_id)
    return ReleaseInfo(
        release=release.id,
        recipe=release.recipe_id,
        name=release.name,
        live=release.live,
        reason=release.reason,
        author=release.author,
        made_from=release.made_from,
        matched_from=policy.threshold,
        new_below=policy.new_below,
        report=None if report is None else report.id,
        verdict=None if report is None else report.verdict,
        trusted=None if judged is None else judged.summary.get("live_verdict"),
        trusted_at=None if judged is None else judged.created_at,
        individuals_lacking=lacking[release.recipe_id],
        created_at=release.created_at,
        promoted_at=release.promoted_at,
    )


def _event(event: ReleaseEvent) -> Event:
    return Event(
        action=event.action,
        release=event.release_id,
        previous=event.previous_release_id,
        report=event.report_id,
        verdict=event.verdict,
        forced=event.forced,
        reason=event.reason,
        actor=event.actor,
        run_id=event.run_id,
        at=event.at,
    )
