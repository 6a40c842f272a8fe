"""Which machine matches people found right or wrong: by comparing two pictures, or by naming them afterwards."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping

from sqlalchemy.orm import Session

from deer_reid_pipeline.store.monitoring import (
    HUMAN,
    IndividualRow,
    SightingRow,
    decision_rows,
    detections_of,
    individuals_by_id,
    names_given,
    sightings_until,
    standing_now,
)
from deer_reid_pipeline.store.reviews import DIFFERENT, SAME, standing_reviews

Pair = tuple[uuid.UUID, uuid.UUID]


def wrong_by_people(
    session: Session, decisions: Collection[int], pairs: Mapping[int, Pair] | None = None
) -> dict[int, bool]:
    """Whether each of these matches is wrong, of those that people said enough about.

    A name that a person gave to the animal, now or later, decides. Else a comparison of one of its pictures with one
    that shows who the individual is: a person named it, or the individual was opened with it. The newest word of each
    reviewer counts; unsure, or both same and different, is no verdict.

    Args:
        pairs: decision -> the two detections that a person was asked to compare; their verdict counts too.
    """
    deer = {key: row.deer_id for key, row in decision_rows(session, decisions).items() if row.deer_id is not None}
    detections = detections_of(session, list(deer))
    everything = {key for found in detections.values() for key in found}
    names = names_given(session, everything)
    compared: dict[uuid.UUID, list[tuple[uuid.UUID, str]]] = defaultdict(list)
    for item in standing_reviews(session, everything):
        compared[item.first].append((item.second, item.verdict))
        compared[item.second].append((item.first, item.verdict))
    spoken_of = {key for key in deer if any(item in names or item in compared for item in detections[key])}
    individuals = {deer[key] for key in spoken_of}
    evidence: dict[uuid.UUID, list[SightingRow]] = defaultdict(list)
    if individuals:
        for row in sightings_until(session, individuals, standing_now(), evidence_only=True):
            evidence[row.deer_id].append(row)
    records = individuals_by_id(session, individuals)
    result: dict[int, bool] = {}
    for key in sorted(spoken_of):
        individual = deer[key]
        own = set(detections[key])
        shown = [row for row in evidence[individual] if row.detection_id not in own]
        given = {names[item] for item in own if item in names}
        called = _names(records.get(individual), shown)
        if given and called:
            result[key] = given.isdisjoint(called)
            continue
        against = {row.detection_id for row in shown} | (set((pairs or {}).get(key, ())) - own)
        said = {verdict for item in own for other, verdict in compared[item] if other in against}
        if (SAME in said) != (DIFFERENT in said):
            result[key] = DIFFERENT in said
    return result


def _names(record: IndividualRow | None, shown: Collection[SightingRow]) -> set[str]:
    """What people call an individual."""
    called = {row.given_individual for row in shown if row.given_individual is not None}
    if record is not None and record.identified_by == HUMAN:
        called.add(record.name)
    return called
