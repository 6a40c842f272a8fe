"""Detections whose individual a person gave, as plain arrays: what every evaluation is made on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.similarity import VectorSet

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Labelled:
    """Labelled detections under one recipe; one row a detection.

    Attributes:
        keys: identify the detections; (n,).
        vectors: branch -> VectorSet of n rows, one recipe for all.
        individual: code of the true individual, 0 to G-1; int64 (n,).
        encounter: code of the encounter, 0 to E-1, in the order in which encounters happened; int64 (n,).
        burst: encounters that are burst neighbours share a code, which is also how two detections that must never
            count as a true pair are told; int64 (n,).
        viewpoints: left, right, front, back or None; (n,).
        names: individualID by code; (G,).
        sexes: male, female or unknown of each detection's encounter; (n,).
        strata: name (light, camera, ...) -> the value of each detection, "" where unknown; each (n,).
        compartment: 0 or more, the same for all detections of an individual; int64 (n,). Vectors of different
            compartments come from different models (the cross-validation folds of a trained embedding) and are never
            compared with each other. None where all of them may be.
        galleries: compartment -> branch -> VectorSet of n rows: all detections as the model of that compartment gives
            them. With one for each compartment, a search is made among all individuals (`searches.search`).
    """

    keys: Sequence[Hashable]
    vectors: Mapping[str, VectorSet]
    individual: Ints
    encounter: Ints
    burst: Ints
    viewpoints: Sequence[str | None]
    names: Sequence[str]
    sexes: Sequence[str]
    strata: Mapping[str, Sequence[str]] = field(default_factory=dict)
    compartment: Ints | None = None
    galleries: Mapping[int, Mapping[str, VectorSet]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.keys)
        columns = [self.individual, self.encounter, self.burst, self.viewpoints, self.sexes, *self.strata.values()]
        columns += [item.vectors for item in self.vectors.values()]
        columns += [item.vectors for gallery in self.galleries.values() for item in gallery.values()]
        columns += [] if self.compartment is None else [self.compartment]
        if any(len(column) != rows for column in columns):
            raise ValueError(f"columns of labelled detections differ in length from their {rows} keys")
        if len({item.recipe_id for item in self.vectors.values()}) > 1:
            raise ValueError("labelled detections carry vectors of more than one recipe")
        if rows and not 0 <= self.individual.min() <= self.individual.max() < len(self.names):
            raise ValueError("an individual's code has no name")
        if self.compartment is not None and rows:
            if self.compartment.min() < 0:
                raise ValueError("a compartment's number is negative")
            if np.any(self.compartments[self.individual] != self.compartment):
                raise ValueError("an individual has detections in more than one compartment")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def individuals(self) -> int:
        """Number of individuals, those without a row included."""
        return len(self.names)

    @property
    def encounters(self) -> int:
        """Number of encounters."""
        return int(self.encounter.max()) + 1 if len(self) else 0

    @property
    def divided(self) -> bool:
        """Whether there are detections that are never compared because they lie in different compartments."""
        return self.compartment is not None and len(self) > 0 and bool(np.ptp(self.compartment))

    @property
    def shared(self) -> bool:
        """Whether there are compartments, and a gallery of all individuals for each."""
        return self.divided and set(np.unique(self.compartments[self.individual]).tolist()) <= set(self.galleries)

    @property
    def compartments(self) -> Ints:
        """Compartment of each individual, -1 for those without a row; 0 for all where there are none; int64 (G,)."""
        if self.compartment is None:
            return np.zeros(self.individuals, dtype=np.int64)
        found = np.full(self.individuals, -1, dtype=np.int64)
        found[self.individual] = self.compartment
        return found

    def rows(self, keep: Mask) -> Labelled:
        """Only these rows. Individuals and encounters are numbered anew, in the same order.

        Args:
            keep: bool (n,).
        """
        index = np.flatnonzero(keep).tolist()

        def kept(vectors: Mapping[str, VectorSet]) -> dict[str, VectorSet]:
            return {name: VectorSet(item.recipe_id, item.branch, item.vectors[index]) for name, item in vectors.items()}

        present, individual = np.unique(self.individual[index], return_inverse=True)
        return Labelled(
            keys=[self.keys[i] for i in index],
            vectors=kept(self.vectors),
            individual=individual.astype(np.int64),
            encounter=_renumbered(self.encounter[index]),
            burst=_renumbered(self.burst[index]),
            viewpoints=[self.viewpoints[i] for i in index],
            names=[self.names[code] for code in present.tolist()],
            sexes=[self.sexes[i] for i in index],
            strata={name: [column[i] for i in index] for name, column in self.strata.items()},
            compartment=None if self.compartment is None else self.compartment[index],
            galleries={
                number: kept(gallery)
                for number, gallery in self.galleries.items()
                if self.compartment is None or np.any(self.compartment[index] == number)
            },
        )

    def of_individuals(self, chosen: Mask) -> Labelled:
        """Only the rows of these individuals.

        Args:
            chosen: bool (G,).
        """
        return self.rows(np.asarray(chosen, dtype=bool)[self.individual])


def in_compartments_of(labelled: Labelled, other: Labelled) -> Labelled:
    """The same detections in the compartments of another's individuals, so that both are judged in the same galleries.

    Individuals are told by their names; without compartments in the other there are none in what is returned. A
    compartment of the other that has a gallery of all individuals keeps one, of the model here that judges its
    individuals, where that is one model.

    Raises:
        ValueError: the other has no detection of an individual.
    """
    if other.compartment is None:
        return replace(labelled, compartment=None, galleries={})
    of_name = {name: code for name, code in zip(other.names, other.compartments.tolist(), strict=True) if code >= 0}
    missing = sorted({labelled.names[code] for code in np.unique(labelled.individual).tolist()} - set(of_name))
    if missing:
        raise ValueError(f"no compartment is known of {len(missing)} individuals: {', '.join(missing[:5])}")
    found = np.array([of_name.get(name, -1) for name in labelled.names], dtype=np.int64)
    compartment = found[labelled.individual]
    galleries: dict[int, Mapping[str, VectorSet]] = {}
    for number in other.galleries:
        judging = np.unique(labelled.compartments[labelled.individual[compartment == number]]).tolist()
        if len(judging) == 1:
            gallery = labelled.galleries.get(judging[0]) if labelled.divided else labelled.vectors
            galleries |= {} if gallery is None else {number: gallery}
    return replace(labelled, compartment=compartment, galleries=galleries)


def _renumbered(codes: Ints) -> Ints:
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
