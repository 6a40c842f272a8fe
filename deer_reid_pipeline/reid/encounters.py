"""From detections to events and encounters.

An event is a burst: the same camera with gaps of at most 10 minutes, or what the drop calls one event. An encounter
is one animal in one event, and is what identity is decided about. Two boxes in one picture are two animals. Whether
boxes of two pictures are one animal is told by their appearance, or by the seconds between them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from deer_reid_pipeline.reid.matching import flank_signs
from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.reid.vocabulary import agreed_sex

BURST_GAP = timedelta(minutes=10)

LINK_GAP = timedelta(seconds=60)
"""Up to this gap two pictures that show one animal each show the same one, whatever it looks like."""

LINK_ABOVE = 0.2
"""Beyond `LINK_GAP` a box is linked to an animal only if its gain (similarity and overlap) is above this."""

UNLINKED = -10.0
"""Stands for a link that may not be made; lower than every gain."""

OVERLAP_BONUS = 0.25
"""Weight of box overlap (IoU, 0 to 1) beside appearance when boxes of consecutive pictures are linked."""


@dataclass(frozen=True)
class Sighting:
    """One detection as encounters see it.

    Attributes:
        key: identifies the detection.
        image: identifies its picture; two sightings of one picture are two animals.
        order: position of the picture in the drop (time, else eventID and file name).
        camera: deploymentID, else "folder:" and the folder of the picture.
        event: eventID given by the drop, or None.
        box: normalised x, y, width, height.
        viewpoint: left, right, front, back, or None where unknown.
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
    viewpoint: str | None = None


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

    A given eventID decides, for each given deploymentID by itself: an event is on one camera. Otherwise pictures of
    one camera whose times follow each other within `gap` are one event, and a picture without a time is an event of
    its own.

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
            name = f"event:{item.event}" if item.camera.startswith("folder:") else f"event:{item.camera}/{item.event}"
        else:
            name = burst_of.get(item.key, f"picture:{item.image}")
        groups.setdefault(name, []).append(item)
    return list(groups.items())


def split_event(
    event: str,
    sightings: Sequence[Sighting],
    similarity: Callable[[Sequence[Sighting]], FloatArray],
    link_above: float = LINK_ABOVE,
) -> list[EncounterGroup]:
    """Split one event into encounters.

    Sightings named by a person go together by name. The rest are followed from picture to picture: boxes of one
    picture are given to the animals seen so far, each to one, so that the total gain of the links is highest. The
    gain is the highest similarity to a sighting of the animal plus `OVERLAP_BONUS` for the overlap with its last box;
    opposite flanks are not compared, and where nothing else is there the similarity counts as `link_above`. A box
    is linked only if

    - the gain is above `link_above`, or
    - both its picture and the animal's last one show a single animal, and they are at most `LINK_GAP` apart (or a
      time is unknown, and it is the drop that says they are one event), or
    - so with a gap up to `BURST_GAP` (any gap in a given event) where only opposite flanks were seen.

    A known, different sex forbids every link. A box that is not linked opens another animal.

    Args:
        similarity: returns the (n, n) similarity matrix of the sightings it is given; called only when needed.
        link_above: similarity (-1 to 1) that two pictures of different animals do not exceed.
    """
    boxes = Counter(sighting.image for sighting in sightings)
    crowded = {image for image, count in boxes.items() if count > 1}
    named: dict[str, list[Sighting]] = defaultdict(list)
    unnamed: list[Sighting] = []
    for sighting in sightings:
        if sighting.individual is None:
            unnamed.append(sighting)
        else:
            named[sighting.individual].append(sighting)
    groups = [EncounterGroup(event, tuple(items), name) for name, items in named.items()]
    tracks = _follow(_in_time_order(unnamed), crowded, similarity, link_above)
    groups += [EncounterGroup(event, tuple(sorted(track, key=_place)), None) for track in tracks]
    return sorted(groups, key=lambda group: _place(group.sightings[0]))


def _place(sighting: Sighting) -> tuple[int, str]:
    return sighting.order, str(sighting.key)


def _in_time_order(sightings: Sequence[Sighting]) -> list[Sighting]:
    """By time if all have one, else as they are in the drop."""
    times = [item.timestamp for item in sightings if item.timestamp is not None]
    if len(times) < len(sightings):
        return list(sightings)
    return [item for _, item in sorted(zip(times, sightings, strict=True), key=lambda pair: (pair[0], _place(pair[1])))]


def _follow(
    sightings: Sequence[Sighting],
    crowded: Collection[Hashable],
    similarity: Callable[[Sequence[Sighting]], FloatArray],
    link_above: float,
) -> list[list[Sighting]]:
    pictures: dict[Hashable, list[int]] = {}
    for index, sighting in enumerate(sightings):
        pictures.setdefault(sighting.image, []).append(index)
    one_sex = len({item.sex for item in sightings} - {"unknown"}) < 2
    if one_sex and all(_adjacent(a, b, crowded) for a, b in pairwise(sightings)):
        return [list(sightings)] if sightings else []

    appearance = similarity(sightings)
    flanks = flank_signs([item.viewpoint for item in sightings])
    tracks: list[list[int]] = []
    for boxes in pictures.values():
        gain = np.full((len(boxes), len(tracks)), link_above if len(boxes) > 1 else UNLINKED)
        linkable = np.zeros(gain.shape, dtype=bool)
        for row, box in enumerate(boxes):
            for column, track in enumerate(tracks):
                comparable = [member for member in track if flanks[box] * flanks[member] >= 0]
                look = float(np.max(appearance[box, comparable])) if comparable else link_above
                worth = look + OVERLAP_BONUS * iou(sightings[box].box, sightings[track[-1]].box)
                before = [sightings[member] for member in track]
                if _may_be_one(before, sightings[box], crowded, bool(comparable), worth > link_above):
                    gain[row, column], linkable[row, column] = worth, True
        rows, columns = linear_sum_assignment(gain, maximize=True)
        chosen = {
            boxes[row]: tracks[column] for row, column in zip(rows, columns, strict=True) if linkable[row, column]
        }
        for box in boxes:
            if box in chosen:
                chosen[box].append(box)
            else:
                tracks.append([box])
    return [[sightings[index] for index in track] for track in tracks]


def _may_be_one(
    track: Sequence[Sighting], item: Sighting, crowded: Collection[Hashable], comparable: bool, alike: bool
) -> bool:
    if len({sighting.sex for sighting in [*track, item]} - {"unknown"}) > 1:
        return False
    last = track[-1]
    if alike or _adjacent(last, item, crowded):
        return True
    if comparable or last.image in crowded or item.image in crowded:
        return False
    gap = _gap(last, item)
    return item.event is not None or gap is None or gap <= BURST_GAP


def _adjacent(a: Sighting, b: Sighting, crowded: Collection[Hashable]) -> bool:
    """Two pictures of a single animal each, so close that it is the same one whatever it looks like."""
    gap = _gap(a, b)
    return (gap is None or gap <= LINK_GAP) and a.image not in crowded and b.image not in crowded


def _gap(a: Sighting, b: Sighting) -> timedelta | None:
    """Time between two sightings; None where a time is unknown, which within an event is so only in given ones."""
    return None if a.timestamp is None or b.timestamp is None else abs(b.timestamp - a.timestamp)


def iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two (x, y, width, height) boxes; 0 to 1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)
