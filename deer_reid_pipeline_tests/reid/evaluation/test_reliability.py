"""Calibration figures against scikit-learn, a loop over bins, and forecasts whose error is known."""

import numpy as np
import pytest
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from deer_reid_pipeline.reid.evaluation.estimates import clopper_pearson, estimate
from deer_reid_pipeline.reid.evaluation.reliability import reliability


def forecasts(n: int, seed: int, shift: float = 0.0):
    rng = np.random.default_rng(seed)
    stated = rng.uniform(0.05, 0.75, n)
    return stated, rng.random(n) < stated + shift, rng.integers(0, 20, n)


def test_agrees_with_scikit_learn() -> None:
    stated, correct, who = forecasts(1000, 0)
    result = reliability(stated, correct, who, 20)
    assert result.brier.value == pytest.approx(brier_score_loss(correct, stated))
    observed, mean = calibration_curve(correct, stated, n_bins=10, strategy="quantile")
    curve = result.curve()
    np.testing.assert_allclose([place for place, _ in curve], mean)
    np.testing.assert_allclose([rate.value for _, rate in curve], observed)
    assert [rate.n for _, rate in curve] == [100] * 10
    assert result.calibration_error.value == pytest.approx(np.abs(observed - mean).mean())


def test_a_constant_shift_is_the_calibration_error() -> None:
    result = reliability(*forecasts(200_000, 1, shift=0.2), 20)
    assert result.calibration_error.value == pytest.approx(0.2, abs=0.01)
    honest = reliability(*forecasts(200_000, 1), 20)
    assert honest.calibration_error.value < 0.01
    # E[p (1 - p)] of p uniform over 0.05 to 0.75.
    assert honest.brier.value == pytest.approx(0.4 - (0.4**2 + 0.7**2 / 12), abs=0.003)


def test_a_weight_is_an_individual_counted_as_often() -> None:
    stated, correct, who = forecasts(300, 2)
    result = reliability(stated, correct, who, 20)
    weights = np.random.default_rng(0).integers(0, 3, (1, 20)).astype(float)
    each = weights[0, who]
    assert result.brier.of(weights)[0] == pytest.approx(brier_score_loss(correct, stated, sample_weight=each))


def test_worked_by_hand() -> None:
    # Two bins of two: stated 0.2 and 0.4 with one true, stated 0.9 twice with both true.
    result = reliability(
        np.array([0.2, 0.4, 0.9, 0.9, np.nan]), np.array([0, 1, 1, 1, 0], bool), np.array([0, 1, 0, 1, 0]), 2, bins=2
    )
    assert result.calibration_error.value == pytest.approx((0.2 + 0.1) / 2)
    assert result.brier.value == pytest.approx((0.04 + 0.36 + 0.01 + 0.01) / 4)
    assert result.calibration_error.n == 4
    place, rate = result.curve()[1]
    assert (place, rate.value) == (pytest.approx(0.9), 1)
    assert (rate.low, rate.high) == clopper_pearson(2, 2)


def test_nothing_stated() -> None:
    result = reliability(np.array([np.nan]), np.array([True]), np.array([0]), 3)
    assert result.curve() == []
    for statistic in (result.brier, result.calibration_error):
        assert np.isnan(estimate(statistic).value)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="outside 0 and 1"):
        reliability(np.array([1.2]), np.array([True]), np.array([0]), 1)
    with pytest.raises(ValueError, match="2 probabilities"):
        reliability(np.array([0.2, 0.3]), np.array([True]), np.array([0]), 1)


@settings(max_examples=50, deadline=None)
@any_of(seed=st.integers(0, 10_000), n=st.integers(1, 80), levels=st.integers(1, 12), bins=st.integers(1, 12))
def test_order_changes_nothing_and_ties_share_a_bin(seed: int, n: int, levels: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    stated, correct, who = rng.integers(0, levels, n) / levels, rng.random(n) < 0.4, rng.integers(0, 5, n)
    order = rng.permutation(n)
    here = reliability(stated, correct, who, 5, bins=bins)
    there = reliability(stated[order], correct[order], who[order], 5, bins=bins)
    assert here.calibration_error.value == pytest.approx(there.calibration_error.value)
    assert 0 <= here.calibration_error.value <= 1
    assert len(here.curve()) <= min(bins, levels)
    assert sum(rate.n for _, rate in here.curve()) == n
    assert here.trials.sum(axis=0).min() > 0
