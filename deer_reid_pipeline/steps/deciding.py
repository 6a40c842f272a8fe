"""One encounter's decision: who it is, by a person's word or by the policy, stored and put in the log.

Everything that a decision changes is written here, in the caller's transaction: encounter, detections, individual and
log row. It never chooses the order of the encounters, and never commits.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.encounters import EncounterGroup
from deer_reid_pipeline.reid.matching import MATCHED, NEW_INDIVIDUAL, Decision, Known, Query, decide
from deer_reid_pipeline.reid.similarity import BASELINE, VectorSet, cosine_matrix
from deer_reid_pipeline.reid.vocabulary import agreed_sex, classification_of
from deer_reid_pipeline.steps.encounter_groups import DropToDecide, vectors_of
from deer_reid_pipeline.steps.site import Matcher
from deer_reid_pipeline.store import decisions as log_book
from deer_reid_pipeline.store.ids import encounter_id, named_deer_id, opened_deer_id
from deer_reid_pipeline.store.media import DetectionRow
from deer_reid_pipeline.store.search import GallerySource

LogLine = Callable[[str], None]


@dataclass
class MatchReport:
    """Outcomes of the encounters decided now, and how v1 and the live similarity compare over them."""

    outcomes: dict[str, int] = field(default_factory=lambda: {"matched": 0, "new_individual": 0, "uncertain": 0})
    by_person: int = 0
    scores: list[float] = field(default_factory=list)
    baseline_scores: list[float] = field(default_factory=list)

    @property
    def decided(self) -> int:
        return sum(self.outcomes.values())


@dataclass
class Deciding:
    """What is the same for every decision of one run over a drop, and the report that they fill.

    Attributes:
        next_number: of the next individual to be opened; None until the first one is.
    """

    matcher: Matcher
    drop: DropToDecide
    run_id: str | None
    say: LogLine
    result: MatchReport
    next_number: int | None = None

    def rows_of(self, group: EncounterGroup) -> list[DetectionRow]:
        """The detections of an encounter, in its order."""
        return [self.drop.rows[sighting.key] for sighting in group.sightings]  # type: ignore[index]


@dataclass(frozen=True)
class Settled:
    """Who an encounter was decided to be, None where it is uncertain, and on what decision."""

    deer: uuid.UUID | None
    name: str | None
    decision: Decision


@dataclass(frozen=True)
class Considered:
    """What a policy says of an encounter, before anything is written; `baseline` is v1's similarity to the best."""

    query: Query
    decision: Decision
    baseline: float | None


def query_of(work: Deciding, group: EncounterGroup) -> Query:
    """An encounter as the matching policy asks about it."""
    keys = [sighting.key for sighting in group.sightings]
    views = [work.drop.rows[key].viewpoint for key in keys]  # type: ignore[index]
    return Query(vectors_of(work.drop, work.matcher, keys), views, group.sex)


def consider(
    work: Deciding, gallery: GallerySource, group: EncounterGroup, taken: dict[object, set[object]]
) -> Considered:
    """What the policy says of an encounter; nothing is written, and a person's word is not asked for."""
    query = query_of(work, group)
    forbidden = frozenset().union(*(taken[row.image_id] for row in work.rows_of(group)))
    near = gallery.for_query(query)
    decision = decide(query, near, work.matcher.policy, forbidden)
    return Considered(query, decision, _baseline_score(work, query, near.individuals, decision))


def decide_one(
    session: Session,
    work: Deciding,
    gallery: GallerySource,
    group: EncounterGroup,
    ordinal: int,
    taken: dict[object, set[object]],
    considered: Considered | None = None,
) -> Settled:
    """Decide an encounter and write it down; `taken` (individuals by picture) and the gallery learn from it.

    Args:
        considered: what `consider` made of it, where that was asked before.
    """
    rows = work.rows_of(group)
    keys = [row.id for row in rows]
    images = {row.image_id for row in rows}
    times = [row.timestamp for row in rows if row.timestamp is not None]
    seen = (min(times, default=None), max(times, default=None))
    encounter = encounter_id(work.drop.key, keys)
    log_book.add_encounter(
        session,
        {
            "id": encounter,
            "drop_key": work.drop.key,
            "ordinal": ordinal,
            "event_key": group.event,
            "deployment_id": rows[0].camera,
            "started_at": seen[0],
            "ended_at": seen[1],
            "sex": group.sex,
            "given_individual": group.individual,
        },
    )
    deer: uuid.UUID | None
    name: str | None
    if group.individual is not None:
        query, baseline = query_of(work, group), None
        decision, deer, name = _by_person(session, group.individual, group, rows, seen)
        method = "human"
    else:
        considered = considered or consider(work, gallery, group, taken)
        query, decision, baseline = considered.query, considered.decision, considered.baseline
        deer, name = _by_machine(session, work, decision, encounter, group, rows, seen)
        method = "machine"
        if decision.best is not None and baseline is not None:
            work.result.scores.append(decision.best.score)
            work.result.baseline_scores.append(baseline)
    score = decision.best.score if decision.best is not None and decision.outcome == MATCHED else None
    log_book.attach(session, keys, encounter, deer, score, method, seen)
    log_book.log_decision(session, _log_row(work, decision, encounter, keys, deer, name, method, baseline))
    work.result.outcomes[decision.outcome] += 1
    work.result.by_person += method == "human"
    if deer is not None:
        for image in images:
            taken[image].add(deer)
        learn(gallery, work, query, deer, name or "", group.sex, decision)
    return Settled(deer, name, decision)


def learn(
    gallery: GallerySource,
    work: Deciding,
    query: Query,
    deer: uuid.UUID,
    name: str,
    sex: str,
    decision: Decision,
) -> None:
    """Let the rest of the run know the animal; a machine's match adds no evidence about whom it matched."""
    if decision.outcome == MATCHED and decision.best is not None:
        return
    if work.matcher.policy.gallery == "profile":
        if decision.outcome != NEW_INDIVIDUAL:
            return
        first = {b: VectorSet(s.recipe_id, b, s.vectors[:1]) for b, s in query.vectors.items()}
        gallery.learn(Known(deer, name, sex, first, [None]))
    else:
        gallery.learn(Known(deer, name, sex, query.vectors, list(query.viewpoints)))


def _by_person(
    session: Session,
    individual: str,
    group: EncounterGroup,
    rows: Sequence[DetectionRow],
    seen: tuple[datetime | None, datetime | None],
) -> tuple[Decision, uuid.UUID, str]:
    known = log_book.find_named(session, individual)
    if known is not None:
        if group.sex != "unknown":
            log_book.learn_sex(session, known.id, classification_of(group.sex, None))
        return (
            Decision(MATCHED, None, None, (), 0, "identified by a person in the drop"),
            known.id,
            individual,
        )
    deer = named_deer_id(individual)
    stage = _agreed_stage(rows)
    log_book.add_deer(session, deer, individual, classification_of(group.sex, stage), stage, "human", seen)
    return Decision(NEW_INDIVIDUAL, None, None, (), 0, "named by a person in the drop"), deer, individual


def _by_machine(
    session: Session,
    work: Deciding,
    decision: Decision,
    encounter: uuid.UUID,
    group: EncounterGroup,
    rows: Sequence[DetectionRow],
    seen: tuple[datetime | None, datetime | None],
) -> tuple[uuid.UUID | None, str | None]:
    if decision.outcome == MATCHED and decision.best is not None:
        assert isinstance(decision.best.key, uuid.UUID)
        return decision.best.key, decision.best.name
    if decision.outcome == NEW_INDIVIDUAL:
        deer = opened_deer_id(encounter)
        number = work.next_number or log_book.next_opened_number(session)
        work.next_number = number + 1
        name = f"{log_book.OPENED_PREFIX}{number:04d}"
        stage = _agreed_stage(rows)
        sex = agreed_sex([group.sex])
        log_book.add_deer(session, deer, name, classification_of(sex, stage), stage, "machine", seen)
        return deer, name
    return None, None


def _agreed_stage(rows: Sequence[DetectionRow]) -> str | None:
    stages = {row.life_stage for row in rows if row.life_stage}
    return stages.pop() if len(stages) == 1 else None


def _baseline_score(work: Deciding, query: Query, individuals: Sequence[Known], decision: Decision) -> float | None:
    """v1 similarity (highest over crops and exemplars) to the best candidate, for comparison in the log."""
    if decision.best is None:
        return None
    best = next(known for known in individuals if known.key == decision.best.key)
    exemplars = best.vectors.get(BASELINE)
    if exemplars is None:
        return None
    return float(cosine_matrix(query.vectors[BASELINE], exemplars).max())


def _log_row(
    work: Deciding,
    decision: Decision,
    encounter: uuid.UUID,
    keys: Sequence[uuid.UUID],
    deer: uuid.UUID | None,
    name: str | None,
    method: str,
    baseline: float | None,
) -> dict[str, object]:
    policy = work.matcher.policy
    machine = method == "machine"
    return {
        "encounter_id": encounter,
        "drop_key": work.drop.key,
        "detection_ids": list(keys),
        "decision": decision.outcome,
        "method": method,
        "deer_id": deer,
        "individual": name,
        "score": decision.best.score if decision.best else None,
        "runner_up_deer_id": decision.runner_up.key if decision.runner_up else None,
        "runner_up_score": decision.runner_up.score if decision.runner_up else None,
        "baseline_score": baseline,
        "threshold": policy.threshold if machine else None,
        "new_below": policy.new_below if machine else None,
        "candidates": [
            {"individual": item.name, "deer_id": str(item.key), "score": round(item.score, 6)}
            for item in decision.shortlist
        ],
        "reason": decision.reason,
        "probability": decision.probability,
        "matcher": policy.matcher if machine else "human",
        "recipe_id": work.matcher.recipe.id if machine else None,
        "release_id": work.matcher.release_id if machine else None,
        "run_id": work.run_id,
    }
