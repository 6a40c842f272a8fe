"""Whether a stated probability means what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Floats, Statistic, clustered_rate, ratio
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Mask

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Probabilities with what came true, summed by individual.

    Attributes:
        stated: sum of the probabilities in each bin; (G, B).
        came_true: how often it came true; (G, B).
        trials: (G, B).
        brier: score of the single probabilities, 0 is best (Brier 1950). It is proper: no one gains by stating another
            probability than the own belief.
    """

    stated: Floats
    came_true: Floats
    trials: Floats
    brier: Statistic

    @property
    def calibration_error(self) -> Statistic:
        """Expected calibration error: mean distance between stated and observed rate over bins of equal size.

        Naeini et al. (2015, AAAI), bins of equal mass as of Nguyen and O'Connor (2015, EMNLP). A perfect forecaster
        does not reach 0: with n trials in each bin, chance alone leaves about sqrt(2 p (1 - p) / (pi n)).
        """

        def of(weights: Floats) -> Floats:
            distance = np.abs(weights @ (self.stated - self.came_true)).sum(axis=1)
            total = (weights @ self.trials).sum(axis=1)
            return np.divide(distance, total, out=np.full(len(weights), np.nan), where=total > 0)

        taking_part = int(np.count_nonzero(self.trials.sum(axis=1)))
        return Statistic(of, len(self.trials), int(self.trials.sum()), taking_part)

    def curve(self) -> list[tuple[float, Estimate]]:
        """Of each bin, ascending: the mean stated probability, and the observed rate with its clustered interval."""
        return [
            (
                float(self.stated[:, place].sum() / self.trials[:, place].sum()),
                clustered_rate(self.came_true[:, place].astype(np.int64), self.trials[:, place].astype(np.int64)),
            )
            for place in range(self.trials.shape[1])
        ]


def reliability(
    probability: Floats, correct: Mask, individual: Ints, individuals: int, *, bins: int = BINS
) -> Reliability:
    """Put stated probabilities into bins of equal size and compare them with what came true.

    Args:
        probability: stated, 0 to 1; NaN where none was, which leaves the trial out; (n,).
        correct: whether it came true; (n,).
        individual: whose trial it was; (n,).
        individuals: G.
        bins: at most this many; equal probabilities share one.

    Raises:
        ValueError: columns differ in length, or a probability lies outside 0 and 1.
    """
    if not len(probability) == len(correct) == len(individual):
        raise ValueError(f"{len(probability)} probabilities, {len(correct)} outcomes, {len(individual)} individuals")
    known = ~np.isnan(probability)
    stated = np.asarray(probability, dtype=np.float64)[known]
    true = np.asarray(correct, dtype=np.float64)[known]
    who = individual[known]
    if np.any((stated < 0) | (stated > 1)):
        raise ValueError("a probability lies outside 0 and 1")
    place, count = _equal_bins(stated, bins)

    def total(values: Floats) -> Floats:
        return _sums(who * count + place, values, individuals * count).reshape(individuals, count)

    trials = np.bincount(who, minlength=individuals).astype(np.float64)
    return Reliability(
        stated=total(stated),
        came_true=total(true),
        trials=total(np.ones(len(stated))),
        brier=ratio(_sums(who, (stated - true) ** 2, individuals), trials),
    )


def _sums(codes: Ints, values: Floats, count: int) -> Floats:
    return np.bincount(codes, weights=values, minlength=count).astype(np.float64)


def _equal_bins(values: Floats, bins: int) -> tuple[NDArray[np.int64], int]:
    """Bin of each value and the number of bins, none of them empty."""
    cuts = np.unique(np.quantile(values, np.arange(1, bins) / bins)) if len(values) else np.zeros(0)
    places = np.searchsorted(cuts, values, side="right")
    present, renumbered = np.unique(places, return_inverse=True)
    return renumbered.astype(np.int64), len(present)
