"""What stands for every labelled individual at every moment, and how alike a query is to it.

The matcher's own rules, so that what is measured is what matching does: exemplars are chosen by
`choose_exemplars`, or the mean direction stands for an individual where the policy compares with profiles. It never
decides anything, and never looks at a picture of the encounter or burst that is being judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled, Mask
from deer_reid_pipeline.reid.exemplars import choose_exemplars, mean_direction
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import flank_signs, fused_similarity
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray, VectorSet, cosine_matrix

NOBODY = -1
"""No version: nothing stands for the individual yet."""

BLOCK_ROWS = 512
"""Query rows compared at a time."""


@dataclass(frozen=True)
class Units:
    """What is decided about, in the order of time: encounters, or pictures where the policy decides about pictures.

    An encounter in which people saw two individuals is two units.

    Attributes:
        rows: rows of the labelled detections of each unit; ascending.
        encounter, individual, burst: of each unit; (U,).
        sighting: units of one individual in one encounter share a code, ascending in time; (U,).
    """

    rows: tuple[Ints, ...]
    encounter: Ints
    individual: Ints
    burst: Ints
    sighting: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, order: Sequence[int] | Ints, size: int = BLOCK_ROWS) -> Iterator[list[int]]:
        """Units in this order, in portions of about `size` rows."""
        portion: list[int] = []
        count = 0
        for unit in np.asarray(order, dtype=np.int64).tolist():
            portion.append(unit)
            count += len(self.rows[unit])
            if count >= size:
                yield portion
                portion, count = [], 0
        if portion:
            yield portion


def units_of(labelled: Labelled, unit: str) -> Units:
    """The units that a policy decides about.

    Args:
        unit: encounter or picture, as in `MatchPolicy.unit`.
    """
    order = np.lexsort((np.arange(len(labelled)), labelled.individual, labelled.encounter))
    encounter, individual = labelled.encounter[order], labelled.individual[order]
    changes = np.r_[False, (np.diff(encounter) != 0) | (np.diff(individual) != 0)] if len(order) else np.zeros(0, bool)
    sighting = np.cumsum(changes)
    if unit == "picture":
        first = np.arange(len(order))
        rows = tuple(np.array([row]) for row in order.tolist())
    else:
        first = np.flatnonzero(np.r_[True, changes[1:]]) if len(order) else np.zeros(0, dtype=np.int64)
        rows = tuple(np.split(order, first[1:])) if len(order) else ()
    return Units(
        rows=rows,
        encounter=encounter[first],
        individual=individual[first],
        burst=labelled.burst[order][first],
        sighting=sighting[first].astype(np.int64),
    )


@dataclass(frozen=True)
class Standing:
    """Vectors that stand for individuals. A version is a set of rows of `vectors` that stood at some time.

    Attributes:
        vectors: branch -> VectorSet of everything that ever stands for an individual.
        flanks: +1, -1 or 0 of each row.
        versions: rows of each version.
        final: version with all that is known of each individual; int (G,), NOBODY for those without a detection.
        before: of each sighting (`Units.sighting`), the version of its own individual from earlier encounters that
            are no burst neighbours; NOBODY where there is none.
        after: of each sighting, the version of its individual once it is known too.
        only_burst: of each sighting, its own individual was seen before, but only in burst neighbours; bool.
        compartment: of each row of `vectors`; None where everything may be compared.
        galleries: compartment -> branch -> the rows of `vectors` as the model of that compartment gives them; which
            detections are exemplars was chosen by the model that judges their own individual.
    """

    vectors: Mapping[str, VectorSet]
    flanks: NDArray[np.int8]
    versions: tuple[Ints, ...]
    final: Ints
    before: Ints
    after: Ints
    only_burst: Mask
    compartment: Ints | None = None
    galleries: Mapping[int, Mapping[str, VectorSet]] = field(default_factory=dict)

    def rows_of(self, versions: Sequence[int]) -> Ints:
        """The rows of these versions, in their order."""
        if not len(versions):
            return np.zeros(0, dtype=np.int64)
        return np.concatenate([self.versions[version] for version in versions])


class _Bank:
    """Collects versions: rows of the labelled detections (exemplars), or one mean vector each (profile)."""

    def __init__(self, labelled: Labelled, gallery: str) -> None:
        self._labelled = labelled
        self._profile = gallery == "profile"
        self._branches = [b for b in BRANCHES if b in labelled.vectors]
        self._branches += sorted(set(labelled.vectors) - set(BRANCHES))
        self._versions: list[Ints] = []
        self._means: dict[str, list[FloatArray]] = {branch: [] for branch in self._branches}
        self._means_elsewhere: dict[int, dict[str, list[FloatArray]]] = {
            number: {branch: [] for branch in gallery} for number, gallery in labelled.galleries.items()
        }
        self._compartments: list[int] = []

    def add(self, rows: Ints) -> int:
        """The version in which these detections are what is known of an individual."""
        labelled = self._labelled
        if self._profile:
            _add_means(self._means, labelled.vectors, rows)
            for number, means in self._means_elsewhere.items():
                _add_means(means, labelled.galleries[number], rows)
            if labelled.compartment is not None:
                self._compartments.append(int(labelled.compartment[rows[0]]))
            self._versions.append(np.array([len(self._versions)]))
        elif len(rows) == 1:
            self._versions.append(rows)
        else:
            chosen = choose_exemplars(
                [labelled.keys[row] for row in rows.tolist()],
                np.concatenate([labelled.vectors[branch].vectors[rows] for branch in self._branches], axis=1),
                [labelled.viewpoints[row] for row in rows.tolist()],
                [True] * len(rows),
            )
            self._versions.append(rows[chosen])
        return len(self._versions) - 1

    def standing(self, final: Ints, before: Ints, after: Ints, only_burst: Mask) -> Standing:
        vectors: Mapping[str, VectorSet] = self._labelled.vectors
        flanks = flank_signs(self._labelled.viewpoints)
        compartment = self._labelled.compartment
        galleries = self._labelled.galleries
        if self._profile:
            vectors = _stacked(self._means, vectors)
            galleries = {number: _stacked(means, galleries[number]) for number, means in self._means_elsewhere.items()}
            flanks = np.zeros(len(self._versions), dtype=np.int8)
            compartment = np.array(self._compartments, dtype=np.int64)
        if not self._labelled.divided:
            compartment = None
        return Standing(
            vectors, flanks, tuple(self._versions), final, before, after, only_burst, compartment, galleries
        )


def _add_means(means: Mapping[str, list[FloatArray]], vectors: Mapping[str, VectorSet], rows: Ints) -> None:
    for branch, found in means.items():
        found.append(mean_direction(vectors[branch].vectors[rows]))


def _stacked(means: Mapping[str, list[FloatArray]], like: Mapping[str, VectorSet]) -> dict[str, VectorSet]:
    return {
        branch: VectorSet(item.recipe_id, branch, np.array(means[branch]).reshape(-1, item.vectors.shape[1]))
        for branch, item in like.items()
    }


def standing_over_time(labelled: Labelled, units: Units, gallery: str) -> Standing:
    """What stands for every individual before and after each of its sightings.

    Args:
        gallery: exemplars or profile, as in `MatchPolicy.gallery`.
    """
    bank = _Bank(labelled, gallery)
    sightings = int(units.sighting.max()) + 1 if len(units) else 0
    rows_of: list[list[Ints]] = [[] for _ in range(sightings)]
    owner = np.zeros(sightings, dtype=np.int64)
    for unit, sighting in enumerate(units.sighting.tolist()):
        rows_of[sighting].append(units.rows[unit])
        owner[sighting] = units.individual[unit]
    final = np.full(labelled.individuals, NOBODY, dtype=np.int64)
    before = np.full(sightings, NOBODY, dtype=np.int64)
    after = np.full(sightings, NOBODY, dtype=np.int64)
    only_burst = np.zeros(sightings, dtype=bool)
    known: dict[int, Ints] = {}
    for sighting, individual in enumerate(owner.tolist()):
        rows = np.concatenate(rows_of[sighting])
        earlier = known.get(individual, rows[:0])
        apart = earlier[~np.isin(labelled.burst[earlier], labelled.burst[rows])]
        only_burst[sighting] = len(earlier) > 0 and not len(apart)
        if len(apart):
            before[sighting] = final[individual] if len(apart) == len(earlier) else bank.add(apart)
        known[individual] = np.concatenate([earlier, rows])
        after[sighting] = final[individual] = bank.add(known[individual])
    return bank.standing(final, before, after, only_burst)


def standing_by_unit(labelled: Labelled, units: Units, gallery: str) -> Standing:
    """What would stand for an individual of which only one unit is known: version u is unit u's."""
    bank = _Bank(labelled, gallery)
    for rows in units.rows:
        bank.add(rows)
    nothing = np.zeros(0, dtype=np.int64)
    return bank.standing(nothing, nothing, nothing, np.zeros(0, dtype=bool))


class Comparison:
    """Similarity of labelled detections to what stands for individuals, each by the policy fitted without its own.

    Args:
        labelled: the queries.
        fitted: policies; every fold decides about the same unit against the same kind of gallery.
        everybody: compare across compartments too, each query with everything as the model of its own compartment gives
            it (`Labelled.galleries`).
    """

    def __init__(self, labelled: Labelled, fitted: FittedPolicy, *, everybody: bool = False) -> None:
        self._labelled = labelled
        self._fitted = fitted
        self._compartment = labelled.compartment if everybody else None
        self._flanks = flank_signs(labelled.viewpoints)
        self.fold_of_individual = fitted.folds_of(list(labelled.names))
        self._fold = self.fold_of_individual[labelled.individual]

    def grouped(self, individuals: Ints) -> Ints:
        """The order in which queries of these individuals stand together by policy and model; int64, as many."""
        return np.lexsort((self._labelled.compartments[individuals], self.fold_of_individual[individuals]))

    def of(self, rows: Ints, standing: Standing, columns: Ints) -> FloatArray:
        """Fused similarity; -inf where the two show opposite flanks or lie in compartments that are not compared.

        Args:
            rows: labelled detections; (r,).
            columns: rows of `standing.vectors`; (c,).

        Returns:
            float32 (r, c).

        Raises:
            RecipeMismatchError: queries and gallery come from different recipes.
            ValueError: a branch that a policy weighs is missing.
        """
        fused = np.empty((len(rows), len(columns)), dtype=np.float32)
        folds = self._fold[rows]
        own = np.zeros(len(rows), dtype=np.int64) if self._compartment is None else self._compartment[rows]
        gathered: dict[tuple[int, str], VectorSet] = {}
        for fold, number in sorted(set(zip(folds.tolist(), own.tolist(), strict=True))):
            policy = self._fitted.judging(fold)
            at = np.flatnonzero((folds == fold) & (own == number))
            gallery = standing.vectors if self._compartment is None else standing.galleries[number]
            cosines = {}
            for branch in policy.branches:
                if branch not in self._labelled.vectors:
                    raise ValueError(f"the policy weighs branch {branch}, which these detections have no vectors of")
                if (number, branch) not in gathered:
                    gathered[number, branch] = _taken(gallery[branch], columns)
                queries = _taken(self._labelled.vectors[branch], rows[at])
                cosines[branch] = cosine_matrix(queries, gathered[number, branch])
            fused[at] = fused_similarity(cosines, policy)
        fused[np.multiply.outer(self._flanks[rows], standing.flanks[columns]) < 0] = -np.inf
        if self._compartment is None and self._labelled.compartment is not None and standing.compartment is not None:
            fused[self._labelled.compartment[rows][:, None] != standing.compartment[columns]] = -np.inf
        return fused


def _taken(item: VectorSet, rows: Ints) -> VectorSet:
    return VectorSet(item.recipe_id, item.branch, item.vectors[rows])


def best_of_each(fused: FloatArray, sizes: Ints) -> FloatArray:
    """Highest similarity of each crop to each individual, whose columns stand side by side.

    Args:
        fused: (r, c), -inf where not comparable.
        sizes: columns of each individual, each at least 1, c in total; (g,).

    Returns:
        float32 (r, g).
    """
    if not len(sizes):
        return np.zeros((len(fused), 0), dtype=np.float32)
    return np.maximum.reduceat(fused, np.cumsum(sizes) - sizes, axis=1)


def mean_over_crops(best: FloatArray, starts: Ints) -> NDArray[np.float64]:
    """Mean over those crops of each unit that can be compared; NaN where none can.

    Args:
        best: (r, g), -inf where not comparable.
        starts: first crop of each unit, ascending from 0; (u,).

    Returns:
        float64 (u, g).
    """
    seen = np.isfinite(best)
    counts = np.add.reduceat(seen, starts, axis=0, dtype=np.int64)
    totals = np.add.reduceat(np.where(seen, best, np.float32(0)), starts, axis=0, dtype=np.float64)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
