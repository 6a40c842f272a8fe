"""Stored detections as the plausibility rules judge them, and the pair of pictures that settles a match."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from statistics import median
from typing import Protocol, TypeVar

from deer_reid_pipeline.reid.matching import flank_signs
from deer_reid_pipeline.reid.sightings import BodySize, IdentifiedEncounter, Position
from deer_reid_pipeline.reid.vocabulary import LIFE_STAGE_BY_CLASSIFICATION, sex_of
from deer_reid_pipeline.store.monitoring import BEFORE, HUMAN, IndividualRow, SightingRow

EDGE = 0.01
"""A box that comes this near to an edge of its picture (share of the side) may be cut off there."""

MOST_COMPARED = 200
"""Pictures of an individual among which the one to compare with is chosen."""

_GROWN = frozenset({"mature", "mid"})
_GROWN_IN_OWNER_ROWS = frozenset({"mature", "mid", "buck", "doe"})
"""The owner tells bucks and does from fawns; of our own rows these two words only say the sex."""

T = TypeVar("T")

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


class Pictured(Protocol):
    """A detection, its flank and how sure its box is."""

    @property
    def detection_id(self) -> uuid.UUID: ...
    @property
    def viewpoint(self) -> str | None: ...
    @property
    def confidence(self) -> float: ...


@dataclass(frozen=True)
class Match:
    """What was decided about one encounter: its detections, and what they say together."""

    sighting: IdentifiedEncounter
    rows: tuple[SightingRow, ...]

    @property
    def evidence(self) -> bool:
        """Whether it shows who the individual is: a person said so, or the individual was opened with it."""
        first = self.rows[0]
        return first.method in (HUMAN, BEFORE) or first.decision == "new_individual"


def build_matches(
    rows: Sequence[SightingRow],
    individuals: Mapping[uuid.UUID, IndividualRow],
    positions: Mapping[str, Position],
    suspects: Collection[int],
) -> list[Match]:
    """Group detections by the decision that gave them to their individual.

    Args:
        positions: of cameras whose position is known.
        suspects: decisions that are judged.
    """
    groups: dict[Hashable, list[SightingRow]] = defaultdict(list)
    for row in rows:
        groups[row.decision_id if row.decision_id is not None else row.detection_id].append(row)
    matches = [_match(tuple(group), individuals, positions, suspects) for group in groups.values()]
    return _with_recorded_stage(matches, individuals)


def to_compare_with(matches: Iterable[Match]) -> list[tuple[Match, SightingRow]]:
    """Detections of an individual, best first: what shows who it is, then the more confident boxes."""
    return sorted(
        ((match, row) for match in matches for row in match.rows),
        key=lambda item: (item[0].evidence, item[1].confidence, str(item[1].detection_id)),
        reverse=True,
    )


def review_pair(match: Match, ranked: Iterable[tuple[Match, SightingRow]]) -> tuple[uuid.UUID, uuid.UUID] | None:
    """The two detections that a person should compare to say whether a match is right; None where there are none.

    One of the encounter and one that shows who the individual is. The same flank comes first, opposite flanks last;
    then what a person named, then the more confident boxes.

    Args:
        ranked: of the individual, see `to_compare_with`.
    """
    encounter = match.sighting.encounter
    return pair_to_compare(match.rows, (item for item in ranked if item[0].sighting.encounter != encounter))


def pair_to_compare(
    own: Sequence[Pictured], ranked: Iterable[tuple[Match, SightingRow]], *, named_first: bool = False
) -> tuple[uuid.UUID, uuid.UUID] | None:
    """The two detections that show best whether the animal of some pictures is an individual; see `review_pair`.

    Args:
        own: pictures of one encounter.
        ranked: of the individual, see `to_compare_with`.
        named_first: of comparable flanks, one that a person named comes before one of the very flank.
    """
    known = _best_of_a_kind(
        ((row, other.evidence) for other, row in islice(ranked, MOST_COMPARED)),
        lambda item: (item[0].viewpoint, item[0].method == HUMAN, item[1]),
        lambda item: item[0],
    )
    if not known:
        return None
    mine = _best_of_a_kind(own, lambda row: row.viewpoint, lambda row: row)
    own_flanks = flank_signs([row.viewpoint for row in mine])
    flanks = flank_signs([row.viewpoint for row, _ in known])
    worth = []
    for i, row in enumerate(mine):
        for j, (other, evidence) in enumerate(known):
            named, same = other.method == HUMAN, row.viewpoint is not None and row.viewpoint == other.viewpoint
            rank = (
                evidence,
                bool(own_flanks[i] * flanks[j] >= 0),
                *((named, same) if named_first else (same, named)),
                row.confidence + other.confidence,
                str(row.detection_id),
                str(other.detection_id),
            )
            worth.append((rank, (row.detection_id, other.detection_id)))
    return max(worth)[1]


def _best_of_a_kind(items: Iterable[T], kind: Callable[[T], Hashable], row: Callable[[T], Pictured]) -> list[T]:
    """The surest box of every kind of picture: the others are never better in a pair."""
    best: dict[Hashable, T] = {}
    for item in items:
        before = best.get(kind(item))
        if before is None or _sureness(row(item)) > _sureness(row(before)):
            best[kind(item)] = item
    return list(best.values())


def _sureness(row: Pictured) -> tuple[float, str]:
    return row.confidence, str(row.detection_id)


def _match(
    rows: tuple[SightingRow, ...],
    individuals: Mapping[uuid.UUID, IndividualRow],
    positions: Mapping[str, Position],
    suspects: Collection[int],
) -> Match:
    first = rows[0]
    record = individuals.get(first.deer_id)
    stages = {stage for stage in map(_stage, rows) if stage is not None}
    classified = {sex_of(row.classification) for row in rows} - {"unknown"}
    sex = first.sex if first.sex != "unknown" or len(classified) != 1 else classified.pop()
    sizes = [row.box for row in rows if row.box[3] > 0]
    sighting = IdentifiedEncounter(
        encounter=first.encounter_id if first.encounter_id is not None else first.detection_id,
        individual=first.deer_id,
        name=record.name if record is not None else str(first.deer_id),
        suspect=first.decision_id in suspects,
        sex="unknown" if stages == {"juvenile"} else sex,
        individual_sex=sex_of(record.sex) if record is not None else "unknown",
        life_stage=stages.pop() if len(stages) == 1 else None,
        camera=first.camera,
        position=positions.get(first.camera) if first.camera is not None else None,
        start=first.started_at,
        end=first.ended_at,
        boxes=tuple((row.image_id, row.detection_id) for row in rows),
        size=_size(sizes) if sizes else None,
        score=first.score if first.score is not None else float("nan"),
    )
    return Match(sighting, rows)


def _stage(row: SightingRow) -> str | None:
    if row.life_stage is not None:
        return row.life_stage
    if row.classification in (_GROWN if row.source is not None else _GROWN_IN_OWNER_ROWS):
        return "adult"
    return LIFE_STAGE_BY_CLASSIFICATION.get(row.classification)


def _size(boxes: Sequence[tuple[float, float, float, float]]) -> BodySize:
    whole = [(x, y, w, h) for x, y, w, h in boxes if min(x, y) > EDGE and max(x + w, y + h) < 1 - EDGE]
    used = whole or boxes
    return BodySize(median(h for *_, h in used), median(y + h for _, y, _, h in used), bool(whole))


def _with_recorded_stage(matches: list[Match], individuals: Mapping[uuid.UUID, IndividualRow]) -> list[Match]:
    """Where no earlier sighting of an individual says its age but its record does, it was so at the first sighting."""
    by_individual: dict[Hashable, list[int]] = defaultdict(list)
    for index, match in enumerate(matches):
        if not match.sighting.suspect:
            by_individual[match.sighting.individual].append(index)
    for key, indices in by_individual.items():
        record = individuals.get(key)  # type: ignore[call-overload]
        stage = None if record is None else _recorded_stage(record)
        if stage is None or any(matches[index].sighting.life_stage is not None for index in indices):
            continue
        index = min(indices, key=lambda i: matches[i].sighting.start or _BEFORE_ALL)
        match = matches[index]
        matches[index] = replace(match, sighting=replace(match.sighting, life_stage=stage))
    return matches


def _recorded_stage(record: IndividualRow) -> str | None:
    if record.life_stage is not None:
        return record.life_stage
    words = _GROWN if record.identified_by is not None else _GROWN_IN_OWNER_ROWS
    return "adult" if record.sex in words else LIFE_STAGE_BY_CLASSIFICATION.get(record.sex)
