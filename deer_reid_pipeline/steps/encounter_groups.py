"""A drop as matching sees it: the detections still to decide, their vectors, and the encounters they form.

Apart from the deciding because who belongs together in one event is settled before anybody is identified. It only
reads; it never decides who an animal is and never writes.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.reid.encounters import EncounterGroup, Sighting, group_events, split_event
from deer_reid_pipeline.reid.matching import fused_similarity
from deer_reid_pipeline.reid.similarity import BASELINE, BRANCHES, FloatArray, VectorSet, cosine_matrix
from deer_reid_pipeline.reid.vocabulary import sex_of
from deer_reid_pipeline.steps.site import Matcher
from deer_reid_pipeline.store.media import DetectionRow, detections_of_drop
from deer_reid_pipeline.store.vectors import get_embeddings, vector_set


@dataclass(frozen=True)
class DropToDecide:
    """The drop being decided: its rows by detection, and every vector that deciding needs."""

    key: str
    rows: dict[uuid.UUID, DetectionRow]
    vectors: dict[str, dict[uuid.UUID, FloatArray]]


def compared_branches(matcher: Matcher) -> tuple[str, ...]:
    """The branches whose vectors deciding needs: those with a say, and v1's for the log."""
    return tuple(branch for branch in BRANCHES if branch == BASELINE or branch in matcher.policy.branches)


def load_drop(session: Session, matcher: Matcher, drop_key: str) -> DropToDecide:
    """Read a drop's detections and the vectors of the undecided ones.

    Raises:
        DatabaseError: a detection has no vectors under the recipe.
    """
    rows = {row.id: row for row in detections_of_drop(session, drop_key)}
    todo = [key for key, row in rows.items() if _undecided(row)]
    branches = compared_branches(matcher)
    vectors = {branch: get_embeddings(session, matcher.recipe.id, branch, todo) for branch in branches}
    lacking = [key for key in todo if any(key not in vectors[branch] for branch in branches)]
    if lacking:
        raise DatabaseError(
            f"{len(lacking)} detections of drop {drop_key} have no vectors under {matcher.recipe.id} "
            f"(first: {rows[lacking[0]].file_path}): materialize the embeddings of this drop first"
        )
    return DropToDecide(drop_key, rows, vectors)


def _undecided(row: DetectionRow) -> bool:
    """No encounter yet; or a person now names what the machine had decided, or corrects an earlier name."""
    if row.encounter_id is None:
        return True
    named = row.given_individual is not None
    return named and (row.method != "human" or row.given_individual != row.individual)


def encounters_of(drop: DropToDecide, matcher: Matcher) -> list[EncounterGroup]:
    """Undecided encounters: those named by a person first, then event by event, in the order in which they begin."""
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
            viewpoint=row.viewpoint,
        )
        for row in drop.rows.values()
        if _undecided(row)
    ]
    groups: list[EncounterGroup] = []
    for event, members in group_events(sightings):
        if matcher.policy.unit == "picture":
            groups += [EncounterGroup(event, (member,), member.individual) for member in members]
        else:
            groups += split_event(event, members, lambda items: _alike(drop, matcher, items), matcher.policy.new_below)
    begins: dict[str, tuple[bool, datetime | int, int, str]] = {}
    for group in groups:
        begins[group.event] = min(begins.get(group.event, _moment(group)), _moment(group))
    return sorted(
        groups, key=lambda group: (group.individual is None, begins[group.event], group.event, _moment(group))
    )


def _moment(group: EncounterGroup) -> tuple[bool, datetime | int, int, str]:
    first = group.sightings[0]
    return (first.timestamp is None, first.timestamp or 0, first.order, str(first.key))


def _alike(drop: DropToDecide, matcher: Matcher, items: Sequence[Sighting]) -> FloatArray:
    sets = vectors_of(drop, matcher, [item.key for item in items])
    branches = matcher.policy.branches
    return fused_similarity({b: cosine_matrix(sets[b], sets[b]) for b in branches}, matcher.policy)


def vectors_of(drop: DropToDecide, matcher: Matcher, keys: Sequence[object]) -> dict[str, VectorSet]:
    """Vectors of some detections, in their order, by branch."""
    return {
        branch: vector_set(matcher.recipe.id, branch, [found[key] for key in keys])  # type: ignore[index]
        for branch, found in drop.vectors.items()
    }
