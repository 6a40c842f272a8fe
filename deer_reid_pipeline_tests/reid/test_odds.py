"""Odds of an identity: hand-worked posteriors, worlds whose exact posterior is known, and what must always hold."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from deer_reid_pipeline.reid.calibrators import Platt
from deer_reid_pipeline.reid.odds import Odds, bayes, fit_odds

# Log-odds ln 9 * s with a base rate of one half: the likelihood ratio of a score s is 9 ** s.
NINE = Odds(likelihood=Platt(slope=float(np.log(9)), intercept=0.0), base_rate=0.5, new=0.5)


def of_best(scores: np.ndarray, left_out: int = 0) -> float:
    """Probability of the candidate of the highest score."""
    return float(NINE.posterior(scores, left_out)[0][np.argmax(scores)])


def test_bayes_rule_by_hand() -> None:
    """Weights 0.25 * 9, 0.25 * 1 and 0.5 add up to 3."""
    known, new = NINE.posterior(np.array([1.0, 0.0]))
    assert known == pytest.approx([2.25 / 3, 0.25 / 3])
    assert new == pytest.approx(0.5 / 3)
    assert of_best(np.array([0.0, 1.0])) == pytest.approx(0.75)


def test_an_individual_that_cannot_be_compared_may_still_be_the_one() -> None:
    """Weights 9/6, 1/6, 1/6 and 1/2: a NaN counts like a score that says nothing."""
    known, new = NINE.posterior(np.array([np.nan, 1.0, 0.0]))
    assert known == pytest.approx(np.array([1, 9, 1]) / 14)
    assert new == pytest.approx(3 / 14)


def test_nobody_known_and_nobody_comparable() -> None:
    assert NINE.posterior(np.zeros(0))[1] == 1.0
    known, new = NINE.posterior(np.array([np.nan, np.nan]))
    assert (known.tolist(), new) == ([0.25, 0.25], 0.5)


def test_the_same_score_means_less_in_a_larger_gallery() -> None:
    """With all others at a likelihood ratio of 1: (9/2N) / (9/2N + (N-1)/2N + 1/2) = 9 / (2N + 8)."""
    for size in (1, 10, 165, 1000):
        scores = np.r_[1.0, np.zeros(size - 1)]
        assert of_best(scores) == pytest.approx(9 / (2 * size + 8))


def test_who_was_left_out_is_never_underestimated() -> None:
    scores = np.r_[0.9, np.linspace(0.4, -0.5, 50)]
    shown = scores[:10]
    assert of_best(shown, left_out=41) <= of_best(scores)
    assert of_best(shown) > 2 * of_best(scores)
    assert of_best(np.r_[0.9, np.full(50, 0.2)]) == pytest.approx(of_best(np.array([0.9, 0.2]), 49))


def test_overwhelming_evidence_stays_finite() -> None:
    sure = NINE.model_copy(update={"likelihood": Platt(slope=200.0, intercept=0.0), "lapse": 0.01})
    known, new = sure.posterior(np.array([0.9, -0.9, -0.8]))
    assert known[0] == pytest.approx(0.99 + 0.01 * 0.5 / 3, abs=1e-4)
    assert np.isfinite(known).all()
    assert 0 <= new <= 0.01


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 2.0), st.floats(-3, 3), st.floats(0, 0.2))
def test_what_holds_of_every_posterior(seed: int, slope: float, intercept: float, lapse: float) -> None:
    rng = np.random.default_rng(seed)
    curve = Platt(scale="probability", slope=slope, intercept=intercept)
    odds = NINE.model_copy(update={"best": curve, "new_if_wrong": curve, "lapse": lapse})
    scores = rng.uniform(-1, 1, int(rng.integers(1, 9)))
    scores[rng.random(len(scores)) < 0.2] = np.nan
    known, new = odds.posterior(scores)
    assert np.all((known >= 0) & (known <= 1))
    assert 0 <= new <= 1
    assert known.sum() + new <= 1 + 1e-9
    if not np.isfinite(scores).any():
        return
    best = int(np.nanargmax(scores))
    assert known.argmax() == best or known.max() == pytest.approx(known[best])
    order = rng.permutation(len(scores))
    np.testing.assert_allclose(odds.posterior(scores[order])[0], known[order])
    higher = scores.copy()
    higher[best] += 0.1
    assert odds.posterior(higher)[0][best] >= known[best]
    assert odds.posterior(np.append(scores, np.nanmin(scores)))[0][best] <= known[best]


def searches(
    seed: int, apart: float, count: int = 1500, size: int = 60, unknown: float = 0.3, hub: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores N(apart, 0.1) of the right individual and N(0, 0.1) of others, plus N(0, hub) for a whole search."""
    rng = np.random.default_rng(seed)
    individual = rng.integers(0, size, count)
    mate = np.where(rng.random(count) < unknown, -1, individual)
    scores = rng.normal(0, 0.1, (count, size))
    scores[np.arange(count), individual] += np.where(mate >= 0, apart, np.nan)
    return scores + rng.normal(0, hub, (count, 1)), mate, individual


def judged(odds: Odds, scores: np.ndarray, mate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(best is right), whether it is, and P(new), of searches without NaN but the own column of unknown animals."""
    said, right, new = [], [], []
    for row, true in zip(scores, mate, strict=True):
        columns = np.flatnonzero(np.isfinite(row))
        known, none = odds.posterior(row[columns])
        best = int(row[columns].argmax())
        said.append(known[best])
        right.append(columns[best] == true)
        new.append(none)
    return np.array(said), np.array(right), np.array(new)


def test_fitted_odds_are_the_exact_posterior_of_a_world_of_independent_scores() -> None:
    odds = fit_odds(*searches(0, 0.25))
    scores, mate, _ = searches(1, 0.25, count=400)
    said, _, new = judged(odds, scores, mate)
    exact_best, exact_new = [], []
    for row in scores:
        row = row[np.isfinite(row)]
        known, none = bayes((0.25 * row - 0.25**2 / 2) / 0.01, 0.3, len(row))
        exact_best.append(known.max())
        exact_new.append(none)
    assert np.abs(said - exact_best).mean() < 0.04
    assert np.abs(new - exact_new).mean() < 0.04


def test_an_easy_herd_is_named_with_confidence_but_not_beyond_what_was_checked() -> None:
    odds = fit_odds(*searches(2, 0.9, count=600, size=50))
    said, right, new = judged(odds, *searches(3, 0.9, count=300, size=50)[:2])
    assert right[said > 0.5].all()
    assert np.median(said[right]) > 0.97
    assert np.median(new[~right]) > 0.95
    assert said.max() <= 1 - odds.lapse * (1 - 0.7 / 50) + 1e-3
    assert odds.lapse == pytest.approx(1 / 51)  # one of the 50 never came back


def test_scores_without_information_leave_the_base_rate() -> None:
    odds = fit_odds(*searches(4, 0.0))
    said, _, new = judged(odds, *searches(5, 0.0)[:2])
    assert said.max() < 0.06
    assert said.mean() == pytest.approx(0.7 / 60, abs=0.01)
    assert np.abs(new - 0.3).max() < 0.1
    assert odds.posterior(np.r_[1.0, np.zeros(59)])[0][0] < 0.5  # far outside anything seen


@pytest.mark.parametrize("hub", [0.05, 0.15])
def test_searches_in_which_everybody_looks_alike_are_recalibrated(hub: float) -> None:
    """A common shift of all scores of a search breaks the independence that Bayes' rule assumes."""
    odds = fit_odds(*searches(6, 0.3, hub=hub))
    naive = Odds(likelihood=odds.likelihood, base_rate=odds.base_rate, new=odds.new)
    scores, mate, _ = searches(7, 0.3, hub=hub)
    said, right, new = judged(odds, scores, mate)
    raw = judged(naive, scores, mate)[0]

    def surprise(p: np.ndarray) -> float:
        return -float(np.mean(np.where(right, np.log(p), np.log(1 - p))))

    assert surprise(said) < surprise(raw)
    thirds = np.array_split(np.argsort(said), 3)
    off = [abs(np.array([said[part].mean(), raw[part].mean()]) - right[part].mean()) for part in thirds]
    assert max(recalibrated for recalibrated, _ in off) < 0.1
    assert max(naively for _, naively in off) > 0.1
    assert new.mean() == pytest.approx((mate < 0).mean(), abs=0.04)


def test_probabilities_hold_for_calibrated_scores_too() -> None:
    scores, mate, individual = searches(8, 0.3)
    odds = fit_odds(expit(20 * scores - 5), mate, individual, scale="probability")
    fresh, truth, _ = searches(9, 0.3)
    said, right, _ = judged(odds, expit(20 * fresh - 5), truth)
    reference = judged(fit_odds(scores, mate, individual), fresh, truth)[0]
    assert np.abs(said - reference).mean() < 0.03
    assert said.mean() == pytest.approx(right.mean(), abs=0.03)


def test_mates_on_the_other_flank_and_empty_columns() -> None:
    """A quarter of all comparisons is impossible: a low best score then leaves a hidden mate as likely as it is."""
    scores, mate, individual = searches(10, 0.9)
    scores[np.random.default_rng(10).random(scores.shape) < 0.25] = np.nan
    odds = fit_odds(scores, mate, individual)
    low = np.r_[np.linspace(-0.2, 0.2, 45), np.full(15, np.nan)]
    exact = 0.3 / (0.3 + 0.7 * 15 / 60)
    assert odds.posterior(low)[1] == pytest.approx(exact, abs=0.08)
    assert odds.posterior(np.r_[0.9, low])[0][0] > 0.95
    empty = np.full((len(scores), 1), np.nan)
    assert fit_odds(np.c_[scores, empty], mate, individual) == odds


def test_odds_survive_json_exactly() -> None:
    odds = fit_odds(*searches(11, 0.2, count=300))
    again = Odds.model_validate(json.loads(json.dumps(odds.model_dump(mode="json"))))
    assert again == odds
    scores = np.linspace(-0.3, 0.3, 60)
    assert np.array_equal(again.posterior(scores)[0], odds.posterior(scores)[0])


def test_too_few_individuals_to_fit_on() -> None:
    scores, mate, individual = searches(12, 0.2, count=50)
    one = individual == individual[mate >= 0][0]
    with pytest.raises(ValueError, match="1 individuals"):
        fit_odds(scores[one], mate[one], individual[one])
    with pytest.raises(ValueError, match="0 individuals"):
        fit_odds(scores, np.full(50, -1), individual)
