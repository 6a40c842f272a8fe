"""Open-set identification error rates, and the threshold that keeps false positives under a bound (1:N).

ISO/IEC 19795-1:2021: FPIR is the share of non-mated searches that return a candidate at or above the threshold, FNIR
the share of mated searches whose mate is not among the top R at or above it. A non-mated search is an encounter whose
own individual is taken out of the gallery.

A false positive has two individuals: the one that is searched and the one that it is taken for. Both may be of a kind
that is easily confused, so intervals here count errors that share either of them as dependent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import gammaln

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Statistic, clopper_pearson, ratio
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Mask
from deer_reid_pipeline.reid.evaluation.searches import Searches

Floats = NDArray[np.float64]

CHUNK = 128
"""Bootstrap draws whose thresholds are derived at a time."""


@dataclass(frozen=True)
class DetCurve:
    """Detection error trade-off: error rates at every threshold, ascending; each (T,)."""

    thresholds: Floats
    fpir: Floats
    fnir: Floats


def det(searches: Searches, rank: int = 1) -> DetCurve:
    """FPIR and FNIR at every threshold at which one of them changes."""
    false = np.sort(searches.best_nonmate[searches.non_mated])
    found = np.sort(_found_at(searches, rank)[searches.mated])
    thresholds = np.unique(np.r_[false, found[np.isfinite(found)]])
    return DetCurve(
        thresholds,
        1 - np.searchsorted(false, thresholds, side="left") / max(len(false), 1) if len(false) else thresholds * np.nan,
        np.searchsorted(found, thresholds, side="left") / len(found) if len(found) else thresholds * np.nan,
    )


def fpir_statistic(searches: Searches, threshold: float | Floats) -> Statistic:
    """FPIR at a threshold, of all searches with their own individual taken out.

    For new individuals in the order of time take `searches.only(searches.first)`.

    Args:
        threshold: one, or one a search; (S,).
    """
    events, trials = _false_positives(searches, threshold)
    return ratio(*_by_individual(searches, events, trials))


def fpir_at(searches: Searches, threshold: float | Floats) -> Estimate:
    """FPIR at a threshold with its 95 % interval: Clopper-Pearson on the effective number of searches.

    The design effect compares the variance over individuals (Korn and Graubard 1998, Survey Methodology 24:193-201)
    with that of independent searches; false positives that share an individual in either role are dependent (the
    dyadic variance of Fafchamps and Gubert 2007, J. Dev. Econ. 83:326-350). Without a false positive, every
    individual counts as one search.

    Args:
        threshold: one, or one a search; (S,).
    """
    events, trials = _false_positives(searches, threshold)
    of_each, searched = _by_individual(searches, events, trials)
    total, individuals = float(searched.sum()), int(np.count_nonzero(searched))
    if total == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0, 0)
    value = float(of_each.sum()) / total
    effective = float(individuals)
    if 0 < value < 1 and individuals > 1:
        spread = _spread(searches.individual[events], searches.best_nonmate_individual[events], searched)[1]
        variance = individuals / (individuals - 1) * spread / total**2
        effective = total / max(1.0, variance * total / (value * (1 - value)))
        if individuals > 2:
            effective *= float((stats.norm.ppf(0.975) / stats.t.ppf(0.975, individuals - 1)) ** 2)
    low, high = clopper_pearson(value * effective, effective)
    return Estimate(value, low, high, int(total), individuals)


def fpir_of_individuals(searches: Searches, threshold: float | Floats) -> Estimate:
    """FPIR at a threshold, every individual counting once: the mean over individuals of the share of its searches.

    It is the rate for an animal that comes once, where animals seen often are easier, or harder, than others. The
    interval is Clopper-Pearson on the effective number of individuals (Korn and Graubard 1998); false positives that
    share an individual in either role are dependent, as in `fpir_at`.

    Args:
        threshold: one, or one a search; (S,).
    """
    events, trials = _false_positives(searches, threshold)
    of_each, searched = _by_individual(searches, events, trials)
    took_part = searched > 0
    individuals = int(np.count_nonzero(took_part))
    if individuals == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0, 0)
    shares = of_each[took_part] / searched[took_part]
    value = float(shares.mean())
    effective = float(individuals)
    variance = float(shares.var(ddof=1)) / individuals if individuals > 1 else 0.0
    if 0 < value < 1 and variance > 0:
        alone, both = _spread(searches.individual[events], searches.best_nonmate_individual[events], searched)
        dependence = both / alone if alone > 0 else 1.0
        effective = min(value * (1 - value) / variance, float(searched.sum())) / dependence
        if individuals > 2:
            effective *= float((stats.norm.ppf(0.975) / stats.t.ppf(0.975, individuals - 1)) ** 2)
    low, high = clopper_pearson(min(value * effective, effective), effective)
    return Estimate(value, low, high, int(searched.sum()), individuals)


def fnir_at(searches: Searches, threshold: float | Floats, rank: int = 1) -> Statistic:
    """FNIR at a threshold: share of mated searches whose mate is not among the top `rank` at or above it.

    Args:
        threshold: one, or one a search; (S,).
    """
    mated = searches.mated
    missed = mated & ~(_found_at(searches, rank) >= threshold)
    return ratio(*_by_individual(searches, missed, mated))


def fnir_at_fpir(searches: Searches, fpir: float, rank: int = 1) -> Statistic:
    """FNIR at the lowest threshold whose FPIR is at most `fpir`.

    The threshold is derived anew from every draw of individuals, so that its own uncertainty is in the interval.

    Raises:
        ValueError: `fpir` is not between 0 and 1.
    """
    if not 0 <= fpir <= 1:
        raise ValueError(f"a false-positive rate lies between 0 and 1, not {fpir}")
    non_mated, mated = np.flatnonzero(searches.non_mated), np.flatnonzero(searches.mated)
    non_mated = non_mated[np.argsort(-searches.best_nonmate[non_mated], kind="stable")]
    found = _found_at(searches, rank)
    mated = mated[np.argsort(found[mated], kind="stable")]
    scores = searches.best_nonmate[non_mated]
    last_of_tie = np.r_[scores[1:] != scores[:-1], True] if len(scores) else np.zeros(0, dtype=bool)
    scores, ends = scores[last_of_tie], np.flatnonzero(last_of_tie)
    # Level j rejects the j-th distinct score and all below; the last level rejects none.
    missed = np.r_[np.searchsorted(found[mated], scores, side="right"), np.searchsorted(found[mated], -np.inf, "right")]

    def of(weights: Floats) -> Floats:
        values = np.full(len(weights), np.nan)
        for start in range(0, len(weights), CHUNK):
            chunk = weights[start : start + CHUNK]
            false = np.cumsum(chunk[:, searches.individual[non_mated]], axis=1)
            total = false[:, -1:] if len(non_mated) else np.zeros((len(chunk), 1))
            allowed = false[:, ends] <= fpir * total * (1 + 1e-12)
            levels = allowed.sum(axis=1)
            misses = np.cumsum(chunk[:, searches.individual[mated]], axis=1)
            misses = np.concatenate([np.zeros((len(chunk), 1)), misses], axis=1)
            everyone = misses[:, -1]
            measured = (everyone > 0) & (total[:, 0] > 0)
            share = misses[np.arange(len(chunk)), missed[levels]] / np.where(measured, everyone, 1.0)
            values[start : start + CHUNK] = np.where(measured, share, np.nan)
        return values

    taking_part = len(np.unique(searches.individual[mated]))
    trials = len(mated) if len(non_mated) else 0
    return Statistic(of, searches.individuals, trials, taking_part)


def fpir_at_size(searches: Searches, threshold: float | Floats, size: int) -> Statistic:
    """FPIR in a gallery of `size` individuals: exactly for a smaller one, as an upper bound for a larger one.

    In a smaller gallery, drawn at random from this one of M individuals, a search with c individuals at or above the
    threshold escapes with probability C(M - c, size) / C(M, size) (hypergeometric). For a larger one see
    `project_fpir`.

    Raises:
        ValueError: size is below one.
    """
    if size < 1:
        raise ValueError(f"a gallery has at least one individual, not {size}")
    whole = fpir_statistic(searches, threshold)
    if size >= searches.gallery_size:
        return Statistic(
            lambda weights: _projected(whole.of(weights), searches.gallery_size, size),
            whole.individuals,
            whole.n,
            whole.taking_part,
        )
    gallery = np.maximum(searches.gallery_sizes, size)  # a search in a smaller one could find nobody, and is no trial
    above = (searches.nonmate_scores() >= np.reshape(threshold, (-1, 1))).sum(axis=1)
    left = np.maximum(gallery - above, size)
    escapes = np.exp(gammaln(left + 1) - gammaln(left - size + 1) - gammaln(gallery + 1) + gammaln(gallery - size + 1))
    caught = np.where(gallery - above < size, 1.0, 1 - escapes)
    trials = searches.non_mated
    return ratio(
        np.bincount(searches.individual[trials], caught[trials], searches.individuals).astype(np.float64),
        _by_individual(searches, trials, trials)[1],
    )


def project_fpir(estimate: Estimate, size: int, to_size: int) -> Estimate:
    """What an FPIR measured with `size` individuals says about a gallery of `to_size`: bounds that always hold.

    Let X be the probability that a search escapes all individuals of a random gallery of n: (1 - p)^n, where p, the
    chance that one individual is taken for it, differs from search to search. With N >= n, x^(N/n) is convex, so by
    Jensen's inequality E[X^(N/n)] >= E[X]^(N/n): FPIR_N <= 1 - (1 - FPIR_n)^(N/n), and of course FPIR_N >= FPIR_n.
    With N < n both turn round. The value becomes the upper bound at the measured value.

    Raises:
        ValueError: a size is below one.
    """
    if size < 1 or to_size < 1:
        raise ValueError(f"a gallery has at least one individual, not {min(size, to_size)}")
    if to_size >= size:
        value, high = (float(_projected(np.array(rate), size, to_size)) for rate in (estimate.value, estimate.high))
        return Estimate(value, estimate.low, high, estimate.n, estimate.individuals)
    low = float(_projected(np.array(estimate.low), size, to_size))
    return Estimate(estimate.value, low, estimate.high, estimate.n, estimate.individuals)


def threshold_for(searches: Searches, bound: float, to_size: int, confidence: float = 0.95) -> float | None:
    """The lowest threshold that keeps the FPIR on new individuals at most `bound`, claimed with this confidence.

    Thresholds are tried from the highest down, as long as the one-sided upper confidence bound of the FPIR, projected
    to `to_size` individuals, stays within `bound`. Stopping at the first that does not makes the claim hold at the
    stated confidence although the threshold was chosen by looking (fixed-sequence testing). The confidence bound is
    Clopper-Pearson's with each individual as one trial, however many searches it gives: with few false positives
    nothing can be said of how much those of one individual hang together. The rate is the higher one of that over
    searches and that over individuals, so that the claim holds for animals that come once, too. Where false positives
    share individuals, searched or found (kin, or one nondescript animal that many are taken for), the trials are
    divided by how much that raises the variance. A smaller gallery than the searched one gets the threshold of this
    one.

    Args:
        bound: of the FPIR, above 0 and below 1.
        to_size: individuals in the gallery that the threshold is for.
        confidence: of the claim, above 0.5 and below 1.

    Returns:
        None where nothing can be claimed: too few individuals (without any error, 59 for 5 % and 299 for 1 % at the
        same gallery size), or different ones that look exactly the same.

    Raises:
        ValueError: bound, confidence or gallery size is outside its range.
    """
    if not (0 < bound < 1 and 0.5 < confidence < 1):
        raise ValueError(f"bound {bound} must lie between 0 and 1, confidence {confidence} between 0.5 and 1")
    if to_size < 1:
        raise ValueError(f"a gallery has at least one individual, not {to_size}")
    trials = np.flatnonzero(searches.non_mated)
    if not len(trials):
        return None
    order = trials[np.argsort(-searches.best_nonmate[trials], kind="stable")]
    scores = searches.best_nonmate[order]
    searched, found = searches.individual[order], searches.best_nonmate_individual[order]
    of_each = np.bincount(searched, minlength=searches.individuals).astype(np.float64)
    individuals = int(np.count_nonzero(of_each))
    lowest: float | None = None
    for events in np.r_[0, np.flatnonzero(np.diff(scores)) + 1].tolist():
        share = max(events / len(order), float((1 / of_each[searched[:events]]).sum()) / individuals)
        alone, both = _spread(searched[:events], found[:events], of_each)
        effective = individuals / (both / alone if alone > 0 else 1.0)
        upper = clopper_pearson(share * effective, effective, level=2 * confidence - 1)[1]
        if _projected(np.array(upper), searches.gallery_size, max(to_size, searches.gallery_size)) > bound:
            break
        lowest = float(np.nextafter(np.float32(scores[events]), np.float32(np.inf)))
    return lowest if lowest is not None and lowest <= 1 else None


def _found_at(searches: Searches, rank: int) -> Floats:
    """The highest threshold at which a search still finds its mate among the top `rank`; -inf where it never does."""
    found = (searches.mate_rank >= 1) & (searches.mate_rank <= rank)
    return np.where(found, searches.mate_score, -np.inf)


def _false_positives(searches: Searches, threshold: float | Floats) -> tuple[Mask, Mask]:
    trials = searches.non_mated
    return trials & (searches.best_nonmate >= threshold), trials


def _by_individual(searches: Searches, events: Mask, trials: Mask) -> tuple[Floats, Floats]:
    count = searches.individuals
    return (
        np.bincount(searches.individual[events], minlength=count).astype(np.float64),
        np.bincount(searches.individual[trials], minlength=count).astype(np.float64),
    )


def _projected(fpir: Floats, size: int, to_size: int) -> Floats:
    return -np.expm1(np.log1p(-np.minimum(fpir, 1 - 1e-16)) * (to_size / size))


def _spread(searched: Ints, found: Ints, trials: Floats) -> tuple[float, float]:
    """Variance of a number of false positives: of searched individuals alone, and of both roles (dyadic).

    In the second, pairs of false positives that share an individual in either role count, those of the same two
    individuals once, less what the rate and an even spread over the gallery explain.

    Args:
        searched, found: the two individuals of each false positive.
        trials: searches of each individual; (G,).
    """
    count = len(trials)
    present = trials > 0
    own = np.bincount(searched, minlength=count) - len(searched) / trials.sum() * trials
    alone = float((own**2).sum())
    taken_for = np.bincount(found, minlength=count) - np.where(present, len(found) / present.sum(), 0.0)
    twice = np.unique(np.minimum(searched, found) * count + np.maximum(searched, found), return_counts=True)[1]
    both = float(((own + taken_for) ** 2).sum() - (twice.astype(np.float64) ** 2).sum())
    return alone, max(alone, both)
