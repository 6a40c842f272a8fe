"""Who passes which camera, when, and how: the whole herd's story, before a pixel is drawn.

An event is a burst of 2 or 3 frames of one camera; an encounter is one animal in one event. The plan is a
pure function of its parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from deer_reid_pipeline.sample.coat import Flank
from deer_reid_pipeline.sample.individual import Individual, individual
from deer_reid_pipeline.sample.light import Illumination
from deer_reid_pipeline.sample.noise import generator
from deer_reid_pipeline.sample.picture import Subject
from deer_reid_pipeline.sample.pose import POSES, Pose, draw_pose, moved

CAMERAS = 4
FIRST_DAY = datetime(2025, 9, 28, 5, 30)


@dataclass(frozen=True)
class Frame:
    """One picture to draw. `path` is relative to the drop, with forward slashes; `stream` names its grain."""

    path: str
    when: datetime
    subjects: tuple[Subject, ...]
    stream: tuple[int, ...]


@dataclass(frozen=True)
class Event:
    """One burst. `known` says whether its animals are named in the drop; the two `tell` flags what else is
    told.
    """

    number: int
    camera: int
    kind: Illumination
    celsius: int
    known: bool
    tell_sex: bool
    tell_stage: bool
    frames: tuple[Frame, ...]

    @property
    def event_id(self) -> str:
        """The event's name in the tables."""
        return f"event_{self.number + 1:05d}"

    @property
    def deployment_id(self) -> str:
        """The camera's name in the tables, on the strip and as a folder."""
        return f"CAM{self.camera + 1:02d}"


@dataclass(frozen=True)
class Plan:
    """All events in the order of time, and the animals that only appear among the unnamed."""

    herd: tuple[Individual, ...]
    newcomers: frozenset[str]
    events: tuple[Event, ...]


def illumination(when: datetime) -> Illumination:
    """The light at a time of day in early October."""
    hour = when.hour + when.minute / 60
    if 8.0 <= hour < 17.5:
        return "day"
    return "dusk" if 6.7 <= hour < 8.0 or 17.5 <= hour < 19.0 else "infrared"


def newcomer_count(individuals: int, known_share: float) -> int:
    """How many animals never appear with a name: about a fifth, at least one where the herd allows it."""
    if known_share >= 1.0 or individuals < 3:
        return 0
    return max(1, round(individuals / 5))


class _Turns:
    """Deals animals out evenly: each comes once, in a random order, before any comes again."""

    def __init__(self, animals: Sequence[Individual], rng: np.random.Generator) -> None:
        self._animals, self._rng = list(animals), rng
        self._waiting: list[Individual] = []

    def next(self, other_than: Sequence[Individual] = ()) -> Individual:
        if not self._waiting:
            self._waiting = [self._animals[i] for i in self._rng.permutation(len(self._animals))]
        for index, animal in enumerate(self._waiting):
            if animal not in other_than:
                return self._waiting.pop(index)
        return next(animal for animal in self._animals if animal not in other_than)


def _frames(
    cast: Sequence[tuple[Individual, Flank]],
    camera: int,
    when: datetime,
    number: int,
    rng: np.random.Generator,
    seed: int,
) -> tuple[Frame, ...]:
    pair = len(cast) == 2
    subjects: list[Subject] = []
    for place, (animal, flank) in enumerate(cast):
        pose = draw_pose(POSES[int(rng.choice(len(POSES), p=(0.22, 0.22, 0.24, 0.16, 0.08, 0.08)))], rng)
        x = rng.uniform(0.22, 0.27) + 0.5 * place if pair else rng.uniform(0.3, 0.7)
        near = rng.uniform(0.30, 0.42) if pair else rng.uniform(0.30, 0.66)
        subjects.append(Subject(animal, flank, pose, float(x), float(near)))
    frames = []
    for shot in range(int(rng.integers(2, 4))):
        if shot:
            when = when + timedelta(seconds=int(rng.integers(2, 6)))
            subjects = [_later(subject, rng, pair) for subject in subjects]
        path = f"images/CAM{camera + 1:02d}/{when:%Y%m%d_%H%M%S}_{number + 1:05d}_{shot + 1}.jpg"
        frames.append(Frame(path, when, tuple(subjects), (seed, 41, number, shot)))
    return tuple(frames)


def _later(subject: Subject, rng: np.random.Generator, pair: bool) -> Subject:
    pose: Pose = moved(subject.pose, rng)
    ahead = -1.0 if subject.flank == "left" else 1.0
    stride = rng.uniform(0.03, 0.07) if subject.pose.name == "walking" and not pair else rng.uniform(-0.006, 0.01)
    near = float(np.clip(subject.near + rng.uniform(-0.008, 0.008), 0.25, 0.68))
    return Subject(subject.animal, subject.flank, pose, float(subject.x + ahead * stride), near)


def make_plan(individuals: int, encounters: int, seed: int, known_share: float) -> Plan:
    """Plan a herd. The first `known_share` of the encounters in time are named, the rest are for the
    pipeline.
    """
    herd = tuple(individual(seed, index) for index in range(individuals))
    rng = generator(seed, 40)
    # The last animals drawn are the newcomers, so the named part of a larger herd keeps its members.
    strangers = newcomer_count(individuals, known_share)
    residents = herd[: individuals - strangers]
    named_until = round(encounters * known_share)
    turns = _Turns(residents, rng)
    later_turns = _Turns(herd, rng)
    flanks: dict[str, int] = {animal.name: int(rng.integers(0, 2)) for animal in herd}
    when, done, events = FIRST_DAY, 0, list[Event]()
    while done < encounters:
        number = len(events)
        known = done < named_until
        left = (named_until if known else encounters) - done
        pool = turns if known else later_turns
        members = residents if known else herd
        pair = left >= 2 and len(members) >= 2 and rng.random() < 0.16
        first = pool.next()
        animals = [first, pool.next([first])] if pair else [first]
        cast: list[tuple[Individual, Flank]] = []
        for animal in animals:
            # Mostly the other flank than last time, so that both are on record.
            flanks[animal.name] += 1 if rng.random() < 0.8 else 2
            cast.append((animal, "left" if flanks[animal.name] % 2 else "right"))
        # Never within ten minutes of the last burst: no two events of a camera run together.
        when = when + timedelta(seconds=int(720 + rng.exponential(5.5 * 3600)))
        camera = int(rng.integers(0, CAMERAS))
        warmth = 9 + 6 * np.sin((when.hour - 9) / 24 * 2 * np.pi) + rng.normal(0, 2)
        frames = _frames(cast, camera, when, number, rng, seed)
        told = rng.random(2)
        events.append(
            Event(
                number, camera, illumination(when), int(warmth), known,
                bool(known or told[0] < 0.8), bool(known or told[1] < 0.8), frames,
            )
        )  # fmt: skip
        done += len(animals)
    return Plan(herd, frozenset(animal.name for animal in herd[individuals - strangers :]), tuple(events))
