"""`deer_matches`: which individual each encounter of a drop is, with every decision in the log."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.encounters import EncounterGroup, Sighting, group_events, split_event
from deer_reid_pipeline.reid.matching import (
    MATCHED,
    NEW_INDIVIDUAL,
    Decision,
    Known,
    Query,
    decide,
    score_individuals,
)
from deer_reid_pipeline.reid.similarity import BASELINE, FloatArray, VectorSet, cosine_matrix, fuse
from deer_reid_pipeline.reid.vocabulary import agreed_sex, classification_of, sex_of
from deer_reid_pipeline.steps.site import Matcher, Site
from deer_reid_pipeline.store import decisions as log_book
from deer_reid_pipeline.store.ids import encounter_id, named_deer_id, opened_deer_id
from deer_reid_pipeline.store.media import DetectionRow, detections_of_drop
from deer_reid_pipeline.store.search import GallerySource, open_gallery
from deer_reid_pipeline.store.vectors import get_embeddings, vector_set

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

LOG_EVERY = 100


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


@dataclass(frozen=True)
class _Drop:
    """The drop being decided: its rows by detection, and every vector that deciding needs."""

    key: str
    rows: dict[uuid.UUID, DetectionRow]
    vectors: dict[str, dict[uuid.UUID, FloatArray]]


def match_drop(
    site: Site, matcher: Matcher, drop_key: str, run_id: str | None = None, say: LogLine = log.info
) -> MatchReport:
    """Decide every undecided encounter of a drop, in one transaction and one drop at a time.

    Identities that a person gave come first; the rest is decided in time order against everything known by then.
    Running it again decides nothing twice.

    Raises:
        DatabaseError: a detection has no vectors under the recipe.
    """
    say(matcher.describe())
    result = MatchReport()
    with site.database.session() as session:
        log_book.lock_matching(session)
        drop = _load(session, matcher, drop_key)
        groups = _encounters(drop, matcher)
        if groups:
            _decide_all(session, _Deciding(matcher, drop, run_id, say, result), groups)
    say(
        f"{result.decided} encounters decided: {result.outcomes['matched']} matched, "
        f"{result.outcomes['new_individual']} new, {result.outcomes['uncertain']} uncertain "
        f"({result.by_person} by a person)"
    )
    return result


def _load(session: Session, matcher: Matcher, drop_key: str) -> _Drop:
    rows = {row.id: row for row in detections_of_drop(session, drop_key)}
    todo = [key for key, row in rows.items() if _undecided(row)]
    branches = {BASELINE, *(branch for branch, weight in matcher.policy.weights.items() if weight)}
    vectors = {branch: get_embeddings(session, matcher.recipe.id, branch, todo) for branch in sorted(branches)}
    lacking = [key for key in todo if any(key not in vectors[branch] for branch in branches)]
    if lacking:
        raise DatabaseError(
            f"{len(lacking)} detections of drop {drop_key} have no vectors under {matcher.recipe.id} "
            f"(first: {rows[lacking[0]].file_path}): materialize the embeddings of this drop first"
        )
    return _Drop(drop_key, rows, vectors)


def _undecided(row: DetectionRow) -> bool:
    """No encounter yet; or a person now names what the machine had decided, or corrects an earlier name."""
    if row.encounter_id is None:
        return True
    named = row.given_individual is not None
    return named and (row.method != "human" or row.given_individual != row.individual)


def _encounters(drop: _Drop, matcher: Matcher) -> list[EncounterGroup]:
    """Undecided encounters: those named by a person first, then in time order."""
    sightings = [
        Sighting(
            key=row.id,
            image=row.image_id,
            order=row.order,
            camera=row.camera,
            event=row.event_id,
            timestamp=row.timestamp,
            sex=sex_of(row.classification),
            individual=row.given_individual,
            box=row.box,
        )
        for row in drop.rows.values()
        if _undecided(row)
    ]
    groups: list[EncounterGroup] = []
    for event, members in group_events(sightings):
        if matcher.policy.unit == "picture":
            groups += [EncounterGroup(event, (member,), member.individual) for member in members]
        else:
            groups += split_event(event, members, lambda items: _alike(drop, matcher, items))
    return sorted(groups, key=lambda group: (group.individual is None, *_moment(group)))


def _moment(group: EncounterGroup) -> tuple[bool, datetime | int, int, str]:
    first = group.sightings[0]
    return (first.timestamp is None, first.timestamp or 0, first.order, str(first.key))


def _alike(drop: _Drop, matcher: Matcher, items: Sequence[Sighting]) -> FloatArray:
    sets = _vectors(drop, matcher, [item.key for item in items])
    weights = {branch: weight for branch, weight in matcher.policy.weights.items() if weight}
    return fuse({branch: cosine_matrix(sets[branch], sets[branch]) for branch in weights}, weights)


def _vectors(drop: _Drop, matcher: Matcher, keys: Sequence[object]) -> dict[str, VectorSet]:
    return {
        branch: vector_set(matcher.recipe.id, branch, [found[key] for key in keys])  # type: ignore[index]
        for branch, found in drop.vectors.items()
    }


@dataclass
class _Deciding:
    matcher: Matcher
    drop: _Drop
    run_id: str | None
    say: LogLine
    result: MatchReport


def _decide_all(session: Session, work: _Deciding, groups: Sequence[EncounterGroup]) -> None:
    gallery = open_gallery(session, work.matcher.recipe.id, work.matcher.policy)
    ordinal = log_book.next_ordinal(session, work.drop.key)
    taken = _animals_by_picture(session, work.drop, groups)
    for position, group in enumerate(_best_first(work, gallery, groups)):
        _decide_one(session, work, gallery, group, ordinal + position, taken)
        if (position + 1) % LOG_EVERY == 0 or position + 1 == len(groups):
            work.say(f"{position + 1} of {len(groups)} encounters decided; {_comparison(work.result)}")
        report("matches", position + 1, len(groups))


def _animals_by_picture(session: Session, drop: _Drop, groups: Sequence[EncounterGroup]) -> dict[object, set[object]]:
    """Individuals already identified in the drop's pictures: another box of the same picture cannot be them."""
    undecided = {sighting.key for group in groups for sighting in group.sightings}
    images = {drop.rows[key].image_id for key in undecided}  # type: ignore[index]
    taken: dict[object, set[object]] = defaultdict(set)
    for image, deer in log_book.identified_in_pictures(session, sorted(images, key=str), undecided):
        taken[image].add(deer)
    return taken


def _best_first(work: _Deciding, gallery: GallerySource, groups: Sequence[EncounterGroup]) -> list[EncounterGroup]:
    """Keep the order, but among animals that share a picture let the clearest one choose first."""
    result: list[EncounterGroup] = []
    index = 0
    while index < len(groups):
        shared = [groups[index]]
        while (
            index + len(shared) < len(groups)
            and groups[index + len(shared)].event == shared[0].event
            and (groups[index + len(shared)].individual is None) == (shared[0].individual is None)
        ):
            shared.append(groups[index + len(shared)])
        if len(shared) > 1 and shared[0].individual is None:
            shared.sort(key=lambda group: -_top_score(work, gallery, group))
        result += shared
        index += len(shared)
    return result


def _top_score(work: _Deciding, gallery: GallerySource, group: EncounterGroup) -> float:
    query = _query(work, group)
    scores = score_individuals(query, gallery.for_query(query), work.matcher.policy)
    known = scores[np.isfinite(scores)]
    return float(known.max()) if len(known) else -1.0


def _query(work: _Deciding, group: EncounterGroup) -> Query:
    keys = [sighting.key for sighting in group.sightings]
    views = [work.drop.rows[key].viewpoint for key in keys]  # type: ignore[index]
    return Query(_vectors(work.drop, work.matcher, keys), views, group.sex)


def _decide_one(
    session: Session,
    work: _Deciding,
    gallery: GallerySource,
    group: EncounterGroup,
    ordinal: int,
    taken: dict[object, set[object]],
) -> None:
    keys = [work.drop.rows[sighting.key].id for sighting in group.sightings]  # type: ignore[index]
    rows = [work.drop.rows[key] for key in keys]
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
    query = _query(work, group)
    deer: uuid.UUID | None
    name: str | None
    baseline: float | None
    if group.individual is not None:
        decision, deer, name = _by_person(session, group.individual, group, rows, seen)
        method, baseline = "human", None
    else:
        forbidden = frozenset().union(*(taken[image] for image in images))
        near = gallery.for_query(query)
        decision = decide(query, near, work.matcher.policy, forbidden)
        deer, name = _by_machine(session, decision, encounter, group, rows, seen)
        method, baseline = "machine", _baseline_score(work, query, near.individuals, decision)
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
        _learn(gallery, work, query, deer, name or "", group.sex, decision)


def _learn(
    gallery: GallerySource,
    work: _Deciding,
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
        name = f"{log_book.OPENED_PREFIX}{log_book.next_opened_number(session):04d}"
        stage = _agreed_stage(rows)
        sex = agreed_sex([group.sex])
        log_book.add_deer(session, deer, name, classification_of(sex, stage), stage, "machine", seen)
        return deer, name
    return None, None


def _agreed_stage(rows: Sequence[DetectionRow]) -> str | None:
    stages = {row.life_stage for row in rows if row.life_stage}
    return stages.pop() if len(stages) == 1 else None


def _baseline_score(work: _Deciding, query: Query, individuals: Sequence[Known], decision: Decision) -> float | None:
    """v1 similarity (highest over crops and exemplars) to the best candidate, for comparison in the log."""
    if decision.best is None:
        return None
    best = next(known for known in individuals if known.key == decision.best.key)
    exemplars = best.vectors.get(BASELINE)
    if exemplars is None:
        return None
    return float(cosine_matrix(query.vectors[BASELINE], exemplars).max())


def _log_row(
    work: _Deciding,
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
        "matcher": policy.matcher if machine else "human",
        "recipe_id": work.matcher.recipe.id if machine else None,
        "release_id": work.matcher.release_id if machine else None,
        "run_id": work.run_id,
    }


def _comparison(result: MatchReport) -> str:
    if not result.scores:
        return "no machine decision had a candidate yet"
    live, v1 = float(np.mean(result.scores)), float(np.mean(result.baseline_scores))
    return f"mean similarity to the best candidate: live {live:.4f}, v1 {v1:.4f}"
