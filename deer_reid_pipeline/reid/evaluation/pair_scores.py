"""The scores of all pairs of detections in bounded memory, such that individuals can be weighted afterwards.

Genuine pairs are kept as one histogram an individual, impostor pairs as one histogram for each two individuals, so
that a bootstrap over individuals weighs an impostor pair by both of its animals. Those histograms are coarse; two
fine histograms of all pairs give the shape inside each coarse bin, and with all weights at one every figure is that
of the fine ones.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.blocks import Block, mates, never_compared, row_blocks
from deer_reid_pipeline.reid.evaluation.estimates import Floats
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.similarity import FloatArray

FINE = 65_536
"""Bins between the lowest and the highest score."""

MOST_BINS, FEWEST_BINS = 256, 16
"""Coarse bins: as many as the memory allows, between these."""

MEMORY = 200_000_000
"""Bytes that the impostor histograms may take."""

SAMPLED = 512
"""Query rows from which the coarse bins are laid out where there are more than four times as many; the
range of the fine ones is that of all pairs."""

Counts = NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """Fine bins of equal width. 0 stands for a pair that does not count; the others run from 1 to `FINE`."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Of one bin, in units of the score."""
        return (self.high - self.low) / FINE

    def of(self, scores: FloatArray) -> NDArray[np.int32]:
        """Bin of each score, 1 to `FINE`; what lies outside falls into the bin at that end."""
        places = scores - np.float32(self.low)
        places *= np.float32(FINE / (self.high - self.low))
        np.clip(places, 0, FINE - 1, out=places)
        bins = places.astype(np.int32)
        bins += 1
        return bins


@dataclass(frozen=True)
class PairScores:
    """Histograms of genuine and impostor scores.

    Attributes:
        scale: the fine bins.
        starts: first fine bin (counted from 0) of each coarse bin; (B,).
        genuine_fine, impostor_fine: directed pairs in each fine bin; (FINE,).
        genuine: directed pairs of each individual; (G, B).
        impostor: directed pairs of each two individuals; (G, C, B). C is G, or fewer where single individuals would
            take too much memory: then the second animal's weight is the mean of its group's.
        group: column of each individual in `impostor`; (G,).
        rows: detections of each individual; (G,).
        best_impostor: highest fine bin of each two individuals as counted by `Scale`, 0 where none; (G, G).
        best_mates: (row, its best mate, score) of each query that has a mate.
    """

    scale: Scale
    starts: Ints
    genuine_fine: Ints
    impostor_fine: Ints
    genuine: Floats
    impostor: Counts
    group: Ints
    rows: Ints
    best_impostor: NDArray[np.int32]
    best_mates: tuple[Ints, Ints, Floats]
    _kept: OrderedDict[bytes, tuple[Floats, Floats]] = field(default_factory=OrderedDict, repr=False, compare=False)

    def masses(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weighted pairs in each coarse bin: genuine and impostor, each (R, B).

        A genuine pair counts with its individual's weight, an impostor pair with the product of the two.

        Args:
            weights: float (R, G).
        """
        weights = np.ascontiguousarray(weights, dtype=np.float64)
        key = hashlib.blake2b(weights.tobytes() + repr(weights.shape).encode(), digest_size=16).digest()
        if key not in self._kept:
            self._kept[key] = (weights @ self.genuine, self._impostors(weights))
            while len(self._kept) > 3:  # ones, draws and left-out individuals serve every metric of one evaluation
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _impostors(self, weights: Floats) -> Floats:
        individuals, columns, bins = self.impostor.shape
        flat = self.impostor.reshape(individuals, columns * bins)
        second = weights
        if columns != individuals:
            share = np.zeros((individuals, columns))
            share[np.arange(individuals), self.group] = self.rows
            second = weights @ (share / np.maximum(share.sum(axis=0), 1))
        total = np.empty((len(weights), bins))
        at_once = max(1, 16_000_000 // max(1, columns * bins))
        for start in range(0, len(weights), at_once):
            part = slice(start, start + at_once)
            by_second = weights[part].astype(np.float32) @ flat
            by_second = by_second.reshape(-1, columns, bins)
            total[part] = np.matmul(second[part, None, :].astype(np.float32), by_second)[:, 0]
        return total


def collect(labelled: Labelled, block: Block, *, flank: str, leaky: bool) -> PairScores:
    """Score every pair that the protocol compares, a block of rows at a time.

    Args:
        block: similarity of query rows to all rows.
        flank: "same" or "cross".
        leaky: whether pictures of one burst count as true pairs.
    """
    individual = labelled.individual
    individuals, n = labelled.individuals, len(labelled)
    order = np.argsort(individual, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(individual, minlength=individuals))[:-1])
    scale, starts, group = _layout(labelled, block, order, members, flank, leaky)
    columns, bins = int(group.max(initial=0)) + 1, len(starts)
    coarse = np.searchsorted(starts, np.arange(FINE), side="right").astype(np.int32)
    coarse = np.r_[np.int32(0), coarse]  # fine bin 0 does not count, nor does coarse bin 0
    place = (group[individual] * (bins + 1)).astype(np.int32)
    left_out = never_compared(labelled, flank)

    genuine = np.zeros((individuals, bins))
    impostor = np.zeros((individuals, columns, bins), dtype=np.float32)
    genuine_fine, impostor_fine = np.zeros(FINE + 1, dtype=np.int64), np.zeros(FINE + 1, dtype=np.int64)
    counts = np.bincount(individual, minlength=individuals)
    present = np.flatnonzero(counts)
    begins = (np.cumsum(counts) - counts)[present]
    best = np.zeros((individuals, individuals), dtype=np.int32)
    queries: list[tuple[Ints, Ints, Floats]] = []
    for chunk in row_blocks(n):
        rows = order[chunk]
        scores = block(rows)
        fine = scale.of(scores)
        barred = left_out(rows)
        if barred is not None:
            fine[barred] = 0
        true_bins: list[NDArray[np.int32]] = []
        for part in _runs(individual[rows]):
            who = int(individual[rows[part.start]])
            own = members[who]
            true = fine[part][:, own]
            true[~mates(labelled, rows[part], own, leaky=leaky)] = 0
            true_bins.append(true.ravel())
            genuine[who] += np.bincount(coarse[true.ravel()], minlength=bins + 1)[1:]
            queries.append(_best_mates(rows[part], own, scores[part][:, own], true > 0))
            fine[part.start : part.stop, own] = 0
            others = fine[part]
            found = np.bincount((coarse[others] + place).ravel(), minlength=columns * (bins + 1))
            impostor[who] += found.reshape(columns, bins + 1)[:, 1:].astype(np.float32)
            highest = np.maximum.reduceat(others.max(axis=0)[order], begins)
            best[who, present] = np.maximum(best[who, present], highest)
        genuine_fine += np.bincount(np.concatenate(true_bins), minlength=FINE + 1)
        impostor_fine += np.bincount(fine.ravel(), minlength=FINE + 1)
    return PairScores(
        scale=scale,
        starts=starts,
        genuine_fine=genuine_fine[1:],
        impostor_fine=impostor_fine[1:],
        genuine=genuine,
        impostor=impostor,
        group=group,
        rows=counts,
        best_impostor=best,
        best_mates=_joined(queries),
    )


def _layout(
    labelled: Labelled, block: Block, order: Ints, members: list[Ints], flank: str, leaky: bool
) -> tuple[Scale, Ints, Ints]:
    """Fine bins over the range of all pairs, coarse ones laid out by some query rows, and the groups of individuals."""
    n, individuals = len(labelled), labelled.individuals
    sample = order if n <= 4 * SAMPLED else order[np.linspace(0, n - 1, SAMPLED).astype(np.int64)]
    left_out = never_compared(labelled, flank)
    genuine, impostor = [np.zeros(0, dtype=np.float32)], [np.zeros(0, dtype=np.float32)]
    for chunk in row_blocks(len(sample)):
        rows = sample[chunk]
        scores = block(rows)
        barred = left_out(rows)
        compared = np.ones(scores.shape, dtype=bool) if barred is None else ~barred
        for position, row in enumerate(rows.tolist()):
            own = members[labelled.individual[row]]
            true = compared[position, own] & mates(labelled, np.array([row]), own, leaky=leaky)[0]
            genuine.append(scores[position, own[true]])
            compared[position, own] = False
        impostor.append(scores[compared])
    true_scores, false_scores = np.concatenate(genuine), np.concatenate(impostor)
    low, high = _range(labelled, block, order, members, flank, leaky)
    scale = Scale(low, max(high, low + 1e-6))
    columns = min(individuals, max(1, MEMORY // (4 * FEWEST_BINS * max(1, individuals))))
    bins = int(np.clip(MEMORY // (4 * max(1, individuals * columns)), FEWEST_BINS, MOST_BINS))
    starts = edges(_fine(true_scores, scale), _fine(false_scores, scale), bins)
    place = np.arange(individuals, dtype=np.int64)
    if labelled.divided:  # a group's mean weight stands for its members, which should be of one compartment
        place[np.argsort(labelled.compartments, kind="stable")] = np.arange(individuals)
    return scale, starts, place * columns // max(1, individuals)


def _range(
    labelled: Labelled, block: Block, order: Ints, members: list[Ints], flank: str, leaky: bool
) -> tuple[float, float]:
    """Lowest and highest score of the pairs that are compared; -1 and 1 where there are none."""
    left_out = never_compared(labelled, flank)
    low, high = np.inf, -np.inf
    for chunk in row_blocks(len(order)):
        rows = order[chunk]
        scores = block(rows)
        barred = left_out(rows)
        if barred is not None:
            scores[barred] = np.nan
        for part in _runs(labelled.individual[rows]):
            own = members[int(labelled.individual[rows[part.start]])]
            mine = scores[part][:, own]
            mine[~mates(labelled, rows[part], own, leaky=leaky)] = np.nan
            scores[part.start : part.stop, own] = mine
        low = min(low, float(np.fmin.reduce(scores, axis=None, initial=np.inf)))
        high = max(high, float(np.fmax.reduce(scores, axis=None, initial=-np.inf)))
    return (low, high) if low <= high else (-1.0, 1.0)


def _fine(scores: FloatArray, scale: Scale) -> Ints:
    return np.bincount(scale.of(scores), minlength=FINE + 1)[1:]


def edges(genuine_fine: Ints, impostor_fine: Ints, bins: int) -> Ints:
    """First fine bins of at most `bins` coarse ones, ascending from 0: close where the error rates change.

    A third follows the quantiles of the genuine scores, a third those of the impostors, and a third the impostors'
    upper tail down to one in a million, where thresholds are chosen.
    """
    third = max(1, (bins - 1) // 3)
    tail = np.logspace(-6, -0.5, third)
    places = [np.zeros(1, dtype=np.int64)]
    for counts, quantiles in (
        (genuine_fine, np.linspace(0, 1, third, endpoint=False)),
        (impostor_fine, np.r_[np.linspace(0, 1, third, endpoint=False), 1 - tail]),
    ):
        reached = np.cumsum(counts)
        if len(reached) and reached[-1]:
            places.append(np.searchsorted(reached, quantiles * reached[-1], side="right"))
    starts, times = np.unique(np.concatenate(places), return_counts=True)
    # A score that many pairs share gets a bin of its own.
    starts = np.union1d(starts, starts[times > 1] + 1)
    return starts[starts < FINE].astype(np.int64)


def _runs(codes: Ints) -> list[slice]:
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    return [slice(int(a), int(b)) for a, b in zip(starts, np.r_[starts[1:], len(codes)], strict=True)]


def _best_mates(rows: Ints, own: Ints, scores: FloatArray, true: NDArray[np.bool_]) -> tuple[Ints, Ints, Floats]:
    has = true.any(axis=1)
    masked = np.where(true, scores, -np.inf)[has]
    first = masked.argmax(axis=1) if len(masked) else np.zeros(0, dtype=np.int64)
    return rows[has], own[first], masked[np.arange(len(masked)), first].astype(np.float64)


def _joined(parts: list[tuple[Ints, Ints, Floats]]) -> tuple[Ints, Ints, Floats]:
    if not parts:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    rows, others, scores = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(others), np.concatenate(scores)
