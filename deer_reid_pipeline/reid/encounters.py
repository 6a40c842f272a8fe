"""From detections to events and encounters.

An event is a burst: the same camera with gaps of at most 10 minutes, or what the drop calls one event. An encounter
is one animal in one event, and is what identity is decided about. Two boxes in one picture are two animals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from scipy.optimize import linear_sum_assignment

from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.reid.vocabulary import agreed_sex

BURST_GAP = timedelta(minutes=10)

SEX_CONFLICT = -10.0
"""Added to a similarity when linking would put a male and a female into one encounter."""

OVERLAP_BONUS = 0.25
"""Weight of box overlap (IoU, 0 to 1) beside appearance when boxes of consecutive pictures are linked."""


@dataclass(frozen=True)
class Sighting:
    """One detection as encounters see it.

    Attributes:
        key: identifies the detection.
        image: identifies its picture; two sightings of one picture are two animals.
        order: position of the picture in the drop (time, else eventID and file name).
        camera: deploymentID, else the folder of the picture.
        event: eventID given by the drop, or None.
        box: normalised x, y, width, height.
    """

    key: Hashable
    image: Hashable
    order: int
    camera: str
    event: str | None
    timestamp: datetime | None
    sex: str
    individual: str | None
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class EncounterGroup:
    """Sightings of one animal in one event, in order."""

    event: str
    sightings: tuple[Sighting, ...]
    individual: str | None

    @property
    def sex(self) -> str:
        return agreed_sex([sighting.sex for sighting in self.sightings])


def group_events(sightings: Sequence[Sighting], gap: timedelta = BURST_GAP) -> list[tuple[str, list[Sighting]]]:
    """Group sightings into events.

    A given eventID decides. Otherwise pictures of one camera whose times follow each other within `gap` are one
    event, and a picture without a time is an event of its own.

    Returns:
        (event key, sightings in order) in the order in which events begin.
    """
    ordered = sorted(sightings, key=lambda item: (item.order, str(item.key)))
    groups: dict[str, list[Sighting]] = {}
    open_bursts: dict[str, tuple[str, datetime]] = {}
    timed = sorted(
        (item for item in ordered if item.event is None and item.timestamp is not None),
        key=lambda item: (item.timestamp, item.order, str(item.key)),
    )
    burst_of: dict[Hashable, str] = {}
    for item in timed:
        assert item.timestamp is not None
        current = open_bursts.get(item.camera)
        if current is None or item.timestamp - current[1] > gap:
            current = (f"burst:{item.camera}:{item.timestamp.isoformat()}", item.timestamp)
        open_bursts[item.camera] = (current[0], item.timestamp)
        burst_of[item.key] = current[0]
    for item in ordered:
        if item.event is not None:
            name = f"event:{item.event}"
        else:
            name = burst_of.get(item.key, f"picture:{item.image}")
        groups.setdefault(name, []).append(item)
    return list(groups.items())


def split_event(
    event: str, sightings: Sequence[Sighting], similarity: Callable[[Sequence[Sighting]], FloatArray]
) -> list[EncounterGroup]:
    """Split one event into encounters.

    Sightings named by a person go together by name. The rest are followed from picture to picture: boxes of one
    picture are assigned to the animals seen so far by the assignment with the highest total of appearance and box
    overlap, and an additional box opens another animal. With one box a picture the event is one animal unless a
    known sex contradicts it.

    Args:
        similarity: returns the (n, n) similarity matrix of the sightings it is given; called only when needed.
    """
    named: dict[str, list[Sighting]] = defaultdict(list)
    unnamed: list[Sighting] = []
    for sighting in sightings:
        if sighting.individual is None:
            unnamed.append(sighting)
        else:
            named[sighting.individual].append(sighting)
    groups = [EncounterGroup(event, tuple(items), name) for name, items in named.items()]
    groups += [EncounterGroup(event, tuple(track), None) for track in _follow(unnamed, similarity)]
    return sorted(groups, key=lambda group: (group.sightings[0].order, str(group.sightings[0].key)))


def _follow(
    sightings: Sequence[Sighting], similarity: Callable[[Sequence[Sighting]], FloatArray]
) -> list[list[Sighting]]:
    pictures: dict[Hashable, list[int]] = {}
    for index, sighting in enumerate(sightings):
        pictures.setdefault(sighting.image, []).append(index)
    one_sex = agreed_sex([item.sex for item in sightings]) != "unknown" or all(
        item.sex == "unknown" for item in sightings
    )
    if one_sex and all(len(boxes) == 1 for boxes in pictures.values()):
        return [list(sightings)] if sightings else []

    appearance = similarity(sightings)
    tracks: list[list[int]] = []
    for boxes in pictures.values():
        if not tracks:
            tracks = [[box] for box in boxes]
            continue
        gain = np.array([[_link_gain(sightings, appearance, track, box) for track in tracks] for box in boxes])
        rows, columns = linear_sum_assignment(gain, maximize=True)
        chosen = dict(zip(rows.tolist(), columns.tolist(), strict=True))
        for row, box in enumerate(boxes):
            column = chosen.get(row)
            if column is None or gain[row, column] <= SEX_CONFLICT / 2:
                tracks.append([box])
            else:
                tracks[column].append(box)
    return [[sightings[index] for index in track] for track in tracks]


def _link_gain(sightings: Sequence[Sighting], appearance: FloatArray, track: list[int], box: int) -> float:
    gain = float(np.max(appearance[box, track])) + OVERLAP_BONUS * iou(sightings[box].box, sightings[track[-1]].box)
    sexes = {sightings[index].sex for index in [*track, box]} - {"unknown"}
    return gain + (SEX_CONFLICT if len(sexes) > 1 else 0.0)


def iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two (x, y, width, height) boxes; 0 to 1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)
