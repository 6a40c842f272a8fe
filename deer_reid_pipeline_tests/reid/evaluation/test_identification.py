"""Open-set error rates against hand-worked cases, brute force and simulated herds whose true rates are known."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, estimate
from deer_reid_pipeline.reid.evaluation.identification import (
    det,
    fnir_at,
    fnir_at_fpir,
    fpir_at,
    fpir_at_size,
    fpir_of_individuals,
    fpir_statistic,
    project_fpir,
    threshold_for,
)
from deer_reid_pipeline.reid.evaluation.searches import Searches, search
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline_tests.reid.evaluation.open_set import scored, wild_herd

NAN = float("nan")
POLICY = FittedPolicy(policy=MatchPolicy(threshold=0.9, new_below=0.2))

BY_HAND = scored(
    [0, 0, 1, 2, 1],
    [
        [NAN, 0.50, 0.20],  # the first of 0
        [0.90, 0.60, 0.10],  # finds its mate
        [0.75, NAN, 0.30],  # the first of 1
        [NAN, NAN, 0.40],  # nobody else can be compared: only mated
        [0.80, 0.78, 0.10],  # its mate is second
    ],
)


def random_searches(seed: int, size: int = 60, individuals: int = 7) -> Searches:
    """Searches with ties, without mates, and with individuals that cannot be compared."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 12, (size, individuals)) / 12
    matrix[rng.random(matrix.shape) < 0.25] = np.nan
    return scored(rng.integers(0, individuals, size), matrix)


def fpir_by_hand(found: Searches, threshold: float, weights: np.ndarray | None = None) -> float:
    """Search by search."""
    weights = np.ones(found.individuals) if weights is None else weights
    false = total = 0.0
    for row in range(len(found)):
        others = [s for code, s in enumerate(found.scores[row]) if code != found.individual[row] and not np.isnan(s)]
        if others:
            total += weights[found.individual[row]]
            false += weights[found.individual[row]] * (max(others) >= threshold)
    return false / total if total else NAN


def fnir_by_hand(found: Searches, threshold: float, rank: int = 1, weights: np.ndarray | None = None) -> float:
    """Search by search."""
    weights = np.ones(found.individuals) if weights is None else weights
    missed = total = 0.0
    for row in range(len(found)):
        own = found.individual[row]
        mate = found.scores[row, own]
        if np.isnan(mate):
            continue
        ahead = sum(s >= mate for code, s in enumerate(found.scores[row]) if code != own and not np.isnan(s))
        total += weights[own]
        missed += weights[own] * (ahead >= rank or mate < threshold)
    return missed / total if total else NAN


def test_rates_worked_by_hand() -> None:
    assert BY_HAND.non_mated.tolist() == [True, True, True, False, True]
    assert fpir_statistic(BY_HAND, 0.65).value == pytest.approx(2 / 4)  # 0.75 and 0.80 of 0.50 0.60 0.75 0.80
    assert fpir_statistic(BY_HAND, 0.75).value == pytest.approx(2 / 4)  # at the threshold counts
    assert fnir_at(BY_HAND, 0.30).value == pytest.approx(1 / 3)  # the mate that is second
    assert fnir_at(BY_HAND, 0.30, rank=2).value == 0
    assert fnir_at(BY_HAND, 0.85).value == pytest.approx(2 / 3)
    # FPIR 25 %: 0.80 may be wrong, 0.75 not, so mates above 0.75 are found: one of three.
    assert fnir_at_fpir(BY_HAND, 0.25).value == pytest.approx(2 / 3)
    assert fnir_at_fpir(BY_HAND, 0.25, rank=2).value == pytest.approx(1 / 3)


def test_a_threshold_for_every_search() -> None:
    assert fpir_statistic(BY_HAND, np.array([0.5, 0.9, 0.9, 0.0, 0.9])).value == pytest.approx(1 / 4)
    assert fnir_at(BY_HAND, np.array([0.0, 0.85, 0.0, 0.41, 0.0])).value == pytest.approx(2 / 3)
    found = random_searches(1)
    assert fpir_at(found, np.full(len(found), 0.7)) == fpir_at(found, 0.7)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3]))
def test_the_det_curve_is_the_rates_at_every_threshold(seed: int, rank: int) -> None:
    found = random_searches(seed)
    curve = det(found, rank)
    assert (np.diff(curve.thresholds) > 0).all()
    for threshold, fpir, fnir in zip(curve.thresholds, curve.fpir, curve.fnir, strict=True):
        assert fpir == pytest.approx(fpir_by_hand(found, threshold))
        assert fnir == pytest.approx(fnir_by_hand(found, threshold, rank))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5, 1.0]))
def test_fnir_at_fpir_derives_its_threshold_in_every_draw(seed: int, bound: float) -> None:
    found = random_searches(seed)
    rng = np.random.default_rng(seed)
    draws = np.concatenate([np.ones((1, 7)), rng.multinomial(7, np.full(7, 1 / 7), 8), np.eye(7)[:2]]).astype(float)
    of = fnir_at_fpir(found, bound).of(draws)
    for weights, value in zip(draws, of, strict=True):
        expected = NAN
        if not np.isnan(fpir_by_hand(found, 0, weights)):
            allowed = [t for t in np.arange(-0.5, 13) / 12 if fpir_by_hand(found, t, weights) <= bound + 1e-9]
            expected = fnir_by_hand(found, min(allowed), weights=weights)
        assert value == pytest.approx(expected, nan_ok=True)


def test_without_mated_or_without_non_mated_searches_nothing_is_measured() -> None:
    strangers = scored([0, 1, 2], [[NAN, 0.1, 0.2], [0.1, NAN, 0.3], [0.1, 0.3, NAN]])
    assert (fnir_at(strangers, 0.5).n, fnir_at_fpir(strangers, 0.05).n) == (0, 0)
    assert math.isnan(estimate(fnir_at_fpir(strangers, 0.05)).value)
    alone = scored([0, 0], [[0.5], [0.7]])
    assert fpir_at(alone, 0.5) == Estimate(pytest.approx(NAN, nan_ok=True), 0.0, 1.0, 0, 0)
    assert threshold_for(alone, 0.05, 1) is None
    assert fnir_at_fpir(alone, 0.05).n == 0
    assert len(det(alone).thresholds) == 2


def test_a_rate_without_errors_counts_individuals_not_searches() -> None:
    who = np.repeat(np.arange(30), 10)
    matrix = np.full((300, 30), 0.1)
    found = fpir_at(scored(who, matrix), 0.5)
    assert (found.value, found.n, found.individuals) == (0.0, 300, 30)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 30))  # Clopper-Pearson, no event in 30


def one_event_each(found_in: list[int], individuals: int = 40, searches: int = 10) -> Searches:
    """The first search of the first individuals takes it for these individuals, wrongly."""
    matrix = np.full((individuals * searches, individuals), 0.1)
    for searched, found in enumerate(found_in):
        matrix[searched * searches, found] = 0.9
    return scored(np.repeat(np.arange(individuals), searches), matrix)


def test_errors_that_share_the_wrong_individual_are_dependent() -> None:
    spread = fpir_at(one_event_each([20, 21, 22, 23, 24, 25, 26, 27]), 0.5)
    one = fpir_at(one_event_each([20] * 8), 0.5)
    assert spread.value == one.value == pytest.approx(8 / 400)
    assert one.high > spread.high + 0.02
    # Eight independent errors in 400 searches are what they look like, up to the t correction of 40 individuals.
    effective = 400 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 39)) ** 2
    low, high = stats.beta.ppf(
        [0.025, 0.975],
        [8 / 400 * effective, 8 / 400 * effective + 1],
        [effective * 392 / 400 + 1, effective * 392 / 400],
    )
    assert spread.low == pytest.approx(low, rel=0.02)
    assert spread.high == pytest.approx(high, rel=0.02)


def test_errors_of_two_look_alikes_for_each_other_are_dependent() -> None:
    apart = fpir_at(one_event_each([20, 21, 22, 23]), 0.5)
    kin = fpir_at(one_event_each([1, 0, 3, 2]), 0.5)
    assert kin.high > apart.high + 0.005


def test_a_larger_gallery_is_bounded_and_equal_searches_reach_the_bound() -> None:
    alike = project_fpir(Estimate(1 - 0.99**50, 0.2, 0.5, 100, 20), 50, 150)
    assert alike.value == pytest.approx(1 - 0.99**150)
    assert (alike.low, alike.high) == (0.2, pytest.approx(1 - 0.5**3))
    rng = np.random.default_rng(0)
    chance = rng.beta(0.1, 5, 2000)  # most searches never err, some often
    for size in (20, 50, 51, 200, 1000):
        projected = project_fpir(Estimate(*[float(np.mean(1 - (1 - chance) ** 50))] * 3, 2000, 2000), 50, size)
        true = float(np.mean(1 - (1 - chance) ** size))
        assert projected.low - 1e-12 <= true <= projected.high + 1e-12
    assert project_fpir(alike, 50, 50) == alike
    with pytest.raises(ValueError, match="at least one"):
        project_fpir(alike, 50, 0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_a_smaller_gallery_is_the_mean_over_all_smaller_galleries(seed: int, size: int) -> None:
    found = random_searches(seed, size=20)
    shares = []
    for row in np.flatnonzero(found.non_mated):
        others = [code for code in range(7) if code != found.individual[row]]
        drawn = [any(found.scores[row, code] >= 0.8 for code in chosen) for chosen in combinations(others, size)]
        shares.append(np.mean(drawn))
    assert fpir_at_size(found, 0.8, size).value == pytest.approx(np.mean(shares) if shares else NAN, nan_ok=True)


def test_fpir_grows_with_the_gallery() -> None:
    found = random_searches(5, size=200)
    values = [fpir_at_size(found, 0.8, size).value for size in (1, 3, 6, 12, 100)]
    assert values == sorted(values)
    assert values[2] == pytest.approx(fpir_statistic(found, 0.8).value)
    assert values[3] == pytest.approx(1 - (1 - values[2]) ** 2)


def test_fifty_nine_individuals_without_error_are_needed_for_five_percent() -> None:
    def herd(individuals: int) -> Searches:
        rng = np.random.default_rng(0)
        return scored(np.arange(individuals), rng.uniform(0.2, 0.6, (individuals, individuals)))

    assert threshold_for(herd(58), 0.05, 57) is None
    claimed, few = threshold_for(herd(59), 0.05, 58), herd(59)
    assert claimed is not None
    assert claimed == pytest.approx(few.best_nonmate.max(), abs=1e-6)
    assert fpir_statistic(few, claimed).value == 0
    assert threshold_for(herd(59), 0.05, 59) is None  # one individual more is already more than can be claimed
    assert threshold_for(herd(59), 0.01, 58) is None


def test_many_searches_of_few_individuals_claim_no_more_than_the_individuals() -> None:
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(40), 50)
    assert threshold_for(scored(who, rng.uniform(0, 0.5, (2000, 40))), 0.05, 39) is None


def test_a_threshold_is_the_lowest_and_grows_with_what_is_asked() -> None:
    rng = np.random.default_rng(2)
    found = scored(np.repeat(np.arange(400), 2), rng.uniform(0, 0.9, (800, 400)))
    cuts = [threshold_for(found, bound, 399) for bound in (0.2, 0.1, 0.05, 0.02)]
    assert None not in cuts
    assert cuts == sorted(cuts)
    sizes = [threshold_for(found, 0.1, size) for size in (100, 399, 800, 2000)]
    assert sizes[0] == sizes[1] < sizes[2] < sizes[3]
    assert threshold_for(found, 0.1, 399, confidence=0.8) < threshold_for(found, 0.1, 399, confidence=0.99)
    assert 0.05 < fpir_statistic(found, cuts[1]).value < 0.1


def test_animals_that_look_exactly_the_same_allow_no_threshold() -> None:
    matrix = np.full((200, 200), 0.3)
    matrix[0, 1] = 1.0
    assert threshold_for(scored(np.arange(200), matrix), 0.01, 199) is None


@pytest.mark.parametrize(
    ("bound", "size", "confidence"), [(0.0, 5, 0.95), (1.0, 5, 0.95), (0.05, 0, 0.95), (0.05, 5, 0.5), (0.05, 5, 1.0)]
)
def test_claims_that_make_no_sense_are_refused(bound: float, size: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"must lie|at least one"):
        threshold_for(BY_HAND, bound, size, confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        fnir_at_fpir(BY_HAND, 1.5)
    with pytest.raises(ValueError, match="at least one"):
        fpir_at_size(BY_HAND, 0.5, 0)


def claims_that_fail(worlds: int, bound: float, attraction: float) -> int:
    """Herds whose highest non-mate scores are normal: a part of the searched, a part of the found individual."""
    failed = 0
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        own, other = rng.normal(size=(100, 1)), attraction * rng.normal(size=(1, 100))
        who = np.repeat(np.arange(100), 3)
        scores = 0.5 + 0.04 * (own[who] + other + rng.normal(size=(300, 100)))
        threshold = threshold_for(scored(who, scores), bound, 99)
        if threshold is None:
            continue
        # New animals and new galleries of the same kind, 99 independent individuals each.
        cut = (threshold - 0.5) / 0.04
        stranger, galleries = rng.normal(size=(200, 1, 1)), attraction * rng.normal(size=(10, 99))
        escapes = np.exp(stats.norm.logcdf(cut - stranger - galleries).sum(axis=2))
        failed += float(1 - escapes.mean()) > bound
    return failed


def test_the_claim_holds_on_new_individuals() -> None:
    # At most 5 % of the claims may fail; more than 6 of 60 do so in 3 of 100 tests, and this is always the same one.
    assert claims_that_fail(60, 0.10, attraction=0.0) <= 6


def test_the_claim_holds_where_some_animals_attract_errors() -> None:
    assert claims_that_fail(60, 0.10, attraction=0.7) <= 6


def test_a_threshold_fitted_on_one_half_of_a_herd_holds_on_the_other() -> None:
    held, missed = 0, []
    for split in range(20):
        data = wild_herd(split, individuals=160, encounters=500, noise=0.5)
        half = np.random.default_rng(split).permutation(160) < 80
        fitted, judged = search(data.of_individuals(half), POLICY), search(data.of_individuals(~half), POLICY)
        threshold = threshold_for(fitted, 0.05, judged.gallery_size)
        assert threshold is not None
        held += fpir_statistic(judged, threshold).value <= 0.05
        held += fpir_statistic(judged.only(judged.first), threshold).value <= 0.05
        missed.append(fnir_at(judged, threshold).value)
    assert held >= 38
    assert np.mean(missed) < 1


def test_every_individual_counts_once_however_often_it_is_searched() -> None:
    """Nine searches of one animal without a name, two of two others with one in one of three."""
    searched = [0] * 9 + [1, 1, 2]
    scores = [[NAN, 0.1, 0.1]] * 9 + [[0.9, NAN, 0.1], [0.1, NAN, 0.1], [0.1, 0.1, NAN]]
    found = scored(searched, scores)

    rate = fpir_of_individuals(found, 0.5)

    assert fpir_at(found, 0.5).value == pytest.approx(1 / 12)
    assert rate.value == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert (rate.n, rate.individuals) == (12, 3)
    assert 0 <= rate.low < rate.value < rate.high <= 1


def test_without_an_error_every_individual_is_one_trial() -> None:
    found = scored([0, 0, 0, 1], [[NAN, 0.1], [NAN, 0.1], [NAN, 0.1], [0.1, NAN]])

    assert fpir_of_individuals(found, 0.5).high == pytest.approx(1 - 0.025 ** (1 / 2))
    assert fpir_of_individuals(found, 0.1).value == 1.0
    assert fpir_of_individuals(scored([0], [[NAN]]), 0.5).n == 0
