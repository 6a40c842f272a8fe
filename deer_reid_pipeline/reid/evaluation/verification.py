"""How well one score tells whether two pictures show the same animal.

Error rates are those of ISO/IEC 19795-1:2021: FMR is the share of impostor pairs that score at or above a threshold,
FNMR that of genuine pairs below it. Scores are resolved to 1/65,536 of their range, the resolution of every threshold
and mean here; rates and areas with all individuals counting once are exact up to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deer_reid_pipeline.reid.evaluation.blocks import Block
from deer_reid_pipeline.reid.evaluation.estimates import Floats, Statistic
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.evaluation.pair_scores import FINE, PairScores, collect, edges
from deer_reid_pipeline.reid.evaluation.worst_pairs import Pair, worst_false, worst_missed


class _Shape:
    """How the pairs of one kind lie inside the coarse bins, as the fine histogram has it."""

    def __init__(self, fine: Ints, starts: Ints) -> None:
        self.fine = fine.astype(np.float64)
        self.starts = starts
        tail = np.r_[np.cumsum(self.fine[::-1])[::-1], 0.0]
        self.bin_of = np.searchsorted(starts, np.arange(FINE), side="right") - 1
        ends = np.r_[starts[1:], FINE]
        inside = tail[:-1] - tail[ends][self.bin_of]
        self.mass = np.add.reduceat(self.fine, starts)
        held = self.mass[self.bin_of]
        self.above = np.divide(inside, held, out=np.zeros(FINE), where=held > 0)
        """Share of a coarse bin's pairs that lie in this fine bin or above it."""
        centres = (np.arange(FINE) + 0.5) / FINE
        self.mean, self.square = self._moment(centres), self._moment(centres**2)
        """Of the scores in each coarse bin, as shares of the range."""

    def _moment(self, values: Floats) -> Floats:
        total = np.add.reduceat(self.fine * values, self.starts)
        return np.divide(total, self.mass, out=np.zeros(len(total)), where=self.mass > 0)

    def survival(self, masses: Floats, place: Ints) -> Floats:
        """Share of pairs at or above a fine bin, 0 to FINE, one a draw; (R,)."""
        total = masses.sum(axis=1)
        cumulated = np.cumsum(masses[:, ::-1], axis=1)[:, ::-1]
        inside = np.minimum(place, FINE - 1)
        coarse, draws = self.bin_of[inside], np.arange(len(masses))
        mass = masses[draws, coarse]
        kept = cumulated[draws, coarse] - mass + mass * self.above[inside]
        kept = np.where(place >= FINE, 0.0, kept)
        return np.divide(kept, total, out=np.full(len(total), np.nan), where=total > 0)


@dataclass(frozen=True)
class Verification:
    """Genuine and impostor scores of one recipe and policy; every metric weighs individuals.

    Attributes:
        pairs: the scores.
        genuine_pairs, impostor_pairs: unordered pairs. Each is scored in both directions, which may differ where the
            two individuals are judged with different policies.
        genuine_individuals, impostor_individuals: individuals that have such a pair.
        worst_false: highest-scoring pairs of different individuals, one for each two individuals.
        worst_missed: queries whose best mate scores lowest, with that mate.
        In both no individual stands more than twice.
    """

    pairs: PairScores
    genuine_pairs: int
    impostor_pairs: int
    genuine_individuals: int
    impostor_individuals: int
    worst_false: tuple[Pair, ...]
    worst_missed: tuple[Pair, ...]

    @property
    def roc_auc(self) -> Statistic:
        """Area under the ROC: probability that a genuine pair scores above an impostor one, ties counting half.

        Mann-Whitney form of Hanley and McNeil (1982, Radiology 143:29-36). 0.5 is chance.
        """

        def of(genuine: Floats, impostor: Floats) -> Floats:
            below = np.cumsum(impostor, axis=1) - impostor
            won = (genuine * (below + self._won_inside * impostor)).sum(axis=1)
            return _share(won, genuine.sum(axis=1) * impostor.sum(axis=1))

        return self._statistic(of, True, True)

    @property
    def d_prime(self) -> Statistic:
        """Distance of the two means in units of their root mean variance (Green and Swets 1966); no bounds.

        NaN where neither kind varies.
        """

        def of(genuine: Floats, impostor: Floats) -> Floats:
            mean, variance = _moments(genuine, self._genuine)
            other, spread = _moments(impostor, self._impostor)
            scale = np.sqrt((variance + spread) / 2)
            return np.divide(mean - other, scale, out=np.full(len(scale), np.nan), where=scale > 1e-7)

        return self._statistic(of, True, True, -np.inf, np.inf)

    @property
    def eer(self) -> Statistic:
        """Equal error rate: the rate at which FMR and FNMR are equal, interpolated where they jump over each other."""

        def of(genuine: Floats, impostor: Floats) -> Floats:
            def excess(place: Ints) -> Floats:
                accepted = self._genuine.survival(genuine, place)
                return self._impostor.survival(impostor, place) - (1 - accepted)

            place = _first_not_above(excess, np.zeros(len(genuine)))
            before = np.maximum(place - 1, 0)
            gap, gap_before = excess(place), excess(before)
            part = np.divide(gap_before, gap_before - gap, out=np.ones(len(gap)), where=gap_before > gap)
            fmr, fmr_before = self._impostor.survival(impostor, place), self._impostor.survival(impostor, before)
            return fmr_before + part * (fmr - fmr_before)

        return self._statistic(of, True, True)

    @property
    def mean_genuine(self) -> Statistic:
        """Mean score of genuine pairs, -1 to 1."""
        return self._statistic(lambda genuine, _: self._mean(genuine, self._genuine), True, False, -1.0, 1.0)

    @property
    def mean_impostor(self) -> Statistic:
        """Mean score of impostor pairs, -1 to 1."""
        return self._statistic(lambda _, impostor: self._mean(impostor, self._impostor), False, True, -1.0, 1.0)

    def fmr_at(self, threshold: float) -> Statistic:
        """False match rate: share of impostor pairs that score at or above the threshold (ISO/IEC 19795-1)."""
        place = self._place(threshold)
        return self._statistic(
            lambda _, impostor: self._impostor.survival(impostor, np.full(len(impostor), place)), False, True
        )

    def fnmr_at(self, threshold: float) -> Statistic:
        """False non-match rate: share of genuine pairs that score below the threshold (ISO/IEC 19795-1)."""
        place = self._place(threshold)
        return self._statistic(
            lambda genuine, _: 1 - self._genuine.survival(genuine, np.full(len(genuine), place)), True, False
        )

    def curve(self, points: int = 512) -> tuple[Floats, Floats, Floats]:
        """Thresholds, ascending, with FMR and FNMR at each; about `points` of them, close where the rates change.

        The rates are NaN where there are no pairs of that kind. `fmr_at` and `fnmr_at` of these thresholds are these
        rates.
        """
        genuine, impostor = self.pairs.genuine_fine, self.pairs.impostor_fine
        places = np.r_[edges(genuine, impostor, points), FINE]
        fmr, fnmr = _tail(impostor)[places], 1 - _tail(genuine)[places]
        # A little inside its bin, so that rounding does not put a threshold into the bin below.
        inside = np.where(places > 0, places + 0.05, 0.0)
        return self.pairs.scale.low + inside * self.pairs.scale.width, fmr, fnmr

    def histograms(
        self, bins: int = 100, low: float | None = None, high: float | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Edges (bins + 1,), and the unordered genuine and impostor pairs in each bin, float (bins,).

        Args:
            low, high: outer edges; the range of the scores where not given. What lies outside is left out.
        """
        scale = self.pairs.scale
        outer = (scale.low if low is None else low, scale.high if high is None else high)
        centres = scale.low + (np.arange(FINE) + 0.5) * scale.width
        found = [
            np.histogram(centres, bins=bins, range=outer, weights=counts / 2)
            for counts in (self.pairs.genuine_fine, self.pairs.impostor_fine)
        ]
        return found[0][1], found[0][0], found[1][0]

    @cached_property
    def _genuine(self) -> _Shape:
        return _Shape(self.pairs.genuine_fine, self.pairs.starts)

    @cached_property
    def _impostor(self) -> _Shape:
        return _Shape(self.pairs.impostor_fine, self.pairs.starts)

    @cached_property
    def _won_inside(self) -> Floats:
        """Probability that a genuine pair scores above an impostor one of the same coarse bin; (B,)."""
        genuine, impostor = self._genuine, self._impostor
        in_bin = 1 - impostor.above + impostor.fine / 2 / np.maximum(impostor.mass[impostor.bin_of], 1)
        won = np.add.reduceat(genuine.fine * in_bin, self.pairs.starts)
        full = (genuine.mass > 0) & (impostor.mass > 0)
        return np.divide(won, genuine.mass, out=np.full(len(won), 0.5), where=full)

    def _place(self, threshold: float) -> int:
        """Fine bin of a threshold, counted from 0: by the arithmetic of the scores, so that an equal score passes."""
        scale = self.pairs.scale
        if np.float32(threshold) > np.float32(scale.high):
            return FINE
        return int(scale.of(np.array([threshold], dtype=np.float32))[0]) - 1

    def _mean(self, masses: Floats, shape: _Shape) -> Floats:
        scale = self.pairs.scale
        mean: Floats = scale.low + (scale.high - scale.low) * _moments(masses, shape)[0]
        return mean

    def _statistic(
        self, of: Callable[[Floats, Floats], Floats], genuine: bool, impostor: bool, low: float = 0.0, high: float = 1.0
    ) -> Statistic:
        counts = [self.genuine_pairs] * genuine + [self.impostor_pairs] * impostor
        took_part = [self.genuine_individuals] * genuine + [self.impostor_individuals] * impostor
        n = sum(counts) if min(counts) else 0
        return Statistic(
            lambda weights: of(*self.pairs.masses(weights)), len(self.pairs.rows), n, min(took_part), low, high
        )


def verify(labelled: Labelled, block: Block, *, flank: str = "same", leaky: bool = False) -> Verification:
    """Compare every detection with every other and keep the scores.

    Pairs of one individual within one burst do not count, nor those of opposite flanks; pairs of different individuals
    always do.

    Args:
        block: similarity of query rows to all rows.
        flank: "cross" compares opposite flanks and nothing else.
        leaky: pictures of one burst count as genuine pairs.
    """
    pairs = collect(labelled, block, flank=flank, leaky=leaky)
    return Verification(
        pairs=pairs,
        genuine_pairs=int(pairs.genuine_fine.sum()) // 2,
        impostor_pairs=int(pairs.impostor_fine.sum()) // 2,
        genuine_individuals=int(np.count_nonzero(pairs.genuine.sum(axis=1))),
        impostor_individuals=int(np.count_nonzero(pairs.best_impostor.max(axis=1, initial=0))),
        worst_false=worst_false(labelled, block, pairs, flank),
        worst_missed=worst_missed(labelled, pairs),
    )


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _tail(fine: Ints) -> Floats:
    """Share of the pairs in each fine bin or above it, and 0 beyond the last; (FINE + 1,)."""
    total = fine.sum()
    tail = np.r_[np.cumsum(fine[::-1])[::-1], 0.0]
    return tail / total if total else np.full(FINE + 1, np.nan)


def _moments(masses: Floats, shape: _Shape) -> tuple[Floats, Floats]:
    """Mean and variance of the scores, as shares of their range; each (R,)."""
    total = masses.sum(axis=1)
    mean = _share(masses @ shape.mean, total)
    return mean, np.maximum(_share(masses @ shape.square, total) - mean**2, 0.0)


def _first_not_above(rate: Callable[[Ints], Floats], target: Floats) -> Ints:
    """Lowest fine bin, 0 to FINE, at which a falling rate is at or below its target; one a draw."""
    low, high = np.zeros(len(target), dtype=np.int64), np.full(len(target), FINE, dtype=np.int64)
    while np.any(low < high):
        middle = (low + high) // 2
        reached = rate(middle) <= target + 1e-12
        high = np.where(reached, middle, high)
        low = np.where(reached, low, np.minimum(middle + 1, high))
    return low
