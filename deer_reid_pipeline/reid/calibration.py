"""Fitting calibrators: how likely two pictures show one animal, given how similar they look.

A cosine ranks, but 0.8 of one branch is not 0.8 of another, and neither is a probability. Few pairs are true ones and
those of one animal are alike, so what is fitted has few parameters and never falls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from deer_reid_pipeline.reid.calibrators import (
    AnyFloats,
    Beta,
    CalibratedFusion,
    Calibrator,
    Floats,
    Isotonic,
    Platt,
    Scale,
    log_share,
    platt_feature,
)

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Kind = Literal["auto", "platt", "beta", "isotonic"]

ISOTONIC_PAIRS, ISOTONIC_INDIVIDUALS, ISOTONIC_SHARE = 1000, 100, 0.02
"""True pairs, individuals with true pairs, and share of true pairs from which `auto` takes isotonic regression."""

BETA_PAIRS, BETA_INDIVIDUALS = 100, 30
"""The same for beta calibration: ten individuals for each of its three parameters."""

MOST_KNOTS = 100
MOST_IMPOSTORS = 100_000
"""False pairs that a fit uses; of more, that many are drawn (always the same ones) and weigh more instead."""


def sighting_weights(same: Mask, groups: Ints) -> Floats:
    """Weights under which an individual counts in proportion to its sightings, and not to their square.

    n sightings make about n squared true pairs, so that a few often-seen animals would decide the fit. Each true pair
    weighs 1 / sqrt(true pairs of its individual), scaled so that all together keep their number; a false pair weighs
    1, since an individual's false pairs are in proportion to its sightings already.

    Args:
        same: whether the pair shows one individual; bool (n,).
        groups: code of its individual; int (n,).
    """
    weights = np.ones(len(same))
    if same.any():
        weights[same] = 1.0 / np.sqrt(np.bincount(groups[same])[groups[same]])
        weights[same] *= np.count_nonzero(same) / weights[same].sum()
    return weights


def fit(
    scores: AnyFloats,
    same: Mask,
    kind: Kind = "auto",
    *,
    groups: Ints | None = None,
    weights: Floats | None = None,
    scale: Scale = "cosine",
) -> Platt | Beta | Isotonic:
    """Fit a calibrator to scored pairs of which it is known whether they show one individual.

    `auto` takes isotonic regression from 1,000 true pairs of 100 individuals on, if at least 2 % of the pairs are
    true; else beta calibration from 100 true pairs of 30 individuals on; else Platt's curve. Pairs of one individual
    are not independent, so certainty is limited by individuals: as in Platt (1999) the target of a true pair is
    (n + 1) / (n + 2) instead of 1, with n the number of individuals that have true pairs. Coefficients that come out
    negative are set to 0 and the rest is fitted again (Kull et al. 2017), so no calibrator ever falls.

    Args:
        scores: cosines or probabilities, as `scale` says; float (n,).
        same: whether the pair shows one individual; bool (n,).
        groups: code of the individual of each pair (of its query, where there are two); int (n,). Without it every
            true pair counts as an individual.
        weights: how often each pair counts; float (n,).

    Raises:
        ValueError: there is no true or no false pair, a score is not finite, or lengths differ.
    """
    lengths = {len(scores), len(same), *(len(column) for column in (groups, weights) if column is not None)}
    if len(lengths) != 1:
        raise ValueError(f"columns of scored pairs differ in length: {sorted(lengths)}")
    if not np.isfinite(scores).all():
        raise ValueError("a score to calibrate on is not finite")
    individuals = _true_individuals(same, groups)
    if kind == "auto":
        kind = _kind(same, individuals)
    drawn, weights = _drawn(same, weights)
    values, same = np.asarray(scores[drawn], dtype=np.float64), same[drawn]
    if kind == "isotonic":
        return _isotonic(values, same, weights, individuals, scale)
    if kind == "platt":
        (slope,), intercept = _rising_logistic(platt_feature(values, scale)[:, None], same, weights, individuals)
        return Platt(scale=scale, slope=slope, intercept=intercept)
    logs = np.stack([log_share(values, scale, 1.0), -log_share(values, scale, -1.0)], axis=1)
    (a, b), c = _rising_logistic(logs, same, weights, individuals)
    return Beta(scale=scale, a=a, b=b, c=c)


def _kind(same: Mask, individuals: int) -> Kind:
    pairs, share = np.count_nonzero(same), np.mean(same)
    if pairs >= ISOTONIC_PAIRS and individuals >= ISOTONIC_INDIVIDUALS and share >= ISOTONIC_SHARE:
        return "isotonic"
    return "beta" if pairs >= BETA_PAIRS and individuals >= BETA_INDIVIDUALS else "platt"


def fit_fusion(
    similarities: Mapping[str, AnyFloats],
    same: Mask,
    groups: Ints,
    *,
    kind: Kind = "auto",
    folds: int = 5,
    weights: Floats | None = None,
) -> CalibratedFusion:
    """Calibrate each branch and fuse their log-odds by logistic regression.

    The regression sees log-odds of pairs whose individual the branch's calibrator was not fitted on: else the most
    flexible calibrator would look the most trustworthy. A branch whose coefficient comes out negative gets 0.

    Args:
        similarities: branch -> cosines of the pairs; float (n,) each.
        same: whether the pair shows one individual; bool (n,).
        groups: code of the individual of each pair (of its query, where there are two); int (n,).
        kind: of every calibrator, as in `fit`.
        weights: how often each pair counts; None takes `sighting_weights`.

    Raises:
        ValueError: fewer than two individuals have true pairs, there is no false pair, or lengths differ.
    """
    individuals = _true_individuals(same, groups)
    if individuals < 2:
        raise ValueError(f"{individuals} individuals have true pairs; a fusion needs two to be fitted")
    if kind == "auto":
        kind = _kind(same, individuals)
    drawn, weights = _drawn(same, sighting_weights(same, groups) if weights is None else weights)
    same, groups = same[drawn], groups[drawn]
    fold = folds_of(same, groups, min(folds, individuals))
    calibrators: dict[str, Calibrator] = {}
    held_out = np.empty((len(same), len(similarities)))
    for column, (branch, cosines) in enumerate(sorted(similarities.items())):
        values = cosines[drawn]
        calibrators[branch] = fit(values, same, kind, groups=groups, weights=weights)
        for part in np.unique(fold).tolist():
            rest = fold != part
            without = fit(values[rest], same[rest], kind, groups=groups[rest], weights=weights[rest])
            held_out[~rest, column] = without.log_odds(values[~rest].astype(np.float64))
    coefficients, intercept = _rising_logistic(held_out, same, weights, individuals)
    return CalibratedFusion(
        branches=calibrators, coefficients=dict(zip(calibrators, coefficients, strict=True)), intercept=intercept
    )


def _true_individuals(same: Mask, groups: Ints | None) -> int:
    return int(np.count_nonzero(same)) if groups is None else len(np.unique(groups[same]))


def folds_of(same: Mask, groups: Ints, folds: int) -> Ints:
    """Part, 0 to folds - 1, of each row, by its individual; individuals with true pairs are spread evenly.

    Args:
        same: whether the row is a true pair; bool (n,).
        groups: code of its individual; int (n,).
    """
    codes, index = np.unique(groups, return_inverse=True)
    true_pairs = np.bincount(index, weights=same, minlength=len(codes))
    part = np.empty(len(codes), dtype=np.int64)
    part[np.argsort(-true_pairs, kind="stable")] = np.arange(len(codes)) % folds
    return part[index]


def _drawn(same: Mask, weights: Floats | None) -> tuple[Ints, Floats]:
    """Rows to fit on, with their weights: every true pair, and of the false ones as many as are needed."""
    weights = np.ones(len(same)) if weights is None else np.asarray(weights, dtype=np.float64)
    false = np.flatnonzero(~same)
    if len(false) == len(same) or not len(false):
        raise ValueError("pairs of one individual and pairs of two are both needed to calibrate")
    if len(false) <= MOST_IMPOSTORS:
        return np.arange(len(same)), weights
    kept = np.sort(np.random.default_rng(0).choice(false, MOST_IMPOSTORS, replace=False))
    rows = np.r_[np.flatnonzero(same), kept]
    factor = np.where(same[rows], 1.0, weights[false].sum() / weights[kept].sum())
    return rows, weights[rows] * factor


def _rising_logistic(
    features: AnyFloats, same: Mask, weights: Floats, individuals: int
) -> tuple[tuple[float, ...], float]:
    """Logistic regression with coefficients that are not negative; ((k,), intercept)."""
    # scikit-learn is imported where something is fitted: a release is used without it, and it loads for a second.
    from sklearn.linear_model import LogisticRegression

    # Platt's targets as rows of both outcomes. The doubt about false pairs is one pair's worth, spread over some.
    true, false = np.flatnonzero(same), np.flatnonzero(~same)
    some = false[:: max(1, len(false) // 1000)]
    doubt = 1 / (weights[false].sum() + 2)
    rows = np.r_[true, true, false, some]
    outcomes = np.r_[np.ones(len(true)), np.zeros(len(true)), np.zeros(len(false)), np.ones(len(some))]
    shares = np.r_[
        weights[true] * (individuals + 1) / (individuals + 2),
        weights[true] / (individuals + 2),
        weights[false] * (1 - doubt),
        weights[some] * (doubt * weights[false].sum() / weights[some].sum()),
    ]
    coefficients = np.zeros(features.shape[1])
    used = np.flatnonzero(np.ptp(features, axis=0) > 0)
    while len(used):
        chosen = features[rows][:, used]
        centre, spread = chosen.mean(axis=0), chosen.std(axis=0)
        scaled = (chosen - centre) / spread
        model = LogisticRegression(C=1e10, solver="newton-cholesky", tol=1e-8, max_iter=200)
        model.fit(scaled, outcomes, sample_weight=shares)
        found = model.coef_[0] / spread
        if found.min() >= 0:
            coefficients[used] = found
            return tuple(coefficients.tolist()), float(model.intercept_[0] - found @ centre)
        used = np.delete(used, np.argmin(found * spread))
    share = float((shares * outcomes).sum() / shares.sum())
    return tuple(coefficients.tolist()), float(logit(np.array(share)))


def _isotonic(values: Floats, same: Mask, weights: Floats, individuals: int, scale: Scale) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression().fit(values, same.astype(np.float64), sample_weight=weights)
    knots, heights = model.X_thresholds_, model.y_thresholds_
    if len(knots) > MOST_KNOTS:
        kept = np.unique(np.linspace(0, len(knots) - 1, MOST_KNOTS).round().astype(np.int64))
        knots, heights = knots[kept], heights[kept]
    heights = np.clip(heights, 1 / (weights[~same].sum() + 2), (individuals + 1) / (individuals + 2))
    return Isotonic(scale=scale, scores=tuple(knots.tolist()), probabilities=tuple(heights.tolist()))
