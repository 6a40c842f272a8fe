"""The identities that a matcher makes by itself, compared with the true ones as two ways to group encounters.

Every encounter left uncertain is a group of its own. Pairs of decisions that are burst neighbours of one animal are
left out: they are neither evidence that the matcher recognises it nor that it does not. Pairs of two compartments are
left out too: they are never compared, and counting them as rightly kept apart would flatter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deer_reid_pipeline.reid.evaluation.decided import UNNAMED, Decided
from deer_reid_pipeline.reid.evaluation.estimates import Statistic
from deer_reid_pipeline.reid.evaluation.labelled import Ints

Floats = NDArray[np.float64]

CHUNK = 256
"""Bootstrap draws for which groups are counted at a time."""


@dataclass(frozen=True)
class Clustering:
    """How the identities made agree with the true ones.

    A pair is two decisions of one compartment. An individual that is drawn twice in a bootstrap is two animals: its
    own pairs count twice, and pairs between the two, of which nothing was observed, are taken to be put together as
    often as decisions of two different individuals are.

    Attributes:
        ari: adjusted Rand index (Hubert and Arabie 1985, J. Classification 2:193-218), 1 for the true grouping and
            around 0 for a random one.
        pair_precision: share of the pairs put together that are one animal.
        pair_recall: share of the pairs of one animal that are put together.
        made: individuals made; encounters left uncertain make none.
        true: individuals that there are.
    """

    ari: Statistic
    pair_precision: Statistic
    pair_recall: Statistic
    made: int
    true: int


@dataclass(frozen=True)
class _Pairs:
    """Pairs by what was said and what is true, for each draw; each (R,)."""

    together_same: Floats
    together: Floats
    same: Floats
    all: Floats


def cluster(decided: Decided) -> Clustering:
    """Compare the identities of `decide_in_order(..., truth=False)` with the true ones."""
    groups = groups_of(decided)
    count = _pair_counts(groups, decided)
    trials = len(np.unique(decided.individual))

    def statistic(of: Callable[[_Pairs], Floats], n: float, low: float = 0.0) -> Statistic:
        return Statistic(lambda weights: of(count(weights)), decided.individuals, int(n), trials, low)

    once = count(np.ones((1, decided.individuals)))
    return Clustering(
        ari=statistic(_adjusted_rand, len(decided), -0.5),
        pair_precision=statistic(lambda p: _share(p.together_same, p.together), once.together[0]),
        pair_recall=statistic(lambda p: _share(p.together_same, p.same), once.same[0]),
        made=len(np.unique(decided.said[decided.said != UNNAMED])),
        true=trials,
    )


def groups_of(decided: Decided) -> Ints:
    """Group of each decision, 0 upwards; int64 (D,)."""
    groups = decided.said.copy()
    alone = groups == UNNAMED
    groups[alone] = groups.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _pair_counts(groups: Ints, decided: Decided) -> Callable[[Floats], _Pairs]:
    if decided.compartment is None:
        return _pairs_among(groups, decided.individual, decided.burst, decided.individuals)
    parts: list[tuple[Ints, Callable[[Floats], _Pairs]]] = []
    for compartment in np.unique(decided.compartment).tolist():
        here = decided.compartment == compartment
        members, individual = np.unique(decided.individual[here], return_inverse=True)
        inside = np.unique(groups[here], return_inverse=True)[1]
        parts.append((members, _pairs_among(inside, individual, decided.burst[here], len(members))))

    def count(weights: Floats) -> _Pairs:
        found = [of(weights[:, members]) for members, of in parts]
        return _Pairs(
            together_same=np.sum([pairs.together_same for pairs in found], axis=0),
            together=np.sum([pairs.together for pairs in found], axis=0),
            same=np.sum([pairs.same for pairs in found], axis=0),
            all=np.sum([pairs.all for pairs in found], axis=0),
        )

    return count


def _pairs_among(groups: Ints, individual: Ints, burst: Ints, individuals: int) -> Callable[[Floats], _Pairs]:
    """Pairs of these decisions, of `individuals` individuals, by how often each of those is drawn."""
    shape = (int(groups.max(initial=-1)) + 1, individuals)
    table = sparse.csr_matrix((np.ones(len(groups)), (groups, individual)), shape=shape)
    sizes = np.bincount(individual, minlength=individuals).astype(np.float64)
    burst = np.unique(burst * individuals + individual, return_inverse=True)[1]
    junk_same = _pairs_of(np.unique(burst, return_index=True, return_counts=True), individual, individuals)
    cell = np.unique(burst * shape[0] + groups, return_index=True, return_counts=True)
    own_same = _pairs(sizes) - junk_same
    own_together = np.asarray(table.multiply(table - table.sign()).sum(axis=0)).ravel() / 2
    own_together = own_together - _pairs_of(cell, individual, individuals)
    squares = table.multiply(table).T.tocsr()  # (G, groups)

    def count(weights: Floats) -> _Pairs:
        crossing = np.empty(len(weights))
        for start in range(0, len(weights), CHUNK):
            chunk = weights[start : start + CHUNK]
            totals = (table @ chunk.T).T
            crossing[start : start + CHUNK] = ((totals**2).sum(axis=1) - (chunk**2 @ squares).sum(axis=1)) / 2
        drawn = weights.sum(axis=1)
        between = ((weights @ sizes) ** 2 - weights**2 @ sizes**2) / 2
        # Pairs of two drawn animals of which the observed ones are a part: those that are not copies of each other.
        observed = drawn**2 - (weights**2).sum(axis=1)
        scale = np.divide(drawn * (drawn - 1), observed, out=np.ones(len(weights)), where=observed > 0)
        together_same, same = weights @ own_together, weights @ own_same
        return _Pairs(together_same, together_same + crossing * scale, same, same + between * scale)

    return count


def _pairs(count: Floats) -> Floats:
    return count * (count - 1) / 2


def _pairs_of(found: tuple[Ints, Ints, Ints], individual: Ints, individuals: int) -> Floats:
    """Pairs within each class of (values, first index, counts), summed by the individual of the class."""
    _, first, counts = found
    pairs = _pairs(counts.astype(np.float64))
    return np.bincount(individual[first], pairs, individuals).astype(np.float64)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _adjusted_rand(pairs: _Pairs) -> Floats:
    expected = _share(pairs.together * pairs.same, pairs.all)
    highest = (pairs.together + pairs.same) / 2
    differs = np.abs(highest - expected) > 1e-12 * np.maximum(highest, 1)
    index = np.divide(pairs.together_same - expected, highest - expected, out=np.ones(len(highest)), where=differs)
    # Without a pair to be judged nothing was measured; without one that could be wrong both groupings are the same.
    return np.where(pairs.all > 0, index, np.nan)
