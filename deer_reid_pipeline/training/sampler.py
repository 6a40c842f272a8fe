"""Which pictures stand in a batch together: several classes, and of each class pictures of different encounters.

Two pictures of one encounter share light, pose and place; taken as a pair they teach the background.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.training.dataset import Picture


@dataclass(frozen=True)
class Item:
    """A place in a batch.

    Attributes:
        index: of the picture in the training set.
        label: number of its class; mirrored classes follow after the others.
        mirrored: whether it is shown mirrored.
    """

    index: int
    label: int
    mirrored: bool


@dataclass(frozen=True)
class Classes:
    """The classes of a training by number: an animal seen from one flank, mirrored ones after the others.

    Attributes:
        animal: number of the individual, another one in its mirrored classes; int64 [n].
        flank_unknown: whether nobody said which flank the pictures of a class show; bool [n].
    """

    animal: NDArray[np.int64]
    flank_unknown: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.animal)


class EncounterSampler:
    """Batches of `classes x pictures` items. The batches of an epoch depend on the seed and its number alone.

    Classes are drawn in proportion to the square root of their encounters (at most twice the pictures wanted), so that
    an animal with a thousand pictures does not crowd out the rest, and half as often where there is one encounter,
    which has no true pair.

    Args:
        pictures: the training pictures; `Item.index` counts in them.
        mirrored: add the mirrored classes.
    """

    def __init__(
        self, pictures: Sequence[Picture], classes: int, pictures_per_class: int, mirrored: bool, seed: int
    ) -> None:
        members: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, picture in enumerate(pictures):
            members[picture.label][picture.encounter].append(index)
        self._labels = sorted(members)
        self._members = [[members[label][e] for e in sorted(members[label])] for label in self._labels]
        self._per_class = pictures_per_class
        self._batch = classes * pictures_per_class
        self._mirrored = mirrored
        self._seed = seed
        met = np.array([len(each) for each in self._members])
        weights = np.where(met > 1, np.sqrt(np.minimum(met, 2 * pictures_per_class)), 0.5)
        self._weights = np.tile(weights, 2 if mirrored else 1)
        self._weights = self._weights / self._weights.sum()

    @property
    def classes(self) -> Classes:
        """All classes, mirrored ones included."""
        names = sorted({individual for individual, _ in self._labels})
        place = {name: number for number, name in enumerate(names)}
        animal = np.array([place[individual] for individual, _ in self._labels], dtype=np.int64)
        unknown = np.array([not flank for _, flank in self._labels], dtype=np.bool_)
        if not self._mirrored:
            return Classes(animal, unknown)
        return Classes(np.concatenate([animal, animal + len(names)]), np.tile(unknown, 2))

    def epoch(self, number: int, batches: int) -> Iterator[list[Item]]:
        """The batches of an epoch."""
        for batch in range(batches):
            yield self._draw(np.random.default_rng((self._seed, number, batch)))

    def _draw(self, rng: np.random.Generator) -> list[Item]:
        classes = len(self._weights)
        order = rng.choice(classes, size=classes, replace=False, p=self._weights)
        items: list[Item] = []
        for label in order.tolist():
            mirrored, which = divmod(label, len(self._labels))
            encounters = self._members[which]
            for encounter in rng.permutation(len(encounters))[: self._per_class].tolist():
                pictures = encounters[encounter]
                items.append(Item(pictures[int(rng.integers(len(pictures)))], label, bool(mirrored)))
            if len(items) >= self._batch:
                break
        return items[: self._batch]
