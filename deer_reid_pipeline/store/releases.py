"""Releases as rows: which one is live, those that wait, and the append-only log of what became live when and why.

Whoever makes another release live first takes `lock_releases`; whoever must not see it change holds the live row
(`live_release(keep=True)`), for milliseconds only. What may become live is decided in `steps.releases`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.store.models import RecipeRow, Release, ReleaseEvent, Report
from deer_reid_pipeline.store.reports import VALIDATION

FIRST, PROPOSED, PROMOTED, ROLLED_BACK = "first", "proposed", "promoted", "rolled_back"

_RELEASE_LOCK = 0x0DEE_0001


def live_release(session: Session, *, keep: bool = False) -> Release | None:
    """The release that matching uses, or None in a new home.

    Args:
        keep: let no other release become live before this transaction ends. A promotion waits for that long.
    """
    query = select(Release).where(Release.live)
    if not keep:
        return session.scalar(query)
    kept = query.with_for_update(read=True)
    # The first look finds nothing when it had to wait for a promotion: the row that it waited for is live no more.
    return session.scalar(kept) or session.scalar(kept)


def live_recipe_id(session: Session) -> str | None:
    """Recipe of the live release, read from columns that every version of the table has; None in a new home."""
    return session.scalar(select(Release.recipe_id).where(Release.live))


def get_release(session: Session, release_id: int) -> Release:
    """A release by its number.

    Raises:
        DatabaseError: there is none of this number.
    """
    release = session.get(Release, release_id, populate_existing=True)
    if release is None:
        raise DatabaseError(f"release {release_id} is not in this database: deer-reid release status lists them")
    return release


def fitted_of(release: Release) -> FittedPolicy:
    """The policy of a release with those that were fitted without each group of individuals, if any were."""
    if release.fitted is None:
        return FittedPolicy(policy=MatchPolicy.model_validate(release.policy))
    return FittedPolicy.model_validate(release.fitted)


def lock_releases(session: Session) -> None:
    """Let one transaction at a time change which release is live."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _RELEASE_LOCK})


def add_first_release(
    session: Session, recipe_id: str, policy: MatchPolicy, reason: str, actor: str | None = None
) -> Release:
    """Make the first release of a home live; when another process was faster, its release is returned.

    Raises:
        DatabaseError: the recipe can never be released: it has random weights, or is a control or a fold recipe.
    """
    lock_releases(session)
    existing = live_release(session)
    if existing is not None:
        return existing
    refuse_unreleasable(session, recipe_id)
    release = Release(
        recipe_id=recipe_id,
        policy=policy.model_dump(mode="json"),
        live=True,
        reason=reason,
        author=actor,
        promoted_at=func.now(),
    )
    session.add(release)
    session.flush()
    log_event(session, FIRST, release.id, reason, actor=actor)
    return release


def add_candidate(
    session: Session,
    recipe_id: str,
    fitted: FittedPolicy,
    reason: str,
    *,
    report_id: int | None = None,
    name: str | None = None,
    actor: str | None = None,
    run_id: str | None = None,
) -> Release:
    """Add a release that is not live; one with the same recipe and policies that was never live is returned instead.

    Raises:
        DatabaseError: the recipe can never be released: it has random weights, or is a control or a fold recipe.
    """
    lock_releases(session)
    refuse_unreleasable(session, recipe_id)
    policies = fitted.model_dump(mode="json")
    same = session.scalar(
        select(Release).where(
            Release.recipe_id == recipe_id,
            Release.promoted_at.is_(None),
            ~Release.live,
            Release.fitted == policies,
        )
    )
    if same is not None:
        return same
    live = live_release(session)
    release = Release(
        recipe_id=recipe_id,
        policy=fitted.policy.model_dump(mode="json"),
        fitted=policies,
        live=False,
        reason=reason,
        report_id=report_id,
        made_from=live.id if live else None,
        name=name,
        author=actor,
    )
    session.add(release)
    session.flush()
    log_event(session, PROPOSED, release.id, reason, report_id=report_id, actor=actor, run_id=run_id)
    return release


def refuse_unreleasable(session: Session, recipe_id: str) -> None:
    """Make sure that a recipe may be released at all.

    Raises:
        DatabaseError: it has random weights, is a control or a fold recipe, or is not in this database.
    """
    recipe = session.get(RecipeRow, recipe_id)
    if recipe is None:
        raise DatabaseError(f"recipe {recipe_id} is not in this database")
    if recipe.random_weights:
        raise DatabaseError(f"recipe {recipe_id} has random weights and can never be released")
    if recipe.control_of is not None:
        raise DatabaseError(
            f"recipe {recipe_id} embeds only the background of {recipe.control_of}'s pictures: it is a control and can "
            "never be released"
        )
    if recipe.fold_of is not None:
        raise DatabaseError(
            f"recipe {recipe_id} was trained without some individuals to judge {recipe.fold_of} on them: it is a fold "
            f"recipe and can never be released; {recipe.fold_of} can"
        )


def set_live(session: Session, release_id: int) -> None:
    """Make a release live instead of the one that is; the caller holds `lock_releases` and logs it."""
    session.execute(update(Release).where(Release.live, Release.id != release_id).values(live=False))
    session.execute(update(Release).where(Release.id == release_id).values(live=True, promoted_at=func.now()))


def log_event(
    session: Session,
    action: str,
    release_id: int,
    reason: str,
    *,
    previous: int | None = None,
    report_id: int | None = None,
    verdict: str | None = None,
    forced: bool = False,
    actor: str | None = None,
    run_id: str | None = None,
) -> ReleaseEvent:
    """Append to the log, which the database refuses to change afterwards."""
    event = ReleaseEvent(
        action=action,
        release_id=release_id,
        previous_release_id=previous,
        report_id=report_id,
        verdict=verdict,
        forced=forced,
        reason=reason,
        actor=actor,
        run_id=run_id,
    )
    session.add(event)
    session.flush()
    return event


def events(session: Session) -> Sequence[ReleaseEvent]:
    """The whole log, oldest first."""
    return session.scalars(select(ReleaseEvent).order_by(ReleaseEvent.id)).all()


def live_path(session: Session) -> list[int]:
    """The releases behind the live one, oldest first, the live one last: what each rollback takes the last one off.

    A promotion adds to the path, a rollback takes its last release away; so a second rollback goes one further back,
    and never returns to what the first one left.
    """
    path: list[int] = []
    for event in events(session):
        if event.action in (FIRST, PROMOTED):
            path.append(event.release_id)
        elif event.action == ROLLED_BACK and len(path) > 1:
            path.pop()
    live = live_release(session)
    if live is not None and path[-1:] != [live.id]:
        path.append(live.id)  # made live by a version that kept no log
    return path


def candidates(session: Session) -> Sequence[Release]:
    """Releases that were never live, newest first."""
    return session.scalars(
        select(Release).where(~Release.live, Release.promoted_at.is_(None)).order_by(Release.id.desc())
    ).all()


def last_taken_back(session: Session, release_id: int) -> ReleaseEvent | None:
    """The newest rollback that took this release out of use."""
    return session.scalar(
        select(ReleaseEvent)
        .where(ReleaseEvent.action == ROLLED_BACK, ReleaseEvent.previous_release_id == release_id)
        .order_by(ReleaseEvent.id.desc())
        .limit(1)
    )


def newest_judgement(session: Session, release_id: int) -> Report | None:
    """The newest validation report made while this release was live, which says whether it can be trusted."""
    return session.scalar(
        select(Report)
        .where(Report.kind == VALIDATION, Report.release_id == release_id)
        .order_by(Report.id.desc())
        .limit(1)
    )
