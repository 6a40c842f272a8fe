"""A/B tests: two releases decide the same new encounters, and a hash of the encounter says whose outcome counts.

Both outcomes are stored, so that the two are compared in pairs. Only a person's word says which one was right.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import ReleaseError
from deer_reid_pipeline.reid.ab import A, B, Comparison, Outcome, PairedOutcome, arm_of, compare
from deer_reid_pipeline.reid.encounters import EncounterGroup
from deer_reid_pipeline.reid.matching import MATCHED
from deer_reid_pipeline.steps.deciding import (
    Considered,
    Deciding,
    Settled,
    consider,
    decide_one,
    learn,
    query_of,
)
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.encounter_groups import compared_branches, load_drop
from deer_reid_pipeline.steps.policies import asked_for_as
from deer_reid_pipeline.steps.profiles import embed_evidence, embed_lacking, refresh_stale
from deer_reid_pipeline.steps.search import ready_to_search
from deer_reid_pipeline.steps.site import Matcher, Site
from deer_reid_pipeline.store import ab as table
from deer_reid_pipeline.store.ids import encounter_id
from deer_reid_pipeline.store.models import AbTest
from deer_reid_pipeline.store.profiles import detections_lacking, evidence_lacking, individuals_lacking
from deer_reid_pipeline.store.releases import get_release, live_release, lock_releases, refuse_unreleasable
from deer_reid_pipeline.store.reports import AB, add_report
from deer_reid_pipeline.store.search import GallerySource, open_gallery

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestInfo:
    """An A/B test as people see it; `share_b` of `share_all` of the new encounters are decided by release b.

    Attributes:
        resting: why it runs but takes no part in deciding now; None where it does, or is over.
    """

    test: int
    release_a: int
    release_b: int
    share_b: float
    share_all: float
    reason: str
    running: bool
    resting: str | None = None


@dataclass(frozen=True)
class AbReport:
    """How the two releases of a test compare so far; `report` is the row that keeps it."""

    test: TestInfo
    comparison: Comparison
    report: int

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self.comparison)
        for name in ("right", "wrong"):
            found[name] = {arm: item.as_dict() for arm, item in getattr(self.comparison, name).items()}
        for name in ("agreement", "right_gain", "wrong_gain"):
            item = getattr(self.comparison, name)
            found[name] = None if item is None else item.as_dict()
        return {**asdict(self.test), **found, "report": self.report}


def start(site: Site, release_b: int, *, share_b: float, share_all: float, reason: str) -> TestInfo:
    """Let another release decide a share of new encounters beside the live one.

    Raises:
        ReleaseError: no release is live, no reason was given, the other cannot be used, or the two decide about
            different things (pictures and encounters).
        DatabaseError: a test runs already, or there is no such release.
    """
    if not reason.strip():
        raise ReleaseError("an A/B test lets another release decide real encounters and needs a reason: --reason TEXT")
    matcher = site.matcher_of(release_b)
    with site.database.session() as session:
        lock_releases(session)  # no other release becomes live between this look and the start
        live = live_release(session)
        if live is None:
            raise ReleaseError("no release is live, so that there is nothing to compare with: run deer-reid init")
        refuse_unreleasable(session, matcher.recipe.id)
        lacking = individuals_lacking(session, matcher.recipe.id)
        if lacking:
            name = asked_for_as(matcher.recipe.id)
            raise ReleaseError(
                f"{lacking} individuals lack profiles under {matcher.recipe.id}: run deer-reid reembed --recipe {name}"
            )
        if dict(live.policy).get("unit") != matcher.policy.unit:
            raise ReleaseError("one release decides about pictures, the other about encounters: they cannot share them")
        test = table.start_test(session, live.id, release_b, share_b, share_all, uuid.uuid4().hex, reason.strip())
        return _info(site, session, test)


def stop(site: Site) -> TestInfo:
    """End the running test; its outcomes stay.

    Raises:
        ReleaseError: none is running.
    """
    with site.database.session() as session:
        test = table.end_test(session)
        if test is None:
            raise ReleaseError("no A/B test is running")
        return _info(site, session, test)


def ab_report(site: Site, test_id: int | None = None, run_id: str | None = None) -> AbReport:
    """Compare the two releases of a test (the newest, unless named), and keep the comparison as a report.

    Raises:
        ReleaseError: there is no such test.
    """
    with site.database.session() as session:
        test = table.newest_test(session) if test_id is None else table.get_test(session, test_id)
        if test is None:
            raise ReleaseError("there was no A/B test yet: deer-reid ab start RELEASE --reason TEXT")
        rows = table.outcomes(session, test.id)
        said = table.named_by_people(session, test.id)
        pairs = []
        for row in rows:
            truth = said.get(row.encounter_id)
            pairs.append(
                PairedOutcome(
                    _outcome(row.outcome_a),
                    _outcome(row.outcome_b),
                    None if truth is None else str(truth.deer_id),
                    truth is None or truth.known_before,
                )
            )
        comparison = compare(pairs)
        info = _info(site, session, test)
        found = AbReport(info, comparison, 0).as_dict()
        report = add_report(
            session,
            AB,
            found,
            recipe_id=get_release(session, test.release_a).recipe_id,
            release_id=test.release_a,
            candidate_id=test.release_b,
            run_id=run_id,
        )
        return AbReport(info, comparison, report.id)


def newest_test(site: Site) -> TestInfo | None:
    """The test that began last, running or not; None before the first."""
    with site.database.session() as session:
        test = table.newest_test(session)
        return None if test is None else _info(site, session, test)


class SideBySide:
    """The running test, as a run that decides a drop works with it. `open_test` makes one."""

    def __init__(self, test: TestInfo, salt: str, matcher: Matcher, tried: set[uuid.UUID] | None = None) -> None:
        self.test = test
        self.matcher = matcher
        self._salt = salt
        self._tried = tried
        self._work: Deciding | None = None
        self._gallery: GallerySource | None = None

    def is_behind(self, session: Session) -> bool:
        """Whether individuals were seen since `open_test` in pictures that release b's recipe has no vectors of."""
        if self._tried is None:
            return False
        recipe = self.matcher.recipe.id
        return bool({*detections_lacking(session, recipe), *evidence_lacking(session, recipe)} - self._tried)

    def begin(self, session: Session, work: Deciding, without: set[Any]) -> None:
        """Open release b's gallery beside that of the live one, in the transaction that decides."""
        recipe = self.matcher.recipe.id
        if recipe != work.matcher.recipe.id:
            refresh_stale(session, recipe)
        drop = load_drop(session, self.matcher, work.drop.key)
        self._work = Deciding(self.matcher, drop, work.run_id, work.say, work.result)
        self._gallery = open_gallery(session, recipe, self.matcher.policy, without=without)

    def decide(
        self,
        session: Session,
        work: Deciding,
        gallery: GallerySource,
        group: EncounterGroup,
        ordinal: int,
        taken: dict[object, set[object]],
    ) -> None:
        """Decide an encounter by the release whose turn it is, and store what both make of it."""
        assert self._work is not None
        assert self._gallery is not None
        key = encounter_id(work.drop.key, [row.id for row in work.rows_of(group)])
        arm = arm_of(key, self._salt, self.test.share_all, self.test.share_b) if group.individual is None else None
        sides = {A: (work, gallery), B: (self._work, self._gallery)}
        considered = {} if arm is None else {name: consider(*side, group, taken) for name, side in sides.items()}
        applied, other = (B, A) if arm == B else (A, B)
        settled = decide_one(session, *sides[applied], group, ordinal, taken, considered.get(applied))
        beside, its_gallery = sides[other]
        beside.next_number = sides[applied][0].next_number  # both name new individuals from one series
        if settled.deer is not None:
            query = query_of(beside, group)
            learn(its_gallery, beside, query, settled.deer, settled.name or "", group.sex, settled.decision)
        if arm is not None:
            release = self.test.release_a if arm == A else self.test.release_b
            outcomes = {name: _stored(found, settled if name == arm else None) for name, found in considered.items()}
            table.put_outcome(session, self.test.test, key, arm, release, outcomes[A], outcomes[B])


def open_test(site: Site, matcher: Matcher, drop_key: str, say: LogLine = log.info) -> SideBySide | None:
    """The running test with what release b needs for a drop; None where none applies to this run.

    A test rests while its release a is not live, and where a setting overrides what the release says. After that,
    release b is brought up to date with what was decided without it.
    """
    with site.database.session() as session:
        test = table.running_test(session)
        if test is None:
            return None
        info, salt = _info(site, session, test), test.salt
    if matcher.release_id != info.release_a or matcher.overrides:
        why = "settings override the live release" if matcher.overrides else f"release {info.release_a} is not live"
        say(f"A/B test {info.test} rests: {why}")
        return None
    other, tried = site.matcher_of(info.release_b), None
    if other.recipe.id == matcher.recipe.id:
        if set(other.policy.branches) - set(matcher.policy.branches):
            embed_drop(site, other.recipe, drop_key, say, compared_branches(other))
            ready_to_search(site, other.recipe.id, other.policy, say)
    else:
        embed_drop(site, other.recipe, drop_key, say, other.policy.needed_branches)
        tried = {*embed_lacking(site, other.recipe, say), *embed_evidence(site, other.recipe, say)}
        ready_to_search(site, other.recipe.id, other.policy, say)
    say(
        f"A/B test {info.test}: {info.share_all:.0%} of new encounters are decided by release {info.release_a} and "
        f"release {info.release_b} (applied to {info.share_b:.0%} of them)"
    )
    return SideBySide(info, salt, other, tried)


def _stored(considered: Considered, settled: Settled | None) -> dict[str, Any]:
    """An outcome as JSON. The individual is the one named, or the one opened where the outcome was applied."""
    decision = considered.decision
    best = decision.best if decision.outcome == MATCHED else None
    named = (best.key, best.name) if best is not None else (settled.deer, settled.name) if settled else (None, None)
    return {
        "decision": decision.outcome,
        "deer_id": None if named[0] is None else str(named[0]),
        "individual": named[1],
        "score": None if decision.best is None else decision.best.score,
        "probability": decision.probability,
    }


def _outcome(stored: dict[str, Any]) -> Outcome:
    return Outcome(stored["decision"], stored["deer_id"])


def _info(site: Site, session: Session, test: AbTest) -> TestInfo:
    live, resting = live_release(session), None
    if test.ended_at is None and (live is None or live.id != test.release_a):
        resting = f"release {test.release_a} is not live now"
    elif test.ended_at is None and (not site.settings.use_enhanced_reid or site.settings.reid_threshold is not None):
        resting = "settings override the live release"
    return TestInfo(
        test=test.id,
        release_a=test.release_a,
        release_b=test.release_b,
        share_b=test.share_b,
        share_all=test.share_all,
        reason=test.reason,
        running=test.ended_at is None,
        resting=resting,
    )
