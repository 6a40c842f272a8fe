"""Whether there is anything to do tonight, of each kind of nightly work, and why, in words.

Reads the store and changes nothing: what runs decide it again for themselves. Where nothing changed, work whose results
are watched for their age is done once a week all the same, so that its checks look at the stored rows again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.steps.monitoring import WINDOW_DAYS, day_bounds
from deer_reid_pipeline.steps.profiles import lacking_second
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import data_digest, judged_by_others, load_truth
from deer_reid_pipeline.steps.tuning import FOLDS
from deer_reid_pipeline.store import nightly as stored
from deer_reid_pipeline.store.media import detections_without_vectors
from deer_reid_pipeline.store.monitoring import days_with_matches
from deer_reid_pipeline.store.profiles import stale_profiles
from deer_reid_pipeline.store.releases import fitted_of, live_release
from deer_reid_pipeline.store.reports import TUNING, VALIDATION
from deer_reid_pipeline.store.vectors import embedded

AT_LEAST_EVERY = timedelta(days=7)
"""How long work with nothing to do is put off."""

CAUGHT_UP_A_NIGHT = 7
"""Days without a monitoring report that one night makes up for."""

NOTHING_YET = "nothing was processed yet: no release is live"
HOW_TO_NAME = "name animals in a drop's table (individualID), or import reviews (deer-reid review import)"


@dataclass(frozen=True)
class Decision:
    """Whether work is needed tonight.

    Attributes:
        reason: why it is, or why not, in words.
        days: those to report, of monitoring.
    """

    needed: bool
    reason: str
    days: tuple[date, ...] = ()


@dataclass(frozen=True)
class _Live:
    release: int
    recipe: str
    branches: tuple[str, ...]


def reembedding(site: Site, now: datetime, last: datetime | None) -> Decision:
    """Needed while a detection or profile lacks vectors of the live recipe.

    A picture that could not be read when it was last tried counts as done until a week has passed.

    Args:
        last: when everything was last gone through, which a drop's run does not do; None: never.
    """
    with site.database.session() as session:
        live = _live(session)
    if live is None:
        return Decision(False, NOTHING_YET)
    second = lacking_second(site, live.recipe)
    with site.database.session() as session:
        lacking = detections_without_vectors(session, live.recipe, live.branches)
        lacking += sorted(set(second) - set(lacking), key=str)
        lost = stored.without_picture(session, lacking)
        stale = len(stale_profiles(session, live.recipe, live=True))
        empty = stored.has_empty_profiles(session)
        known = stored.has_individuals(session)
    judged = _lacking_for_judges(site, live.recipe)
    todo = [
        f"{count} {what}"
        for count, what in (
            (len(lacking) - len(lost), f"detections lack vectors of {live.recipe}"),
            (stale, "profiles are behind their detections"),
            (judged, "vectors of the models that judge it are missing"),
        )
        if count
    ]
    todo += ["profiles of individuals without detections are to be removed"] if empty else []
    if todo:
        return Decision(True, ", ".join(todo))
    unread = f"; {len(lost)} detections have no readable picture and are tried once a week" if lost else ""
    if not known and not lost:
        return Decision(False, "there are no detections and no individuals yet")
    if _long_ago(last, now):
        checked = "were never checked" if last is None else "were not checked for a week"
        return Decision(True, f"nothing is missing, and the stored rows {checked}{unread}")
    return Decision(False, f"every detection and profile has vectors of {live.recipe}{unread}")


def validation(site: Site, now: datetime, last: datetime | None) -> Decision:
    """Needed when the animals that people named, or their vectors, are not those of the newest report on what is live.

    Args:
        last: when it was last done; None: never.
    """
    with site.database.session() as session:
        live = _live(session)
        report = None if live is None else _newest(session, VALIDATION, live)
    if live is None:
        return Decision(False, NOTHING_YET)
    labelled = load_truth(site, live.recipe).labelled
    if labelled.individuals < 2:
        return Decision(False, _too_few(labelled.individuals, "judging", 2))
    if report is None:
        return Decision(True, f"release {live.release} was not judged yet")
    number, digest = report
    if digest != data_digest(labelled):
        return Decision(True, f"named animals or their vectors changed since validation report {number}")
    same = f"nothing that release {live.release} is judged on changed since validation report {number}"
    if _long_ago(last, now):
        return Decision(True, f"{same}, and a week has passed")
    return Decision(False, same)


def tuning(site: Site) -> Decision:
    """Needed when the animals that people named, or their vectors, are not those of the newest fit to what is live."""
    with site.database.session() as session:
        live = _live(session)
        report = None if live is None else _newest(session, TUNING, live)
    if live is None:
        return Decision(False, NOTHING_YET)
    labelled = load_truth(site, live.recipe).labelled
    if labelled.individuals < FOLDS:
        return Decision(False, _too_few(labelled.individuals, "fitting", FOLDS))
    if report is None:
        return Decision(True, f"nothing was fitted to release {live.release} yet")
    number, digest = report
    if digest != data_digest(labelled):
        return Decision(True, f"named animals or their vectors changed since tuning report {number}")
    return Decision(False, f"nothing that is fitted to changed since tuning report {number}")


def monitoring(site: Site, now: datetime, last: datetime | None) -> Decision:
    """Needed for each finished day with machine matches that has no report made after its end.

    Days that were missed are made up for, the oldest first, as far back as the rate of false matches looks.

    Args:
        last: when it was last done; None: never.
    """
    yesterday = now.astimezone(UTC).date() - timedelta(days=1)
    first = yesterday - timedelta(days=WINDOW_DAYS - 1)
    with site.database.session() as session:
        if _live(session) is None:
            return Decision(False, NOTHING_YET)
        matched = days_with_matches(session, day_bounds(first)[0], day_bounds(yesterday)[1])
        reported = stored.days_reported_whole(session, first, yesterday)
    due = sorted(matched - reported)
    if due:
        tonight, later = due[:CAUGHT_UP_A_NIGHT], len(due) - CAUGHT_UP_A_NIGHT
        wait = f"; {later} more days wait for the next nights" if later > 0 else ""
        return Decision(True, f"{_days(tonight)} had matches and no report{wait}", tuple(tonight))
    if yesterday not in reported and last is not None and _long_ago(last, now):
        return Decision(
            True, f"no matches without a report, and a week has passed: {yesterday} is looked at", (yesterday,)
        )
    if yesterday in reported:
        return Decision(False, f"{yesterday} has its report, and no earlier day lacks one")
    return Decision(False, f"the machine matched nothing on {yesterday} (UTC), and no earlier day lacks its report")


def benchmark(site: Site, now: datetime, last: datetime | None, working: str | None) -> Decision:
    """Needed once a week in a home that matches, while nothing else works.

    Args:
        last: when it was last done; None: never.
        working: a run that works now, in words; None: nothing does.
    """
    with site.database.session() as session:
        if _live(session) is None:
            return Decision(False, NOTHING_YET)
    if last is not None and not _long_ago(last, now):
        return Decision(False, f"it was measured on {last:%Y-%m-%d}, less than a week ago")
    if working is not None:
        return Decision(False, f"{working}, and speeds measured beside it would say nothing")
    return Decision(True, "a week has passed" if last else "nothing was measured yet")


def _live(session: Session) -> _Live | None:
    release = live_release(session)
    if release is None:
        return None
    return _Live(release.id, release.recipe_id, fitted_of(release).policy.needed_branches)


def _newest(session: Session, kind: str, live: _Live) -> tuple[int, str | None] | None:
    report = stored.newest_of_release(session, kind, live.release, live.recipe)
    return None if report is None else (report.id, report.data_digest)


def _lacking_for_judges(site: Site, recipe_id: str) -> int:
    """Vectors that models of a fine-tuned recipe lack of the animals that they judge and that can be made."""
    count = 0
    judges = judged_by_others(site, recipe_id)
    with site.database.session() as session:
        for judge, keys in judges.items():
            lacking = sorted(set(keys) - embedded(session, judge, BRANCHES, keys), key=str)
            count += len(lacking) - len(stored.without_picture(session, lacking))
    return count


def _too_few(individuals: int, what: str, needed: int) -> str:
    return f"{individuals} individuals were named by a person, and {what} needs at least {needed}: {HOW_TO_NAME}"


def _days(days: Sequence[date]) -> str:
    return ", ".join(day.isoformat() for day in days)


def _long_ago(last: datetime | None, now: datetime) -> bool:
    """Whether seven nights have passed: half a day less than a week, since a run ends some hours after its tick."""
    return last is None or now - last >= AT_LEAST_EVERY - timedelta(hours=12)
