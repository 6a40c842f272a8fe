"""Detections whose individual a person gave, as plain arrays: what every evaluation is made on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

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

    def __post_init__(self) -> None:
        rows = len(self.keys)
        columns = [self.individual, self.encounter, self.burst, self.viewpoints, self.sexes, *self.strata.values()]
        columns += [item.vectors for item in self.vectors.values()]
        if any(len(column) != rows for column in columns):
            raise ValueError(f"columns of labelled detections differ in length from their {rows} keys")
        if len({item.recipe_id for item in self.vectors.values()}) > 1:
            raise ValueError("labelled detections carry vectors of more than one recipe")
        if rows and not 0 <= self.individual.min() <= self.individual.max() < len(self.names):
            raise ValueError("an individual's code has no name")

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

    def rows(self, keep: Mask) -> Labelled:
        """Only these rows. Individuals and encounters are numbered anew, in the same order.

        Args:
            keep: bool (n,).
        """
        index = np.flatnonzero(keep).tolist()
        present, individual = np.unique(self.individual[index], return_inverse=True)
        return Labelled(
            keys=[self.keys[i] for i in index],
            vectors={
                branch: VectorSet(item.recipe_id, item.branch, item.vectors[index])
                for branch, item in self.vectors.items()
            },
            individual=individual.astype(np.int64),
            encounter=_renumbered(self.encounter[index]),
            burst=_renumbered(self.burst[index]),
            viewpoints=[self.viewpoints[i] for i in index],
            names=[self.names[code] for code in present.tolist()],
            sexes=[self.sexes[i] for i in index],
            strata={name: [column[i] for i in index] for name, column in self.strata.items()},
        )

    def of_individuals(self, chosen: Mask) -> Labelled:
        """Only the rows of these individuals.

        Args:
            chosen: bool (G,).
        """
        return self.rows(np.asarray(chosen, dtype=bool)[self.individual])


def _renumbered(codes: Ints) -> Ints:
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
