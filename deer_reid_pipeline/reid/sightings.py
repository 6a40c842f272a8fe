"""Identified encounters as the plausibility rules see them, and what two of them say about each other.

Plain records and pure functions: distances, times and sizes. It never decides whether an identity is right.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EARTH_RADIUS_KM = 6371.0088
SPRINT_KM_PER_HOUR = 60.0
SPRINT_KM = 5.0
SUSTAINED_KM_PER_HOUR = 6.0
PLACE_TOLERANCE_KM = 0.2
CLOCK_TOLERANCE = timedelta(minutes=2)

CLOCKS_SET_AFTER = datetime(2000, 1, 3, tzinfo=UTC)
"""Camera clocks that lost power start again at 1970 or 2000-01-01: such a time places nothing."""

SIZE_RATIO = 2.0
SIZE_FOOT_TOLERANCE = 0.05
SIZE_WITHIN = timedelta(days=60)

Position = tuple[float, float]
"""Latitude and longitude in degrees (WGS 84)."""


@dataclass(frozen=True)
class BodySize:
    """How tall an animal stands in its pictures, as shares (0 to 1) of the picture's height; medians.

    Attributes:
        height: of the box.
        foot: lower edge of the box, which tells how far from the camera it stands.
        whole: no edge of the picture cuts the animal.
    """

    height: float
    foot: float
    whole: bool


@dataclass(frozen=True)
class IdentifiedEncounter:
    """One encounter that was identified as an individual.

    Attributes:
        suspect: a machine's match of the day that is judged; only such a sighting is ever flagged.
        sex, individual_sex: male, female or unknown, of the encounter itself and of the individual's record.
        life_stage: adult, subadult, juvenile or None, of the encounter itself.
        boxes: (picture, detection) of each of its detections.
        start, end: first and last picture, with an offset; None where no picture has a time.
        score: similarity that decided, -1 to 1; NaN where a person decided.
    """

    encounter: Hashable
    individual: Hashable
    name: str
    suspect: bool
    sex: str = "unknown"
    individual_sex: str = "unknown"
    life_stage: str | None = None
    camera: str | None = None
    position: Position | None = None
    start: datetime | None = None
    end: datetime | None = None
    boxes: tuple[tuple[Hashable, Hashable], ...] = ()
    size: BodySize | None = None
    score: float = float("nan")

    @property
    def times(self) -> tuple[datetime, datetime] | None:
        """First and last picture; None where there is no time, or one of a clock that was never set."""
        if self.start is None or self.start < CLOCKS_SET_AFTER:
            return None
        return self.start, max(self.start, self.end or self.start)


def distance_km(one: Position, other: Position) -> float:
    """Great-circle distance in kilometres (haversine formula; Sinnott 1984, Sky and Telescope 68:159)."""
    lat1, lon1, lat2, lon2 = (math.radians(value) for value in (*one, *other))
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(half)))


def reachable_km(gap: timedelta) -> float:
    """How far a deer may have come in this time: 60 km/h over at most 5 km, and 6 km/h beyond them.

    Generous on purpose: deer sprint at 50 to 60 km/h for minutes at most, and rarely move on by more than a few
    kilometres in an hour. Positions are trusted to 200 m and clocks to 2 minutes.
    """
    hours = (gap + CLOCK_TOLERANCE).total_seconds() / 3600
    return PLACE_TOLERANCE_KM + min(SPRINT_KM_PER_HOUR * hours, SPRINT_KM + SUSTAINED_KM_PER_HOUR * hours)


def gap_between(one: IdentifiedEncounter, other: IdentifiedEncounter) -> timedelta | None:
    """Time between two sightings, zero where they overlap; None where one has no usable time."""
    first, second = one.times, other.times
    if first is None or second is None:
        return None
    return max(second[0] - first[1], first[0] - second[1], timedelta(0))


def compatible_times(one: IdentifiedEncounter, other: IdentifiedEncounter) -> bool | None:
    """Whether one animal can have been at both places at these times; None where a place or a time is not known."""
    gap = gap_between(one, other)
    if gap is None:
        return None
    if one.camera is not None and one.camera == other.camera:
        return True
    if one.position is None or other.position is None:
        return None
    return distance_km(one.position, other.position) <= reachable_km(gap)


def size_ratio(one: IdentifiedEncounter, other: IdentifiedEncounter) -> float | None:
    """How many times as tall (at least 1) one animal stands as the other; None where that cannot be compared.

    Comparable are whole animals at one camera, at the same distance (their feet at the same height of the picture,
    within 5 % of it) and within 60 days.
    """
    gap = gap_between(one, other)
    if one.camera is None or one.camera != other.camera or gap is None or gap > SIZE_WITHIN:
        return None
    if one.size is None or other.size is None or not (one.size.whole and other.size.whole):
        return None
    if abs(one.size.foot - other.size.foot) > SIZE_FOOT_TOLERANCE or min(one.size.height, other.size.height) <= 0:
        return None
    ratio = one.size.height / other.size.height
    return max(ratio, 1 / ratio)


def similar_size(one: IdentifiedEncounter, other: IdentifiedEncounter) -> bool | None:
    """Whether two animals stand about equally tall; None where that cannot be compared.

    A lowered head makes an animal look up to a third smaller, so only a ratio of 2 or more counts as different.
    """
    ratio = size_ratio(one, other)
    return None if ratio is None else ratio < SIZE_RATIO


def same_sex(sighting: IdentifiedEncounter) -> bool | None:
    """Whether encounter and individual are of one sex; None where one is not known."""
    known = {"male", "female"}
    if sighting.sex not in known or sighting.individual_sex not in known:
        return None
    return sighting.sex == sighting.individual_sex
