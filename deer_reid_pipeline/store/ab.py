"""A/B tests as rows: which two releases stand side by side, and what both made of every encounter that took part.

Who takes part, and in which arm, is decided by a hash elsewhere; here is only what is stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.models import AbOutcome, AbTest, Detection, MatchDecision
from deer_reid_pipeline.store.releases import get_release, lock_releases


def running_test(session: Session) -> AbTest | None:
    """The A/B test that runs now, if one does."""
    return session.scalar(select(AbTest).where(AbTest.ended_at.is_(None)))


def get_test(session: Session, test_id: int) -> AbTest | None:
    """An A/B test by its number."""
    return session.get(AbTest, test_id)


def newest_test(session: Session) -> AbTest | None:
    """The A/B test that began last, running or not."""
    return session.scalar(select(AbTest).order_by(AbTest.id.desc()).limit(1))


def start_test(
    session: Session, release_a: int, release_b: int, share_b: float, share_all: float, salt: str, reason: str
) -> AbTest:
    """Begin an A/B test.

    Args:
        share_b: share of its encounters that arm b decides, 0 to 1.
        share_all: share of new encounters that take part, 0 to 1.
        salt: goes into the hash that gives an encounter its arm.

    Raises:
        DatabaseError: one runs already, a release does not exist, both are the same, or a share is out of range.
    """
    lock_releases(session)  # two that begin at once take turns
    running = running_test(session)
    if running is not None:
        raise DatabaseError(f"A/B test {running.id} is running: end it before another one begins")
    if release_a == release_b:
        raise DatabaseError(f"release {release_a} cannot be compared with itself")
    if not (0 <= share_b <= 1 and 0 <= share_all <= 1):
        raise DatabaseError(f"the shares of an A/B test are 0 to 1, not {share_b:g} and {share_all:g}")
    for release in (release_a, release_b):
        get_release(session, release)
    test = AbTest(
        release_a=release_a, release_b=release_b, share_b=share_b, share_all=share_all, salt=salt, reason=reason
    )
    session.add(test)
    session.flush()
    return test


def end_test(session: Session) -> AbTest | None:
    """End the running A/B test; its outcomes stay. Returns it, or None if none was running."""
    test = running_test(session)
    if test is not None:
        session.execute(update(AbTest).where(AbTest.id == test.id).values(ended_at=func.now()))
        session.refresh(test)
    return test


def put_outcome(
    session: Session,
    test_id: int,
    encounter_id: uuid.UUID,
    arm: str,
    release_id: int,
    outcome_a: dict[str, Any],
    outcome_b: dict[str, Any],
) -> None:
    """Store what both releases made of an encounter; repeating it changes nothing.

    Args:
        arm: a or b: whose outcome was applied.
        release_id: the release of that arm.
        outcome_a: decision, deer_id, individual, score, probability; JSON without NaN.
    """
    session.execute(
        insert(AbOutcome)
        .values(
            ab_test_id=test_id,
            encounter_id=encounter_id,
            arm=arm,
            release_id=release_id,
            outcome_a=outcome_a,
            outcome_b=outcome_b,
        )
        .on_conflict_do_nothing()
    )


def outcomes(session: Session, test_id: int) -> Sequence[AbOutcome]:
    """Every encounter of a test, in order of time and encounter."""
    return session.scalars(
        select(AbOutcome).where(AbOutcome.ab_test_id == test_id).order_by(AbOutcome.at, AbOutcome.encounter_id)
    ).all()


class PersonSaid(NamedTuple):
    """Who a person says that an encounter is, and whether that individual was known when it was decided."""

    deer_id: uuid.UUID
    known_before: bool


def named_by_people(session: Session, test_id: int) -> dict[uuid.UUID, PersonSaid]:
    """What people have said since of the encounters of a test, by encounter; those that they disagree on are left out.

    An encounter's detections are named by a later drop, which gives them an encounter of their own; so the log's
    detections are looked up, not the encounter's.
    """
    decided = (
        select(MatchDecision.encounter_id, MatchDecision.id, MatchDecision.decided_at, MatchDecision.detection_ids)
        .join(AbOutcome, AbOutcome.encounter_id == MatchDecision.encounter_id)
        .where(AbOutcome.ab_test_id == test_id, MatchDecision.method == "machine")
        .subquery()
    )
    rows = session.execute(
        select(decided.c.encounter_id, decided.c.id, decided.c.decided_at, Detection.deer_id)
        .join(Detection, Detection.id == func.any(decided.c.detection_ids))
        .where(Detection.classification_method == "human", Detection.deer_id.is_not(None))
        .distinct()
    ).all()
    named: dict[uuid.UUID, set[uuid.UUID]] = {}
    decision: dict[uuid.UUID, tuple[int, datetime]] = {}
    for encounter, number, at, deer in rows:
        named.setdefault(encounter, set()).add(deer)
        decision[encounter] = min((number, at), decision.get(encounter, (number, at)))
    people = {deer for found in named.values() for deer in found}
    first = dict(
        session.execute(
            select(MatchDecision.deer_id, func.min(MatchDecision.id))
            .where(MatchDecision.deer_id.in_(people))
            .group_by(MatchDecision.deer_id)
        )
        .tuples()
        .all()
    )
    # Of individuals of the owner's own, from before the enhancement, the log says nothing; their detections do.
    before_the_log = dict(
        session.execute(
            select(Detection.deer_id, func.min(Detection.created_at))
            .where(Detection.deer_id.in_(people), Detection.encounter_id.is_(None), ~Detection.superseded)
            .group_by(Detection.deer_id)
        )
        .tuples()
        .all()
    )

    def known(deer: uuid.UUID, number: int, at: datetime) -> bool:
        return first.get(deer, number) < number or before_the_log.get(deer, at) < at

    return {
        encounter: PersonSaid(deer, known(deer, *decision[encounter]))
        for encounter, found in named.items()
        if len(found) == 1
        for deer in found
    }
