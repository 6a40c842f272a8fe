"""The labelled pictures that a training is made on, and who is kept out of it.

An individual is in one part, by a hash of its name, so that it stays there as data grows. A class is an individual seen
from one flank: a coat pattern differs by flank.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from deer_reid_pipeline.reid.fitted import fold_of
from deer_reid_pipeline.training.errors import TrainingError

PARTS = TRAIN, VALIDATION, TEST = "train", "validation", "test"

SALT = "training"
"""Of the hash that puts individuals into folds and parts."""

FEWEST_VALIDATED = 3
"""Individuals that decide when to stop."""

_SHARES = 1 << 40

FEWEST = 10
"""Individuals with two encounters from one flank below which nothing can be learned that holds for others."""


@dataclass(frozen=True)
class Picture:
    """A labelled crop.

    Attributes:
        key: identifies the detection.
        individual: whom a person named.
        flank: left, right, front, back or "" where unknown.
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
        pictures by flank."""
        met = self.encounters()
        flanks: dict[str, int] = defaultdict(int)
        for picture in self.pictures:
            flanks[f"pictures_{picture.flank or 'unknown_flank'}"] += 1
        return {
            "pictures": len(self.pictures),
            "individuals": len(self.individuals),
            "returning_individuals": len(self.returning()),
            "classes": len(met),
            "returning_classes": sum(len(each) > 1 for each in met.values()),
            "encounters": len({p.encounter for p in self.pictures}),
            **dict(sorted(flanks.items())),
        }


def refuse_too_little(data: TrainingSet, splits: Sequence[Split]) -> None:
    """Make sure that there is something to learn from in every split, and something to judge by.

    Raises:
        TrainingError: says what there is and what it needs.
    """
    how = "name more animals in a drop's table (individualID), or import reviews (deer-reid review import)"
    returning = data.returning()
    if len(returning) < FEWEST:
        raise TrainingError(
            f"too little to train on: {len(data.individuals)} individuals were named by a person in "
            f"{len(data.pictures)} pictures, and {len(returning)} of them were met twice or more from one flank; it "
            f"needs {FEWEST}. A model trained on less would not hold for other animals: {how}"
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
