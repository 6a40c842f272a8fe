"""What monitoring reads and writes: the decisions of a period, whom they concern, a day's flags and its sample.

Everything is read as it stood at the end of a day, from the log of decisions, so that a day that was missed can be
reported later.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import FromClause, case, column, delete, func, insert, literal, null, select, table, text
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.media import box_of
from deer_reid_pipeline.store.models import (
    Deer,
    Detection,
    DropMedia,
    Encounter,
    Image,
    MatchDecision,
    MonitorFlag,
    MonitorSample,
    Report,
)
from deer_reid_pipeline.store.reports import MONITORING

MACHINE, HUMAN, BEFORE = "machine", "human", "before"
"""Who identified a sighting: the matcher, a person, or whatever was there before the enhancement."""

_SEEN = (
    Detection.classification,
    Detection.life_stage,
    Detection.viewpoint,
    Detection.given_individual,
    Detection.source,
    Detection.confidence,
    case((Detection.bbox_x.is_(None), Detection.bbox)).label("bbox"),
    Detection.bbox_x,
    Detection.bbox_y,
    Detection.bbox_width,
    Detection.bbox_height,
    Image.width,
    Image.height,
)
"""What follows `sex` in a `SightingRow`; the last seven make its box."""

_DECIDED = (
    MatchDecision.id,
    MatchDecision.encounter_id,
    MatchDecision.decision,
    MatchDecision.method,
    MatchDecision.deer_id,
    MatchDecision.individual,
    MatchDecision.score,
    MatchDecision.threshold,
    MatchDecision.probability,
    MatchDecision.release_id,
    MatchDecision.decided_at,
)
"""The columns of a `DecisionRow`."""

_LATEST = datetime.max.replace(tzinfo=UTC)
_DAY_LOCK = 0x0DEE_0004


@dataclass(frozen=True)
class Standing:
    """The log as it stood at `end`: `last` has the newest decision about each detection, of those made before."""

    end: datetime
    last: FromClause


@dataclass(frozen=True)
class DecisionRow:
    """A standing decision: the newest one about at least one of its detections."""

    id: int
    encounter_id: uuid.UUID
    decision: str
    method: str
    deer_id: uuid.UUID | None
    individual: str | None
    score: float | None
    threshold: float | None
    probability: float | None
    release_id: int | None
    decided_at: datetime


@dataclass(frozen=True)
class SightingRow:
    """A standing detection of an individual, with the decision that gave it to it.

    Attributes:
        decision_id: None for what was there before the enhancement.
        decision: matched or new_individual; matched where there is no decision.
        box: x, y, width, height as shares of the picture; no size where it cannot be placed.
        sex: of the encounter: male, female or unknown.
        source: of the detection; None for the owner's rows.
    """

    detection_id: uuid.UUID
    image_id: uuid.UUID
    encounter_id: uuid.UUID | None
    decision_id: int | None
    decision: str
    method: str
    deer_id: uuid.UUID
    score: float | None
    camera: str | None
    started_at: datetime | None
    ended_at: datetime | None
    sex: str
    classification: str
    life_stage: str | None
    viewpoint: str | None
    given_individual: str | None
    source: str | None
    confidence: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class IndividualRow:
    """An individual's record. `sex` and `identified_by` are the owner's words; the latter None for the owner's rows."""

    id: uuid.UUID
    name: str
    sex: str
    life_stage: str | None
    identified_by: str | None
    first_seen: datetime | None


@dataclass(frozen=True)
class FlagRow:
    """A flag of a day as it is stored."""

    day: date
    rule: str
    encounter_id: uuid.UUID
    other_encounter_id: uuid.UUID | None
    decision_id: int | None
    deer_id: uuid.UUID | None
    detail: str


@dataclass(frozen=True)
class SampleRow:
    """A drawn decision of a day as it is stored."""

    day: date
    decision_id: int
    encounter_id: uuid.UUID
    deer_id: uuid.UUID
    stratum: str
    inclusion_probability: float
    detection_a: uuid.UUID
    detection_b: uuid.UUID


@dataclass(frozen=True)
class ReportedDay:
    """What the newest report of a day counted: matches, those of them that could be drawn, and flags."""

    matches: int
    frame: int
    flags: int


def lock_day(session: Session, day: date) -> None:
    """Wait until no other transaction works on this day's report; held until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(_DAY_LOCK, day.toordinal())))


def standing_at(session: Session, end: datetime) -> Standing:
    """The log as it stood at a moment, looked up once: a temporary table of this transaction."""
    session.execute(text("DROP TABLE IF EXISTS pg_temp.last_said"))
    session.execute(
        text(
            "CREATE TEMPORARY TABLE last_said ON COMMIT DROP AS "
            "SELECT detection_id, max(id) AS decision_id FROM match_decisions, unnest(detection_ids) AS detection_id "
            "WHERE decided_at < :end GROUP BY detection_id"
        ),
        {"end": end},
    )
    session.execute(text("ANALYZE pg_temp.last_said"))
    columns = (column("detection_id", Detection.id.type), column("decision_id", MatchDecision.id.type))
    return Standing(end, table("last_said", *columns, schema="pg_temp"))


def standing_now() -> Standing:
    """The log as it stands, looked up anew by each query."""
    said = select(
        func.unnest(MatchDecision.detection_ids).label("detection_id"), MatchDecision.id.label("decision_id")
    ).subquery()
    last = select(said.c.detection_id, func.max(said.c.decision_id).label("decision_id")).group_by(said.c.detection_id)
    return Standing(_LATEST, last.subquery())


def standing_decisions(session: Session, standing: Standing, start: datetime) -> list[DecisionRow]:
    """Decisions made from `start` on that stand, in the order in which they were made."""
    rows = session.execute(
        select(*_DECIDED)
        .where(
            MatchDecision.decided_at >= start,
            MatchDecision.decided_at < standing.end,
            MatchDecision.id.in_(select(standing.last.c.decision_id)),
        )
        .order_by(MatchDecision.id)
    )
    return [DecisionRow(*row) for row in rows]


def decision_rows(session: Session, decisions: Collection[int]) -> dict[int, DecisionRow]:
    """These decisions, standing or not."""
    rows = session.execute(select(*_DECIDED).where(MatchDecision.id.in_(decisions)))
    return {row.id: DecisionRow(*row) for row in rows}


def days_with_matches(session: Session, start: datetime, end: datetime) -> set[date]:
    """UTC days on which the machine matched an encounter."""
    day = func.date(func.timezone("UTC", MatchDecision.decided_at))
    return set(
        session.scalars(
            select(day)
            .where(
                MatchDecision.method == MACHINE,
                MatchDecision.decision == "matched",
                MatchDecision.decided_at >= start,
                MatchDecision.decided_at < end,
            )
            .distinct()
        )
    )


def reported_days(session: Session, first: date, last: date) -> dict[date, ReportedDay]:
    """What the newest monitoring report of each of these days counted, both days included."""
    rows = session.execute(
        select(
            Report.day,
            Report.summary["matches"].as_integer(),
            Report.summary["frame"].as_integer(),
            func.jsonb_array_length(Report.summary["flags"]),
        )
        .distinct(Report.day)
        .where(Report.kind == MONITORING, Report.day >= first, Report.day <= last)
        .order_by(Report.day, Report.id.desc())
    )
    return {day: ReportedDay(*counts) for day, *counts in rows if day is not None}


def sightings_until(
    session: Session, deer: Collection[uuid.UUID], standing: Standing, *, evidence_only: bool = False
) -> list[SightingRow]:
    """Standing detections that belonged to these individuals then, by individual, decision and id.

    Args:
        evidence_only: leave out the machine's matches, which say whom an animal resembles and not who it is.
    """
    last = standing.last
    decided = (
        select(
            Detection.id.label("detection_id"),
            Detection.image_id,
            MatchDecision.encounter_id,
            MatchDecision.id.label("decision_id"),
            MatchDecision.decision,
            MatchDecision.method,
            MatchDecision.deer_id,
            MatchDecision.score,
            Encounter.deployment_id.label("camera"),
            Encounter.started_at,
            Encounter.ended_at,
            Encounter.sex,
            *_SEEN,
        )
        .join(last, last.c.detection_id == Detection.id)
        .join(MatchDecision, MatchDecision.id == last.c.decision_id)
        .join(Encounter, Encounter.id == MatchDecision.encounter_id)
        .join(Image, Image.id == Detection.image_id)
        .where(MatchDecision.deer_id.in_(deer), ~Detection.superseded)
        .order_by(MatchDecision.deer_id, MatchDecision.id, Detection.id)
    )
    if evidence_only:
        decided = decided.where((MatchDecision.method == HUMAN) | (MatchDecision.decision == "new_individual"))
    before = (
        select(
            Detection.id.label("detection_id"),
            Detection.image_id,
            null().label("encounter_id"),
            null().label("decision_id"),
            literal("matched").label("decision"),
            literal(BEFORE).label("method"),
            Detection.deer_id,
            null().label("score"),
            Image.deployment_id.label("camera"),
            Image.timestamp.label("started_at"),
            Image.timestamp.label("ended_at"),
            literal("unknown").label("sex"),
            *_SEEN,
        )
        .join(Image, Image.id == Detection.image_id)
        .where(_before_the_log(standing.end), Detection.deer_id.in_(deer))
        .order_by(Detection.deer_id, Detection.id)
    )
    return [_sighting(row) for query in (decided, before) for row in session.execute(query)]


def sighting_counts(session: Session, standing: Standing, without: Collection[int]) -> dict[uuid.UUID, int]:
    """Encounters of every individual that stood then; of what was there before the log, detections.

    Args:
        without: decisions that do not count.
    """
    counts: dict[uuid.UUID, int] = {}
    decided = session.execute(
        select(MatchDecision.deer_id, func.count())
        .where(
            MatchDecision.deer_id.is_not(None),
            MatchDecision.id.in_(select(standing.last.c.decision_id)),
            MatchDecision.id.not_in(without),
        )
        .group_by(MatchDecision.deer_id)
    )
    before = session.execute(
        select(Detection.deer_id, func.count()).where(_before_the_log(standing.end)).group_by(Detection.deer_id)
    )
    for deer, count in (*decided, *before):
        if deer is not None:
            counts[deer] = counts.get(deer, 0) + int(count)
    return counts


def individuals_by_id(session: Session, deer: Collection[uuid.UUID]) -> dict[uuid.UUID, IndividualRow]:
    """The records of these individuals; one that is gone is left out."""
    rows = session.scalars(select(Deer).where(Deer.id.in_(deer)))
    return {
        row.id: IndividualRow(
            row.id, row.name or str(row.id), row.sex, row.life_stage, row.identified_by, row.first_seen
        )
        for row in rows
    }


def detections_of(session: Session, decisions: Collection[int]) -> dict[int, tuple[uuid.UUID, ...]]:
    """The detections that each of these decisions was made about."""
    rows = session.execute(select(MatchDecision.id, MatchDecision.detection_ids).where(MatchDecision.id.in_(decisions)))
    return {key: tuple(detections) for key, detections in rows}


def names_given(session: Session, detections: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Names that a person gave to these detections, before or after they were decided."""
    rows = session.execute(
        select(Detection.id, Detection.given_individual).where(
            Detection.id.in_(detections), Detection.given_individual.is_not(None)
        )
    )
    return {key: name for key, name in rows if name is not None}


def detections_by_file(session: Session, files: Collection[str]) -> dict[str, list[tuple[str, uuid.UUID, uuid.UUID]]]:
    """Standing detections of picture files, each as (drop, picture, detection).

    Args:
        files: paths within a drop; "dropKey:path" means that drop alone.
    """
    keyed = DropMedia.drop_key + ":" + DropMedia.file_path
    rows = session.execute(
        select(DropMedia.drop_key, DropMedia.file_path, DropMedia.image_id, Detection.id)
        .join(Detection, Detection.image_id == DropMedia.image_id)
        .where(~Detection.superseded, DropMedia.file_path.in_(files) | keyed.in_(files))
        .order_by(DropMedia.drop_key, Detection.id)
    )
    found: dict[str, list[tuple[str, uuid.UUID, uuid.UUID]]] = {}
    for drop, file, picture, key in rows:
        for name in (file, f"{drop}:{file}"):
            if name in files:
                found.setdefault(name, []).append((drop, picture, key))
    return found


def replace_day(session: Session, day: date, flags: Sequence[FlagRow], sample: Sequence[SampleRow]) -> None:
    """Store a day's flags and sample in place of those that were there."""
    for model in (MonitorFlag, MonitorSample):
        session.execute(delete(model).where(model.day == day))  # type: ignore[attr-defined]
    if flags:
        session.execute(insert(MonitorFlag), [vars(flag) for flag in flags])
    if sample:
        session.execute(insert(MonitorSample), [vars(item) for item in sample])


def flags_between(session: Session, first: date, last: date) -> list[FlagRow]:
    """Flags of these days, both included, newest day first."""
    rows = session.scalars(
        select(MonitorFlag)
        .where(MonitorFlag.day >= first, MonitorFlag.day <= last)
        .order_by(MonitorFlag.day.desc(), MonitorFlag.id)
    )
    return [
        FlagRow(row.day, row.rule, row.encounter_id, row.other_encounter_id, row.decision_id, row.deer_id, row.detail)
        for row in rows
    ]


def sample_between(session: Session, first: date, last: date) -> list[SampleRow]:
    """Drawn decisions of these days, both included, newest day first."""
    rows = session.scalars(
        select(MonitorSample)
        .where(MonitorSample.day >= first, MonitorSample.day <= last)
        .order_by(MonitorSample.day.desc(), MonitorSample.decision_id)
    )
    return [
        SampleRow(
            row.day,
            row.decision_id,
            row.encounter_id,
            row.deer_id,
            row.stratum,
            row.inclusion_probability,
            row.detection_a,
            row.detection_b,
        )
        for row in rows
    ]


def _before_the_log(end: datetime) -> Any:
    """Identified detections of which the log says nothing: the owner's own, from before the enhancement."""
    return (
        Detection.deer_id.is_not(None)
        & Detection.encounter_id.is_(None)
        & ~Detection.superseded
        & (Detection.created_at < end)
    )


def _sighting(row: Any) -> SightingRow:
    return SightingRow(*row[:-7], box=box_of(row, row))  # type: ignore[misc]  # box is last, and the row ends before it
