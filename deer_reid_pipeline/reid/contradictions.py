"""Pairs of sightings that cannot both be one individual.

A rule says, for one sighting, how badly each other sighting of the same individual contradicts it. Row by row, so that
an individual to which a failing matcher gave ten thousand encounters is judged in bounded memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid import sightings as facts
from deer_reid_pipeline.reid.sightings import IdentifiedEncounter

Floats = NDArray[np.float64]
Row = Callable[[int], Floats]
"""Position of a sighting -> severity of each other one: 0 agrees, above 0 contradicts, NaN cannot be judged."""

GROWN_UP_AFTER = timedelta(days=180)
"""A fawn of one summer may be called an adult from the next spring on."""


@dataclass(frozen=True)
class Contradiction:
    """A sighting to doubt, the one that it contradicts most, and how many it contradicts."""

    one: IdentifiedEncounter
    other: IdentifiedEncounter
    contradicted: int


def explain(
    members: Sequence[IdentifiedEncounter], row: Row, counts: tuple[Counter[str], Counter[str]], rule: str
) -> Iterator[Contradiction]:
    """The fewest doubtful sightings that explain every contradiction, the one with most contradictions first.

    A greedy vertex cover: one wrong match among ten right ones is one finding, not ten. Of equally doubtful ones the
    lower score, then the later one, is named.

    Args:
        members: sightings of one individual.
        counts: compared and not judged pairs by rule; filled here.
    """
    compared, not_judged = counts
    suspect = np.array([member.suspect for member in members])
    positions = np.arange(len(members))
    degree = np.zeros(len(members), dtype=np.int64)
    for i in np.flatnonzero(suspect).tolist():
        severity = row(i)
        once = ~suspect | (positions < i)
        not_judged[rule] += int(np.count_nonzero(np.isnan(severity) & once))
        compared[rule] += int(np.count_nonzero(np.isfinite(severity) & once)) - int(once[i])
        degree[i] = np.count_nonzero(severity > 0)
    if not degree.any():
        return
    rank = np.empty(len(members), dtype=np.int64)
    rank[sorted(range(len(members)), key=lambda i: _doubt(members[i]))] = positions
    standing = np.ones(len(members), dtype=bool)
    while degree.any():
        worst = int(np.argmax(np.where(degree > 0, degree * len(members) + rank, -1)))
        severity = np.where(standing, row(worst), 0.0)
        against = severity > 0
        yield Contradiction(members[worst], members[int(np.argmax(np.nan_to_num(severity)))], int(against.sum()))
        degree[against & suspect] -= 1
        degree[worst] = 0
        standing[worst] = False


def _doubt(sighting: IdentifiedEncounter) -> tuple[float, float, str]:
    score = 0.0 if np.isnan(sighting.score) else -sighting.score
    return score, sighting.start.timestamp() if sighting.start is not None else 0.0, str(sighting.encounter)


class Together:
    """The sightings of one individual as columns; each method is the row of one rule."""

    def __init__(self, members: Sequence[IdentifiedEncounter]) -> None:
        times = [member.times for member in members]
        self.start = np.array([np.nan if t is None else t[0].timestamp() for t in times])
        self.end = np.array([np.nan if t is None else t[1].timestamp() for t in times])
        places = np.radians([member.position or (np.nan, np.nan) for member in members], dtype=np.float64)
        self.latitude, self.longitude = places.T
        codes: dict[str, int] = {}
        self.camera = np.array([-1 if m.camera is None else codes.setdefault(m.camera, len(codes)) for m in members])
        self.sex = np.array([m.sex if m.individual_sex not in ("male", "female") else "unknown" for m in members])
        self.stage = np.array([m.life_stage or "" for m in members])
        sizes = [m.size if m.size is not None and m.size.whole and m.size.height > 0 else None for m in members]
        self.height = np.array([np.nan if size is None else size.height for size in sizes])
        self.foot = np.array([np.nan if size is None else size.foot for size in sizes])
        self.members = members
        self.in_picture: dict[Hashable, list[tuple[int, Hashable]]] = defaultdict(list)
        for position, member in enumerate(members):
            for picture, box in member.boxes:
                self.in_picture[picture].append((position, box))

    def _gap(self, i: int) -> Floats:
        gap: Floats = np.maximum(np.maximum(self.start - self.end[i], self.start[i] - self.end), 0.0)
        return gap

    def _same_camera(self, i: int) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = (self.camera == self.camera[i]) & (self.camera[i] >= 0)
        return same

    def travel(self, i: int) -> Floats:
        """Distance over the distance that can be reached, where it is more; see `reachable_km`."""
        half = (
            np.sin((self.latitude - self.latitude[i]) / 2) ** 2
            + np.cos(self.latitude) * np.cos(self.latitude[i]) * np.sin((self.longitude - self.longitude[i]) / 2) ** 2
        )
        distance = 2 * facts.EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0)))
        hours = (self._gap(i) + facts.CLOCK_TOLERANCE.total_seconds()) / 3600
        reach = facts.PLACE_TOLERANCE_KM + np.minimum(
            facts.SPRINT_KM_PER_HOUR * hours, facts.SPRINT_KM + facts.SUSTAINED_KM_PER_HOUR * hours
        )
        severity = distance / reach
        severity = np.where(severity <= 1, 0.0, severity)
        severity[self._same_camera(i)] = 0.0
        severity[i] = 0.0
        return severity

    def sexes(self, i: int) -> Floats:
        """1 where the two were seen as different sexes; only for an individual whose own sex is not known."""
        opposite = {"male": "female", "female": "male"}.get(str(self.sex[i]), "none")
        severity: Floats = (self.sex == opposite).astype(np.float64)
        return severity

    def life_stages(self, i: int) -> Floats:
        """1 where one is a fawn and the other an adult, and there was no time to grow up; growing younger never."""
        young = self.stage[i] == "juvenile"
        if not young and self.stage[i] != "adult":
            return np.zeros(len(self.stage))
        opposed = self.stage == ("adult" if young else "juvenile")
        elapsed = (self.start - self.start[i]) * (1 if young else -1)
        too_soon = np.where(np.isnan(elapsed), np.nan, elapsed < GROWN_UP_AFTER.total_seconds())
        severity: Floats = np.where(opposed, too_soon, 0.0)
        return severity

    def pictures(self, i: int) -> Floats:
        """Number of pictures in which both have a box of their own."""
        severity = np.zeros(len(self.members))
        for picture, box in self.members[i].boxes:
            for position, other in self.in_picture[picture]:
                severity[position] += position != i and other != box
        return severity

    def sizes(self, i: int) -> Floats:
        """How many times as tall, where it is twice or more at the same distance; see `size_ratio`."""
        gap = self._gap(i)
        comparable = self._same_camera(i) & (gap <= facts.SIZE_WITHIN.total_seconds())
        comparable &= np.abs(self.foot - self.foot[i]) <= facts.SIZE_FOOT_TOLERANCE
        ratio = self.height / self.height[i]
        ratio = np.maximum(ratio, 1 / ratio)
        severity = np.where(comparable, np.where(ratio < facts.SIZE_RATIO, 0.0, ratio), np.nan)
        severity[i] = 0.0
        return severity
