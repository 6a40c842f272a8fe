"""A thinned set of labelled detections whose cosines are computed once and fused many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.calibration import sighting_weights
from deer_reid_pipeline.reid.evaluation.blocks import Block
from deer_reid_pipeline.reid.evaluation.estimates import Floats
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled, Mask
from deer_reid_pipeline.reid.evaluation.retrieval import retrieve
from deer_reid_pipeline.reid.matching import MatchPolicy, flank_signs, fused_similarity
from deer_reid_pipeline.reid.similarity import FloatArray, cosine_matrix

MOST_ROWS = 2500
"""Detections among which weights and fusions are compared: more of the same animals add little to an interval over
individuals."""

MOST_IMPOSTORS = 20_000
"""False pairs that a calibrated fusion is fitted on; a fit has a handful of parameters."""


@dataclass(frozen=True)
class Pairs:
    """Unordered pairs of detections that the protocol compares.

    Attributes:
        similarities: branch -> cosines; float32 (p,).
        same: whether the pair shows one individual; bool (p,).
        first, second: individuals; int64 (p,).
    weights: how often each counts; float64 (p,).
    """

    similarities: Mapping[str, FloatArray]
    same: Mask
    first: Ints
    second: Ints
    weights: Floats

    def among(self, individuals: Mask) -> Pairs:
        """Only the pairs of these individuals; bool (G,)."""
        keep = individuals[self.first] & individuals[self.second]
        similarities = {branch: values[keep] for branch, values in self.similarities.items()}
        return Pairs(similarities, self.same[keep], self.first[keep], self.second[keep], self.weights[keep])


@dataclass(frozen=True)
class Sample:
    """Labelled detections and the branches that are to be fused."""

    labelled: Labelled
    branches: tuple[str, ...]

    @cached_property
    def cosines(self) -> Mapping[str, FloatArray]:
        """Branch -> cosine of every row with every row; float32 (n, n)."""
        vectors = self.labelled.vectors
        return {branch: cosine_matrix(vectors[branch], vectors[branch]) for branch in self.branches}

    def block(self, policies: Sequence[MatchPolicy], of_row: Ints) -> Block:
        """Fused similarity, each query row by its own policy.

        Args:
            policies: may be one.
            of_row: which policy a row is scored with; int (n,).
        """

        def block(rows: Ints) -> FloatArray:
            fused = np.empty((len(rows), len(self.labelled)), dtype=np.float32)
            for number in np.unique(of_row[rows]).tolist():
                at = np.flatnonzero(of_row[rows] == number)
                part = {branch: matrix[rows[at]] for branch, matrix in self.cosines.items()}
                fused[at] = fused_similarity(part, policies[number])
            return fused

        return block

    def ranking(self, policies: Sequence[MatchPolicy], of_individual: Ints | None = None) -> Floats:
        """Mean average precision of each individual's queries, NaN for those without one; (G,).

        Args:
            policies: may be one.
            of_individual: which policy an individual is searched with; int (G,).
        """
        chosen = np.zeros(self.labelled.individuals, dtype=np.int64) if of_individual is None else of_individual
        found = retrieve(self.labelled, self.block(policies, chosen[self.labelled.individual]))
        counts = np.bincount(found.individual, minlength=self.labelled.individuals)
        totals = np.bincount(found.individual, weights=found.average_precision, minlength=self.labelled.individuals)
        return np.divide(totals, counts, out=np.full(len(counts), np.nan), where=counts > 0)

    def pairs(self) -> Pairs:
        """All true pairs of one flank and different bursts, and as many false ones as a fit needs.

        Of more false pairs than `MOST_IMPOSTORS` that many are drawn, always the same ones, and weigh more instead.
        """
        individual, burst = self.labelled.individual, self.labelled.burst
        flanks = flank_signs(self.labelled.viewpoints)
        one, other = np.triu_indices(len(self.labelled), 1)
        same = individual[one] == individual[other]
        compared = (flanks[one] * flanks[other] >= 0) & ~(same & (burst[one] == burst[other]))
        if self.labelled.compartment is not None:
            compared &= self.labelled.compartment[one] == self.labelled.compartment[other]
        true, false = np.flatnonzero(compared & same), np.flatnonzero(compared & ~same)
        kept = false
        if len(false) > MOST_IMPOSTORS:
            kept = np.sort(np.random.default_rng(0).choice(false, MOST_IMPOSTORS, replace=False))
        chosen = np.r_[true, kept]
        one, other, same = one[chosen], other[chosen], same[chosen]
        weights = sighting_weights(same, individual[one])
        weights[~same] *= len(false) / max(len(kept), 1)
        similarities = {branch: matrix[one, other] for branch, matrix in self.cosines.items()}
        return Pairs(similarities, same, individual[one], individual[other], weights)


def thinned(labelled: Labelled, most: int = MOST_ROWS) -> Labelled:
    """At most about `most` detections: the same limit for every individual, spread evenly over its encounters."""
    if len(labelled) <= most:
        return labelled
    counts = np.sort(np.bincount(labelled.individual, minlength=labelled.individuals))
    limits = np.arange(1, counts[-1] + 1)
    kept_with = np.minimum(counts[:, None], limits).sum(axis=0)
    limit = max(2, int(limits[kept_with <= most].max(initial=1)))
    keep: NDArray[np.bool_] = np.zeros(len(labelled), dtype=bool)
    order = np.lexsort((np.arange(len(labelled)), labelled.encounter, labelled.individual))
    starts = np.flatnonzero(np.r_[True, np.diff(labelled.individual[order]) != 0])
    for own in np.split(order, starts[1:]):
        places = np.linspace(0, len(own) - 1, min(limit, len(own))).round().astype(np.int64)
        keep[own[places]] = True
    return labelled.rows(keep)
