"""`false_positive_report`: what the matcher did on one day, what of it is implausible, and how often it is wrong.

A day is a UTC day of deciding, and is judged as things stood at its end: a day that was missed can be reported later.
Running it again replaces the day's flags and sample; the sample comes out the same.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.reid.contradictions import Together
from deer_reid_pipeline.reid.plausibility import SHARE, Judged, judge
from deer_reid_pipeline.reid.sampling import (
    Candidate,
    FalseMatchRate,
    draw,
    false_match_rate,
    number_of,
    reviews_needed,
    risk_of,
)
from deer_reid_pipeline.reid.sightings import same_sex
from deer_reid_pipeline.steps.match_verdicts import wrong_by_people
from deer_reid_pipeline.steps.monitoring_files import write_files
from deer_reid_pipeline.steps.monitoring_report import (
    BOUND,
    FAIL,
    INCONCLUSIVE,
    PASS,
    RECENT_DAYS,
    SIMILAR_ABOVE,
    MatchLine,
    MonitoringReport,
    Recent,
    ReviewItem,
    summary_of,
)
from deer_reid_pipeline.steps.sightings import Match, build_matches, review_pair, to_compare_with
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store import monitoring as stored
from deer_reid_pipeline.store.deployments import places
from deer_reid_pipeline.store.releases import live_release
from deer_reid_pipeline.store.reports import MONITORING, add_report, newest_report

log = logging.getLogger(__name__)

SALT = "deer-reid monitoring"
WINDOW_DAYS = 30


@dataclass(frozen=True)
class _Day:
    """The matches of a day, and everything known of their individuals."""

    decisions: dict[int, stored.DecisionRow]
    matches: dict[int, Match]
    by_individual: Mapping[Hashable, Sequence[Match]]
    judged: Judged


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """Begin of a UTC day and of the next one."""
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)


def today() -> date:
    """The present UTC day."""
    return datetime.now(UTC).date()


def report_day(site: Site, day: date, run_id: str | None = None, window: int = WINDOW_DAYS) -> MonitoringReport:
    """Judge a day's machine matches, draw the sample to review, and write the report.

    Args:
        day: UTC day of deciding.
        window: days, this one included, over which the rate of false matches is estimated.

    Raises:
        DeerReidError: the day has not begun, or the report's files cannot be written (the report is stored all the
            same).
    """
    if day > today():
        raise DeerReidError(f"{day} has not begun (days are UTC, today is {today()}): name an earlier day")
    start, end = day_bounds(day)
    folder = f"reports/monitoring/{day.isoformat()}"
    with site.database.session() as session:
        stored.lock_day(session, day)
        standing = stored.standing_at(session, end)
        recent = stored.standing_decisions(session, standing, start - timedelta(days=RECENT_DAYS - 1))
        decisions = [decision for decision in recent if decision.decided_at >= start]
        looked_at = _look_at(session, decisions, standing)
        flags, sample, without_pair = _flags_and_sample(day, looked_at)
        stored.replace_day(session, day, flags, sample)
        report = _report(session, day, window, recent, looked_at, len(sample), without_pair, folder)
        release = live_release(session)
        summary = summary_of(report)
        number = add_report(
            session,
            MONITORING,
            {**summary, "frame": len(looked_at.matches) - without_pair},
            day=day,
            recipe_id=release.recipe_id if release is not None else None,
            release_id=release.id if release is not None else None,
            verdict=report.verdict,
            folder=folder,
            run_id=run_id,
        ).id
    # The files name the report's number, so it is stored first. Of two reports at once the newer one's files stay.
    with site.database.session() as session:
        stored.lock_day(session, day)
        newest = newest_report(session, MONITORING, day=day)
        if newest is None or newest.id == number:
            write_files(site, session, report, number)
    log.info("monitoring %s: %d matches, %d flags. %s", day, report.matched, len(report.flags), report.sentence)
    return report


def waiting_reviews(site: Site, days: int = WINDOW_DAYS) -> list[ReviewItem]:
    """Flagged and drawn matches of the last days that no person has said enough about; flagged ones first."""
    last = today()
    with site.database.session() as session:
        sample = stored.sample_between(session, last - timedelta(days=days - 1), last)
        return _waiting(session, sample, _said(session, sample))


def _look_at(session: Session, decisions: Sequence[stored.DecisionRow], standing: stored.Standing) -> _Day:
    suspects = {d.id: d for d in decisions if d.method == stored.MACHINE and d.decision == "matched" and d.deer_id}
    deer = {decision.deer_id for decision in suspects.values() if decision.deer_id is not None}
    rows = stored.sightings_until(session, deer, standing) if deer else []
    individuals = stored.individuals_by_id(session, deer)
    positions = {
        key: (place.latitude, place.longitude)
        for key, place in places(session, {row.camera for row in rows if row.camera is not None}).items()
        if place.latitude is not None and place.longitude is not None
    }
    all_matches = build_matches(rows, individuals, positions, suspects)
    earlier = stored.sighting_counts(session, standing, without=suspects)
    judged = judge([m.sighting for m in all_matches], dict(earlier.items()), len(earlier.keys() | deer))
    by_individual: dict[Hashable, list[Match]] = defaultdict(list)
    for match in all_matches:
        by_individual[match.sighting.individual].append(match)
    matches = {
        match.rows[0].decision_id: match
        for match in all_matches
        if match.sighting.suspect and match.rows[0].decision_id is not None
    }
    return _Day(suspects, matches, by_individual, judged)


def _flags_and_sample(day: date, of: _Day) -> tuple[list[stored.FlagRow], list[stored.SampleRow], int]:
    decision_of = {match.sighting.encounter: key for key, match in of.matches.items()}
    # What was there before there were encounters is known by its detection, and the table cannot point at it.
    encounters = {row.encounter_id for members in of.by_individual.values() for m in members for row in m.rows}
    flags = [
        stored.FlagRow(
            day,
            flag.rule,
            _key(flag.encounter),
            _key(flag.other) if flag.other in encounters else None,
            decision_of[flag.encounter],
            _key(flag.individual),
            flag.text,
        )
        for flag in of.judged.flags
    ]
    # A whole individual that took too many makes all of its matches risky, not certain to be drawn.
    certain = {flag.encounter for flag in of.judged.flags if flag.rule != SHARE}
    doubted = {key for flag in of.judged.flags if flag.rule == SHARE for key in flag.encounters}
    ranked = {key: to_compare_with(members) for key, members in of.by_individual.items()}
    pairs = {key: review_pair(match, ranked[match.sighting.individual]) for key, match in of.matches.items()}
    candidates = []
    for key, match in of.matches.items():
        decision = of.decisions[key]
        risk = risk_of(decision.probability, match.sighting.score, decision.threshold)
        flagged = match.sighting.encounter in certain
        if pairs[key] is not None:
            candidates.append(Candidate(str(key), 1.0 if match.sighting.encounter in doubted else risk, flagged))
    sample = []
    for drawn in draw(candidates, SALT):
        key = int(drawn.key)
        match, pair = of.matches[key], pairs[key]
        assert pair is not None
        sample.append(
            stored.SampleRow(
                day,
                key,
                _key(match.sighting.encounter),
                _key(match.sighting.individual),
                drawn.stratum,
                drawn.inclusion_probability,
                *pair,
            )
        )
    return flags, sample, len(of.matches) - len(candidates)


def _key(value: Hashable) -> uuid.UUID:
    assert isinstance(value, uuid.UUID)
    return value


def _report(
    session: Session,
    day: date,
    window: int,
    recent: Sequence[stored.DecisionRow],
    of: _Day,
    sampled: int,
    without_pair: int,
    folder: str,
) -> MonitoringReport:
    first = day - timedelta(days=window - 1)
    decisions = [d for d in recent if d.decided_at >= day_bounds(day)[0]]
    machine = [d for d in decisions if d.method == stored.MACHINE]
    sample = stored.sample_between(session, first, day)
    wrong = _said(session, sample)
    days = stored.reported_days(session, first, day)
    days[day] = stored.ReportedDay(len(of.matches), len(of.matches) - without_pair, len(of.judged.flags))
    rate = _rate(days, sample, wrong)
    matched_on = stored.days_with_matches(session, day_bounds(first)[0], day_bounds(day)[1])
    verdict = FAIL if rate.low > BOUND else PASS if rate.reviewed and rate.high <= BOUND else INCONCLUSIVE
    wanted = reviews_needed(rate.value, BOUND) if rate.reviewed else reviews_needed(0.0, BOUND)
    return MonitoringReport(
        day=day,
        until=min(day_bounds(day)[1], datetime.now(UTC)),
        outcomes=dict(Counter(d.decision for d in machine)),
        by_person=len(decisions) - len(machine),
        releases=tuple(sorted({d.release_id for d in machine if d.release_id is not None})),
        similar=_similar(of),
        flags=tuple(of.judged.flags),
        compared=dict(of.judged.compared),
        not_judged={rule: count for rule, count in of.judged.not_judged.items() if count},
        sampled=sampled,
        without_pair=without_pair,
        window=window,
        rate=rate,
        verdict=verdict,
        needed=None if wanted is None else max(1, wanted - rate.reviewed),
        days_without_report=len(matched_on - days.keys()),
        recent=_recent(session, recent),
        to_review=tuple(_waiting(session, sample, wrong)),
        history=tuple((key, days[key].matches, days[key].flags) for key in sorted(days)),
        folder=folder,
    )


def _rate(
    days: Mapping[date, stored.ReportedDay], sample: Sequence[stored.SampleRow], wrong: Mapping[int, bool]
) -> FalseMatchRate:
    """The rate of false matches over days."""
    return false_match_rate(
        np.array([item.inclusion_probability for item in sample]),
        np.array([float(wrong[item.decision_id]) if item.decision_id in wrong else np.nan for item in sample]),
        sum(item.frame for item in days.values()),
    )


def _similar(of: _Day) -> tuple[MatchLine, ...]:
    """The day's matches with similarity above 0.50, the least similar first."""
    named: dict[Hashable, list[str]] = defaultdict(list)
    for flag in of.judged.flags:
        for encounter in flag.encounters if flag.rule == SHARE else (flag.encounter,):
            named[encounter].append(flag.rule)
    lines = []
    for members in of.by_individual.values():
        together = Together([member.sighting for member in members])
        for place, match in enumerate(members):
            sighting = match.sighting
            if not sighting.suspect or not sighting.score > SIMILAR_ABOVE:
                continue
            key = match.rows[0].decision_id
            assert key is not None
            lines.append(
                MatchLine(
                    key,
                    str(sighting.encounter),
                    sighting.name,
                    sighting.score,
                    of.decisions[key].probability,
                    same_sex(sighting),
                    _agrees(together.sizes(place), place),
                    _agrees(together.travel(place), place),
                    tuple(named[sighting.encounter]),
                )
            )
    return tuple(sorted(lines, key=lambda line: (line.similarity, line.decision_id)))


def _agrees(severity: np.ndarray, place: int) -> bool | None:
    """False where another sighting contradicts, True where one could be compared, None where none could."""
    others = np.delete(severity, place)
    if (others > 0).any():
        return False
    return True if np.isfinite(others).any() else None


def _recent(session: Session, decisions: Sequence[stored.DecisionRow]) -> Recent:
    scores = {
        d.id: d.score
        for d in decisions
        if d.method == stored.MACHINE and d.decision == "matched" and d.score is not None
    }
    wrong = wrong_by_people(session, list(scores))
    by_verdict: dict[bool | None, list[float]] = defaultdict(list)
    for key, score in scores.items():
        by_verdict[wrong.get(key)].append(score)
    return Recent(*(tuple(sorted(by_verdict[verdict])) for verdict in (False, True, None)))


def _said(session: Session, sample: Sequence[stored.SampleRow]) -> dict[int, bool]:
    """Whether each drawn match is wrong, of those that people said enough about."""
    pairs = {item.decision_id: (item.detection_a, item.detection_b) for item in sample}
    return wrong_by_people(session, list(pairs), pairs)


def _waiting(session: Session, sample: Sequence[stored.SampleRow], said: Mapping[int, bool]) -> list[ReviewItem]:
    days = [item.day for item in sample]
    reasons: dict[int, list[str]] = defaultdict(list)
    for flag in stored.flags_between(session, min(days), max(days)) if days else ():
        if flag.decision_id is not None:
            reasons[flag.decision_id].append(flag.detail)
    decisions = stored.decision_rows(session, [item.decision_id for item in sample])
    items = []
    for item in sample:
        if item.decision_id in said:
            continue
        decision, why = decisions[item.decision_id], reasons.get(item.decision_id, [])
        items.append(
            ReviewItem(
                item.day,
                item.decision_id,
                decision.individual or str(item.deer_id),
                decision.score,
                decision.probability,
                item.detection_a,
                item.detection_b,
                bool(why),
                " ".join(why) or "Drawn by lot, so that the share of false matches can be told.",
            )
        )
    order = {item.decision_id: number_of(str(item.decision_id), SALT) for item in items}
    return sorted(items, key=lambda item: (not item.flagged, -item.day.toordinal(), order[item.decision_id]))
