"""The labelled pictures that a training is made on, and who is kept out of it.

An individual is in one part, by a hash of its name, so that it stays there as data grows. A class is an individual seen
from one flank: a coat pattern differs by flank. Pictures of an unknown flank are a class too, which may be the same as
any other of its individual.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deer_reid_pipeline.reid.fitted import fold_of
from deer_reid_pipeline.training.errors import TrainingError

PARTS = TRAIN, VALIDATION, TEST = "train", "validation", "test"

SALT = "training"
"""Of the hash that puts individuals into folds and parts."""

FEWEST_VALIDATED = 3
"""Individuals that decide when to stop."""

UNKNOWN_FLANK = "pictures_unknown_flank"
"""Name of a count: pictures of which nobody said which flank they show."""

_SHARES = 1 << 40

FEWEST = 10
"""Individuals with two encounters from one flank below which nothing can be learned that holds for others."""


@dataclass(frozen=True)
class Picture:
    """A labelled crop.

    Attributes:
        key: identifies the detection.
        individual: whom a person named.
        flank: left, right, front, back or "" where unknown; then it may show the same as any other of its individual.
        encounter: pictures of one encounter or burst share it.
    """

    key: str
    individual: str
    flank: str
    encounter: str

    @property
    def label(self) -> tuple[str, str]:
        """Its class."""
        return self.individual, self.flank


def part_of(individual: str) -> str:
    """train (80 %), validation (10 %) or test (10 %): by a hash of the name."""
    tenth = fold_of(individual, 10, SALT)
    return TEST if tenth == 9 else VALIDATION if tenth == 8 else TRAIN


@dataclass(frozen=True)
class Split:
    """Who is trained on, who decides when to stop, and who is only judged.

    Attributes:
        fold: number of the fold that is judged, or None.
    """

    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]
    fold: int | None = None

    def among(self, individuals: Iterable[str]) -> Split:
        """The same split of these individuals alone."""
        some = frozenset(individuals)
        return Split(self.train & some, self.validation & some, self.test & some, self.fold)


def one_split(individuals: Sequence[str]) -> Split:
    """80, 10 and 10 % of the individuals."""
    parts = {part: frozenset(i for i in individuals if part_of(i) == part) for part in (TRAIN, VALIDATION, TEST)}
    return Split(parts[TRAIN], parts[VALIDATION], parts[TEST])


def folds_of(individuals: Sequence[str], folds: int) -> list[Split]:
    """One split a fold: the fold is judged, an eighth of the others decides when to stop, the rest is trained on.

    Who decides when to stop is drawn in the order of a hash, so that a small herd has some too.
    """
    splits = []
    for number in range(folds):
        test = frozenset(i for i in individuals if fold_of(i, folds, SALT) == number)
        others = [i for i in individuals if i not in test]
        drawn = sorted(others, key=lambda name: fold_of(name, _SHARES, f"{SALT} {number}"))
        validation = frozenset(drawn[: max(FEWEST_VALIDATED, round(len(others) / 8))])
        splits.append(Split(frozenset(others) - validation, validation, test, number))
    return splits


@dataclass(frozen=True)
class TrainingSet:
    """Labelled pictures in a fixed order."""

    pictures: tuple[Picture, ...]

    @property
    def individuals(self) -> tuple[str, ...]:
        """Names, sorted."""
        return tuple(sorted({picture.individual for picture in self.pictures}))

    @property
    def digest(self) -> str:
        """sha256 over who is seen on which picture, from which flank, in which encounter."""
        lines = sorted(f"{p.key}\t{p.individual}\t{p.flank}\t{p.encounter}\n" for p in self.pictures)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def of(self, individuals: frozenset[str]) -> TrainingSet:
        """Only the pictures of these individuals."""
        return TrainingSet(tuple(p for p in self.pictures if p.individual in individuals))

    def without(self, keys: frozenset[str]) -> TrainingSet:
        """All pictures but those of these detections."""
        return TrainingSet(tuple(p for p in self.pictures if p.key not in keys))

    def encounters(self) -> dict[tuple[str, str], set[str]]:
        """Class -> its encounters."""
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        for picture in self.pictures:
            found[picture.label].add(picture.encounter)
        return dict(found)

    def returning(self) -> set[str]:
        """Individuals seen in two encounters from one flank: only they can teach what stays the same."""
        return {individual for (individual, _), met in self.encounters().items() if len(met) > 1}

    def counts(self) -> dict[str, int]:
        """Pictures, individuals, returning individuals, classes, classes with two encounters, encounters, and
        pictures by flank (of an unknown one also where there are none)."""
        met = self.encounters()
        flanks: dict[str, int] = defaultdict(int, {UNKNOWN_FLANK: 0})
        for picture in self.pictures:
            flanks[f"pictures_{picture.flank}" if picture.flank else UNKNOWN_FLANK] += 1
        return {
            "pictures": len(self.pictures),
            "individuals": len(self.individuals),
            "returning_individuals": len(self.returning()),
            "classes": len(met),
            "returning_classes": sum(len(each) > 1 for each in met.values()),
            "encounters": len({p.encounter for p in self.pictures}),
            **dict(sorted(flanks.items())),
        }


def refuse_too_little(data: TrainingSet, splits: Sequence[Split], unreadable: int = 0) -> None:
    """Make sure that there is something to learn from in every split, and something to judge by.

    Args:
        data: what can be read, as far as that is known.
        unreadable: labelled pictures that cannot be read, and are not in it.

    Raises:
        TrainingError: says what there is and what it needs.
    """
    how = "name more animals in a drop's table (individualID), or import reviews (deer-reid review import)"
    if unreadable:
        how = f"bring back the {unreadable} labelled pictures that cannot be read, or {how}"
    returning = data.returning()
    if len(returning) < FEWEST:
        pictures = f"{len(data.pictures)} pictures{' that can be read' if unreadable else ''}"
        raise TrainingError(
            f"too little to train on: {len(data.individuals)} individuals were named by a person in {pictures}, and "
            f"{len(returning)} of them were met twice or more from one flank; it needs {FEWEST}. A model trained on "
            f"less would not hold for other animals: {how}"
        )
    for split in splits:
        for part, members in (("train on", split.train), ("validate on", split.validation), ("judge by", split.test)):
            if len(members & returning) < 2:
                raise TrainingError(
                    f"too little to train on: of {len(returning)} individuals met twice or more from one flank, "
                    f"{len(members & returning)} fall to those to {part}{_in_fold(split)}, and it needs two: {how}, or "
                    "choose fewer folds"
                )


def _in_fold(split: Split) -> str:
    return "" if split.fold is None else f" in fold {split.fold}"
