"""Mean similarity of known pairs, true and false: what the owner asked to see.

Similarity here is a cosine: v1 and v2 in one branch, v3 the weighted sum of two. Where a policy fuses probabilities,
its weights are still what the owner calls v3. None of this decides anything: a constant added to every vector moves
all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.reid.evaluation.blocks import BLOCK_ROWS, fused_blocks
from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Floats, Statistic, estimate
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy, flank_signs
from deer_reid_pipeline.reid.similarity import FloatArray, VectorSet, cosine_matrix, fuse


@dataclass(frozen=True)
class TruePairs:
    """Similarity of pairs of one individual: from different bursts, not of opposite flanks, in both directions.

    Attributes:
        sums, counts: of the similarities of each individual's pairs; (G,).
    """

    sums: Floats
    counts: Floats

    @property
    def pairs(self) -> int:
        """Unordered pairs of detections."""
        return int(self.counts.sum()) // 2

    @property
    def individuals(self) -> int:
        """Individuals that have a pair."""
        return int(np.count_nonzero(self.counts))

    @property
    def mean(self) -> float:
        """-1 to 1; NaN without a pair."""
        return float(self.sums.sum() / self.counts.sum()) if self.counts.any() else math.nan


def true_pairs(labelled: Labelled, fitted: FittedPolicy, branch: str | None, least: int) -> TruePairs:
    """Similarity of the true pairs of individuals with `least` detections or more.

    Args:
        branch: cosine in this branch; None is the weighted sum, with the weights fitted without the individual.
    """
    fold = fitted.folds_of(list(labelled.names))
    flanks = flank_signs(labelled.viewpoints)
    sums, counts = np.zeros(labelled.individuals), np.zeros(labelled.individuals)
    for rows in _members(labelled):
        if len(rows) < least:
            continue
        code = int(labelled.individual[rows[0]])
        weights = {branch: 1.0} if branch is not None else fitted.judging(int(fold[code])).weights
        cosines = {name: _among(labelled.vectors[name], rows) for name, weight in weights.items() if weight}
        similarity = fuse(cosines, weights)
        apart = labelled.burst[rows][:, None] != labelled.burst[rows]
        true = apart & (np.multiply.outer(flanks[rows], flanks[rows]) >= 0)
        sums[code], counts[code] = float(similarity[true].sum(dtype=np.float64)), np.count_nonzero(true)
    return TruePairs(sums, counts)


def change(before: TruePairs, after: TruePairs) -> Estimate:
    """Change of the mean similarity in percent of what it was, with a paired interval over individuals.

    NaN where the mean before is not above zero, which leaves nothing to take a percentage of.

    Raises:
        ValueError: the two were measured on different individuals.
    """
    if len(before.counts) != len(after.counts):
        raise ValueError(f"{len(before.counts)} and {len(after.counts)} individuals cannot be compared in pairs")

    def of(weights: Floats) -> Floats:
        old = _ratio(weights @ before.sums, weights @ before.counts)
        new = _ratio(weights @ after.sums, weights @ after.counts)
        return 100 * (_ratio(new, np.where(old > 0, old, 0.0)) - 1)

    return estimate(Statistic(of, len(before.counts), before.pairs, before.individuals, -math.inf, math.inf))


@dataclass(frozen=True)
class FalsePairs:
    """Similarity of pairs of different individuals of a compartment, not of opposite flanks, in both directions.

    Attributes:
        above: pairs above the threshold, by query's and other's individual; (G, G).
        total: all of them; (G, G).
        same_sex_highest: highest similarity of two individuals of one known sex; NaN where there are none.
        same_sex_mean: their mean similarity.
        same_sex_reaching: share of them at or above the second threshold.
        same_sex_pairs: unordered pairs of them.
    """

    above: Floats
    total: Floats
    same_sex_highest: float
    same_sex_mean: float
    same_sex_reaching: float
    same_sex_pairs: int

    def share_above(self) -> Estimate:
        """Share of the pairs that are above the threshold, with an interval over individuals."""

        def of(weights: Floats) -> Floats:
            return _ratio(_between(weights, self.above), _between(weights, self.total))

        took_part = int(np.count_nonzero(self.total.sum(axis=1)))
        return estimate(Statistic(of, len(self.total), int(self.total.sum()) // 2, took_part))


def false_pairs(labelled: Labelled, fitted: FittedPolicy, above: float, same_sex_below: float) -> FalsePairs:
    """Compare every detection with those of other individuals by the weighted sum, a block of rows at a time.

    Args:
        above: threshold of `FalsePairs.above`; a pair counts if it is more similar.
        same_sex_below: threshold of `same_sex_reaching`.
    """
    members = _members(labelled)
    order = np.concatenate(members) if members else np.zeros(0, dtype=np.int64)
    codes = [int(labelled.individual[rows[0]]) for rows in members]
    starts = np.cumsum([0, *(len(rows) for rows in members)])
    flanks = flank_signs(labelled.viewpoints)[order]
    compartments = labelled.compartment[order] if labelled.compartment is not None else None
    sexes = np.array([{"female": 1, "male": 2}.get(sex, 0) for sex in labelled.sexes], dtype=np.int8)[order]
    block = fused_blocks(labelled, _weighted(fitted))
    individuals = labelled.individuals
    exceeding, total = np.zeros((individuals, individuals)), np.zeros((individuals, individuals))
    highest, mean, reaching, pairs = -math.inf, 0.0, 0, 0
    for code, rows, start in zip(codes, members, starts.tolist(), strict=False):
        for at in range(0, len(rows), BLOCK_ROWS):
            part = rows[at : at + BLOCK_ROWS]
            here = slice(start + at, start + at + len(part))
            similarity = block(part)[:, order]
            compared = np.multiply.outer(flanks[here], flanks) >= 0
            compared[:, start : start + len(rows)] = False
            if compartments is not None:
                compared &= compartments[here][:, None] == compartments
            total[code, codes] += np.add.reduceat(compared.sum(axis=0), starts[:-1])
            exceeding[code, codes] += np.add.reduceat(((similarity > above) & compared).sum(axis=0), starts[:-1])
            if not sexes[here].any():
                continue
            values = similarity[compared & (sexes[here][:, None] == sexes) & (sexes[here] > 0)[:, None]]
            if len(values):
                highest = max(highest, float(values.max()))
                mean += float(values.sum(dtype=np.float64))
                reaching += int(np.count_nonzero(values >= same_sex_below))
                pairs += len(values)
    if not pairs:
        return FalsePairs(exceeding, total, math.nan, math.nan, math.nan, 0)
    return FalsePairs(exceeding, total, highest, mean / pairs, reaching / pairs, pairs // 2)


def _weighted(fitted: FittedPolicy) -> FittedPolicy:
    """The same policies with the weighted sum of cosines, which is what the owner's thresholds are about."""

    def plain(policy: MatchPolicy) -> MatchPolicy:
        return policy.model_copy(update={"fusion": "weighted_sum"})

    return fitted.model_copy(
        update={"policy": plain(fitted.policy), "without": tuple(plain(policy) for policy in fitted.without)}
    )


def _members(labelled: Labelled) -> Sequence[Ints]:
    """Rows of each individual that has any, by code."""
    order = np.argsort(labelled.individual, kind="stable")
    if not len(order):
        return []
    return np.split(order, np.flatnonzero(np.diff(labelled.individual[order])) + 1)


def _among(vectors: VectorSet, rows: Ints) -> FloatArray:
    part = VectorSet(vectors.recipe_id, vectors.branch, vectors.vectors[rows])
    return cosine_matrix(part, part)


def _between(weights: Floats, pairs: Floats) -> Floats:
    """Weighted pairs: each counts with the product of its two individuals' weights; (R,)."""
    total: Floats = ((weights @ pairs) * weights).sum(axis=1)
    return total


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
