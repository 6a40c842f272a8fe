"""Figures with their 95 % intervals: bootstrap over individuals, Clopper-Pearson for rates of independent trials.

Comparisons that share an animal are not independent, so an interval over pairs or pictures would be far too narrow.
Every metric is therefore given as a `Statistic`: a function of how often each individual counts. Drawing the
individuals anew (with replacement) is drawing such counts, and two matchers judged on the same draws are compared in
pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEVEL = 0.95
DRAWS = 2000
FEWEST = 5
"""Below this many individuals a bootstrap says nothing, and the interval is everything possible."""


@dataclass(frozen=True)
class Estimate:
    """A figure, its interval, and the number of trials behind it.

    Attributes:
        value: NaN where there was nothing to measure.
        low, high: 95 % interval unless said otherwise; the whole range where too little was measured.
        n: queries, searches, pairs or encounters, as the metric says.
        individuals: independent individuals behind them.
    """

    value: float
    low: float
    high: float
    n: int
    individuals: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of how often each individual counts.

    Attributes:
        of: maps weights, float (R, G), to values, float (R,); NaN where a draw has nothing to measure. The weight of
            a trial is that of its query's individual; of a pair of two individuals it is the product.
        individuals: G.
        n: trials with weights of one.
        taking_part: individuals that have a trial.
        low, high: range of possible values.
    """

    of: Callable[[Floats], Floats]
    individuals: int
    n: int
    taking_part: int
    low: float = 0.0
    high: float = 1.0

    @property
    def value(self) -> float:
        """The metric itself; NaN where there is nothing to measure."""
        return float(self.of(np.ones((1, self.individuals)))[0]) if self.n else float("nan")


def ratio(numerators: Floats, denominators: Floats, low: float = 0.0, high: float = 1.0) -> Statistic:
    """A mean over trials (rank-1, mAP, an error rate), grouped by the individual of the trial.

    Args:
        numerators: sum over each individual's trials; (G,).
        denominators: its number of trials; (G,).
    """
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)

    def of(weights: Floats) -> Floats:
        total = weights @ bottom
        return np.divide(weights @ top, total, out=np.full(len(weights), np.nan), where=total > 0)

    return Statistic(of, len(top), int(bottom.sum()), int(np.count_nonzero(bottom)), low, high)


def mean_of_individuals(values: Floats, low: float = 0.0, high: float = 1.0) -> Statistic:
    """A mean over individuals, each counting once (BAKS, BAUS, per-individual mAP).

    Args:
        values: one an individual, NaN for those without a trial; (G,).
    """
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0.0), known.astype(np.float64), low, high)


def estimate(statistic: Statistic, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL) -> Estimate:
    """The statistic with its interval: bootstrap over individuals, bias-corrected and accelerated.

    BCa interval of Efron (1987, J. Am. Stat. Assoc. 82:171-185). Where all draws agree (no error in any trial) a
    bootstrap would claim certainty; there the interval is Clopper-Pearson's over the individuals.
    """
    if statistic.n == 0 or statistic.taking_part == 0:
        return Estimate(float("nan"), statistic.low, statistic.high, 0, 0)
    low, high = _interval(statistic, draws, seed, level)
    return Estimate(statistic.value, low, high, statistic.n, statistic.taking_part)


def difference(
    candidate: Statistic, live: Statistic, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Estimate:
    """Candidate minus live, judged on the same individuals, with the interval of the paired difference.

    Raises:
        ValueError: the two were measured on different individuals.
    """
    if candidate.individuals != live.individuals:
        raise ValueError(f"{candidate.individuals} and {live.individuals} individuals cannot be compared in pairs")
    width = max(candidate.high, live.high) - min(candidate.low, live.low)
    both = Statistic(
        lambda weights: candidate.of(weights) - live.of(weights),
        live.individuals,
        min(candidate.n, live.n),
        min(candidate.taking_part, live.taking_part),
        -width,
        width,
    )
    return estimate(both, draws=draws, seed=seed, level=level)


def clopper_pearson(events: float, trials: float, *, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a rate of independent trials (Clopper and Pearson 1934, Biometrika 26:404-413).

    Counts need not be whole, so that an effective number of trials can be given.

    Raises:
        ValueError: more events than trials, or negative counts.
    """
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = 0.0 if events == 0 else float(stats.beta.ppf(tail, events, trials - events + 1))
    high = 1.0 if events == trials else float(stats.beta.ppf(1 - tail, events + 1, trials - events))
    return low, high


def rate(events: int, trials: int, *, level: float = LEVEL) -> Estimate:
    """A rate of independent trials with its Clopper-Pearson interval."""
    low, high = clopper_pearson(events, trials, level=level)
    return Estimate(events / trials if trials else float("nan"), low, high, trials, trials)


def clustered_rate(events: NDArray[np.int64], trials: NDArray[np.int64], *, level: float = LEVEL) -> Estimate:
    """A rate whose trials are clustered in individuals: Clopper-Pearson on the effective number of trials.

    The design effect is the variance of the ratio over individuals divided by that of independent trials (Korn and
    Graubard 1998, Survey Methodology 24:193-201). It is never taken to be below one, and where it cannot be told (no
    event, or nothing but events) every individual counts as one trial.

    Args:
        events: events of each individual; int (G,).
        trials: trials of each individual; int (G,).
    """
    took_part = trials > 0
    events, trials = events[took_part], trials[took_part]
    clusters, total = len(trials), int(trials.sum())
    if total == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0, 0)
    value = float(events.sum() / total)
    effective = float(clusters)
    if 0 < value < 1 and clusters > 1:
        residual = events - value * trials
        variance = clusters / (clusters - 1) * float((residual**2).sum()) / total**2
        independent = value * (1 - value) / total
        effective = total / max(1.0, variance / independent)
        # A variance from few clusters is itself uncertain: Korn and Graubard's t correction.
        if clusters > 2:
            effective *= float((stats.norm.ppf(0.975) / stats.t.ppf(0.975, clusters - 1)) ** 2)
    low, high = clopper_pearson(value * effective, effective, level=level)
    return Estimate(value, low, high, total, clusters)


def _interval(statistic: Statistic, draws: int, seed: int, level: float) -> tuple[float, float]:
    if statistic.taking_part < FEWEST:
        return statistic.low, statistic.high
    individuals = statistic.individuals
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(individuals, np.full(individuals, 1 / individuals), size=draws).astype(np.float64)
    drawn = statistic.of(weights)
    drawn = drawn[np.isfinite(drawn)]
    value = statistic.value
    if len(drawn) < draws / 2 or not np.isfinite(value):
        return statistic.low, statistic.high
    if np.ptp(drawn) < 1e-12:
        return _without_spread(statistic, value, level)
    below = (np.count_nonzero(drawn < value) + 0.5 * np.count_nonzero(drawn == value)) / len(drawn)
    bias = stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    left_out = statistic.of(1.0 - np.eye(individuals))
    left_out = left_out[np.isfinite(left_out)]
    deviation = left_out.mean() - left_out
    spread = float((deviation**2).sum())
    acceleration = float((deviation**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    tails = stats.norm.ppf(np.array([(1 - level) / 2, (1 + level) / 2]))
    shifted = bias + tails
    places = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(drawn, np.clip(places, 0, 1))
    return float(min(low, value)), float(max(high, value))


def _without_spread(statistic: Statistic, value: float, level: float) -> tuple[float, float]:
    if not np.isfinite([statistic.low, statistic.high]).all():
        return value, value
    width = statistic.high - statistic.low
    share = (value - statistic.low) / width
    clusters = statistic.taking_part
    low, high = clopper_pearson(round(share * clusters, 9), clusters, level=level)
    if 0 < share < 1:  # equal everywhere, but not at an end: nothing to learn about the spread
        return value, value
    return statistic.low + low * width, statistic.low + high * width
