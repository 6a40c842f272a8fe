"""Intervals against closed forms, SciPy, and the cases in which a bootstrap would claim too much."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deer_reid_pipeline.reid.evaluation.estimates import (
    Statistic,
    clopper_pearson,
    clustered_rate,
    difference,
    drawn_weights,
    estimate,
    mean_of_individuals,
    rate,
    ratio,
)


@pytest.mark.parametrize(("events", "trials"), [(0, 59), (1, 20), (7, 20), (20, 20), (3, 1000)])
def test_clopper_pearson_agrees_with_scipy(events: int, trials: int) -> None:
    exact = stats.binomtest(events, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(events, trials) == pytest.approx((exact.low, exact.high))
    figure = rate(events, trials)
    assert (figure.value, figure.low, figure.high) == pytest.approx((events / trials, exact.low, exact.high))


def test_59_error_free_trials_claim_less_than_five_percent_and_58_do_not() -> None:
    """One-sided 95 %, the rule of three: 59 for 5 %, 299 for 1 %."""
    for trials, bound in ((59, 0.05), (299, 0.01)):
        assert clopper_pearson(0, trials, level=0.9)[1] < bound < clopper_pearson(0, trials - 1, level=0.9)[1]


def test_clopper_pearson_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="3 events in 2 trials"):
        clopper_pearson(3, 2)
    assert clopper_pearson(0, 0) == (0, 1)


def test_the_value_is_the_mean_over_trials_or_over_individuals() -> None:
    right, trials = np.array([9.0, 0.0, 0.0]), np.array([10.0, 1.0, 0.0])
    assert ratio(right, trials).value == pytest.approx(9 / 11)
    assert (ratio(right, trials).n, ratio(right, trials).taking_part) == (11, 2)
    assert mean_of_individuals(np.array([0.9, 0.0, np.nan])).value == pytest.approx(0.45)


def test_a_mean_of_many_individuals_has_the_interval_of_student() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.05, 200)
    figure = estimate(mean_of_individuals(values))
    low, high = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=6e-4)
    unbounded = estimate(mean_of_individuals(values, -np.inf, np.inf))
    assert (unbounded.low, unbounded.high) == pytest.approx((low, high), abs=6e-4)


def test_a_level_is_obeyed() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.05, 200)
    figure = estimate(mean_of_individuals(values), level=0.8)
    low, high = stats.t.interval(0.8, 199, values.mean(), stats.sem(values))
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=6e-4)


def test_pictures_of_one_animal_add_little() -> None:
    """Ten times the pictures of the same animals, alike within each, leave the interval as it is."""
    right = (np.arange(60) % 3 > 0).astype(float)
    few, many = estimate(ratio(right, np.ones(60))), estimate(ratio(10 * right, np.full(60, 10.0)))
    assert (many.low, many.high) == pytest.approx((few.low, few.high))
    assert (few.n, many.n) == (60, 600)


def test_no_error_is_no_certainty() -> None:
    figure = estimate(ratio(np.full(30, 20.0), np.full(30, 20.0)))
    assert (figure.value, figure.high) == (1, 1)
    assert figure.low == pytest.approx(clopper_pearson(30, 30)[0])
    other = estimate(ratio(np.zeros(30), np.full(30, 20.0)))
    assert (other.low, other.high) == (0, pytest.approx(clopper_pearson(0, 30)[1]))


def test_individuals_that_are_all_alike_are_no_certainty_either() -> None:
    figure = estimate(mean_of_individuals(np.full(40, 0.5)))
    differing = clopper_pearson(0, 40)[1]
    assert (figure.low, figure.high) == pytest.approx((0.5 - 0.5 * differing, 0.5 + 0.5 * differing))


@pytest.mark.parametrize("individuals", [1, 2, 4])
def test_too_few_individuals_say_nothing(individuals: int) -> None:
    figure = estimate(ratio(np.full(individuals, 3.0), np.full(individuals, 4.0)))
    assert (figure.value, figure.low, figure.high) == (0.75, 0, 1)


def test_nothing_measured() -> None:
    figure = estimate(ratio(np.zeros(9), np.zeros(9)))
    assert np.isnan(figure.value)
    assert (figure.low, figure.high, figure.n, figure.individuals) == (0, 1, 0, 0)
    assert figure.as_dict() == {"value": None, "low": 0, "high": 1, "n": 0, "individuals": 0}
    assert estimate(Statistic(lambda w: w[:, 0], 3, 0, 0, -np.inf, np.inf)).as_dict()["high"] is None


def test_a_figure_that_most_draws_cannot_tell_has_every_value() -> None:
    """Only draws with the first individual have something to measure; a third have not."""
    hardly = Statistic(lambda w: np.where(w[:, 0] > 1, w[:, 1:].sum(axis=1) / 40, np.nan), 20, 20, 20)
    assert np.isnan(hardly.value)
    assert (estimate(hardly).low, estimate(hardly).high) == (0, 1)


def test_one_individual_that_carries_everything_widens_the_interval() -> None:
    right, trials = np.full(50, 9.0), np.full(50, 10.0)
    right[::5] = 6.0
    even = estimate(ratio(right, trials))
    right[0], trials[0] = 60.0, 400.0
    uneven = estimate(ratio(right, trials))
    assert uneven.high - uneven.low > 5 * (even.high - even.low)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    live = rng.beta(1, 1, 80)
    candidate = np.clip(live + 0.05 + rng.normal(0, 0.02, 80), 0, 1)
    gain = difference(mean_of_individuals(candidate), mean_of_individuals(live))
    low, high = stats.t.interval(0.95, 79, (candidate - live).mean(), stats.sem(candidate - live))
    assert (gain.low, gain.high) == pytest.approx((low, high), abs=1e-3)
    assert gain.low > 0
    apart = estimate(mean_of_individuals(candidate)), estimate(mean_of_individuals(live))
    assert apart[0].low < apart[1].high
    swapped = difference(mean_of_individuals(live), mean_of_individuals(candidate))
    assert (swapped.low, swapped.high) == pytest.approx((-gain.high, -gain.low))


def test_a_gain_that_one_animal_makes_is_no_gain() -> None:
    live, candidate = np.full(60, 0.5), np.full(60, 0.5)
    candidate[7] = 1.0
    gain = difference(mean_of_individuals(candidate), mean_of_individuals(live))
    assert gain.value > 0 > gain.low


def test_the_same_matcher_is_not_better_than_itself() -> None:
    live = mean_of_individuals(np.random.default_rng(0).random(60))
    gain = difference(live, live)
    assert gain.low < gain.value == 0 < gain.high


def test_only_the_same_individuals_are_compared_in_pairs() -> None:
    with pytest.raises(ValueError, match="3 and 4 individuals"):
        difference(mean_of_individuals(np.ones(3)), mean_of_individuals(np.ones(4)))


def test_draws_are_shared_and_cannot_be_spoilt() -> None:
    weights = drawn_weights(30, 100, 0)
    assert weights is drawn_weights(30, 100, 0)
    assert np.all(weights.sum(axis=1) == 30)
    with pytest.raises(ValueError, match="read-only"):
        weights[0, 0] = 1


def test_one_trial_an_individual_is_plain_clopper_pearson() -> None:
    events = np.zeros(200, dtype=np.int64)
    events[:9] = 1
    figure = clustered_rate(events, np.ones(200, dtype=np.int64))
    assert (figure.low, figure.high) == pytest.approx(clopper_pearson(9, 200), abs=6e-4)


def test_individuals_whose_trials_all_end_alike_count_once() -> None:
    events = np.zeros(200, dtype=np.int64)
    events[:9] = 10
    figure = clustered_rate(events, np.full(200, 10))
    assert (figure.low, figure.high) == pytest.approx(clopper_pearson(9, 200), abs=6e-4)
    assert (figure.n, figure.individuals) == (2000, 200)


def test_clusters_that_tell_nothing_apart_count_every_trial_less_what_their_number_leaves_open() -> None:
    rng = np.random.default_rng(0)
    events = rng.binomial(20, 0.2, 100)
    figure = clustered_rate(events, np.full(100, 20))
    plain = clopper_pearson(int(events.sum()), 2000)
    assert figure.low <= plain[0]
    assert figure.high >= plain[1]
    assert figure.high - figure.low < 1.3 * (plain[1] - plain[0])


def test_a_rate_without_an_event_is_bounded_by_the_individuals_not_by_their_trials() -> None:
    figure = clustered_rate(np.zeros(50, dtype=np.int64), np.full(50, 1000))
    assert (figure.low, figure.high) == (0, pytest.approx(clopper_pearson(0, 50)[1]))
    assert np.isnan(clustered_rate(np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)).value)
    with pytest.raises(ValueError, match="more events than trials"):
        clustered_rate(np.array([2]), np.array([1]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    individuals=st.integers(1, 40),
    chance=st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]),
)
def test_intervals_hold_the_figure_stay_in_range_and_ignore_the_order(
    seed: int, individuals: int, chance: float
) -> None:
    rng = np.random.default_rng(seed)
    trials = rng.integers(0, 9, individuals)
    events = rng.binomial(trials, chance)
    order = rng.permutation(individuals)
    for figure, other in (
        (estimate(ratio(events, trials), draws=400), estimate(ratio(events[order], trials[order]), draws=400)),
        (clustered_rate(events, trials), clustered_rate(events[order], trials[order])),
    ):
        assert 0 <= figure.low <= figure.high <= 1
        if trials.sum():
            assert figure.low <= figure.value <= figure.high
            assert figure.value == pytest.approx(other.value)
            # Draws of other individuals differ by chance: 400 of them tell a width to about a tenth.
            assert figure.high - figure.low == pytest.approx(other.high - other.low, rel=0.5, abs=0.02)
