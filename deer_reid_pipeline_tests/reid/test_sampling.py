"""The sample of matches to review: known chances, no bias, and intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deer_reid_pipeline.reid.sampling import (
    Candidate,
    draw,
    false_match_rate,
    inclusion_probabilities,
    number_of,
    reviews_needed,
    risk_of,
)


def a_day(count: int, seed: int = 0) -> list[Candidate]:
    rng = np.random.default_rng(seed)
    return [Candidate(f"{seed}:{i}", float(rng.beta(1, 4)), i % 29 == 0) for i in range(count)]


def test_chances_are_a_uniform_and_a_risky_part_and_certain_for_flagged_ones() -> None:
    chance = inclusion_probabilities(
        np.array([0.0, 1.0, 3.0, 9.0]), np.array([False, False, False, True]), uniform=0.6, risky=0.8
    )
    assert chance == pytest.approx([0.2, 0.2 + 0.8 / 4, 0.2 + 0.8 * 3 / 4, 1.0])
    assert inclusion_probabilities(np.zeros(8), np.zeros(8, bool), 2, 2) == pytest.approx(np.full(8, 0.5))
    assert inclusion_probabilities(np.ones(3), np.zeros(3, bool), 10, 10) == pytest.approx(np.ones(3))
    assert len(inclusion_probabilities(np.zeros(0), np.zeros(0, bool))) == 0


@pytest.mark.parametrize(("risks", "uniform"), [([-1.0, 1.0], 1.0), ([float("nan"), 1.0], 1.0), ([1.0, 1.0], 0.0)])
def test_chances_that_cannot_be_are_refused(risks: list[float], uniform: float) -> None:
    with pytest.raises(ValueError):
        inclusion_probabilities(np.array(risks), np.zeros(2, bool), uniform)


def test_risk_is_highest_where_least_is_known() -> None:
    assert risk_of(0.5, 0.0, None) == 0.5
    assert risk_of(0.9, 0.0, None) == pytest.approx(0.3)
    assert risk_of(1.0, 0.0, None) == 0.0
    assert risk_of(None, 0.90, 0.90) == 1.0
    assert risk_of(None, 0.95, 0.90) == pytest.approx(math.exp(-1))
    assert risk_of(float("nan"), 0.95, 0.90) == pytest.approx(math.exp(-1))


def test_drawing_again_draws_the_same_and_order_does_not_matter() -> None:
    day = a_day(300)
    drawn = draw(day, "salt")
    assert draw(day, "salt") == drawn
    assert sorted(draw(day[::-1], "salt"), key=lambda d: d.key) == sorted(drawn, key=lambda d: d.key)
    assert {d.key for d in draw(day, "pepper")} != {d.key for d in drawn}
    flagged = {c.key for c in day if c.flagged}
    assert {d.key for d in drawn if d.stratum == "flagged"} == flagged
    assert all(d.inclusion_probability == 1.0 for d in drawn if d.stratum == "flagged")
    assert 10 < len(drawn) - len(flagged) < 40
    assert {d.stratum for d in draw([c for c in day[:9] if not c.flagged], "salt")} == {"every"}


def test_numbers_of_keys_are_even() -> None:
    numbers = np.array([number_of(str(i), "salt") for i in range(20_000)])
    assert (np.histogram(numbers, bins=20, range=(0, 1))[0] == pytest.approx(1000, abs=150)) is True
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


def test_matches_are_drawn_as_often_as_stated() -> None:
    day = a_day(60, 4)
    chances = inclusion_probabilities(np.array([c.risk for c in day]), np.array([c.flagged for c in day]))
    often = dict.fromkeys((c.key for c in day), 0)
    for salt in range(3000):
        for drawn in draw(day, str(salt)):
            often[drawn.key] += 1
    measured = np.array([often[c.key] for c in day]) / 3000
    assert np.abs(measured - chances).max() < 4.5 * np.sqrt(0.25 / 3000)


def test_the_estimate_is_unbiased_whatever_is_wrong() -> None:
    """Errors sit where the risk is, so that an unweighted mean of the reviewed ones would be far too high."""
    day = a_day(400, 9)
    risks = np.array([c.risk for c in day])
    wrong = risks + np.random.default_rng(1).normal(0, 0.1, len(day)) > 0.42
    by_key = dict(zip((c.key for c in day), wrong.tolist(), strict=True))
    truth = wrong.mean()
    totals, rates, naive = [], [], []
    for salt in range(4000):
        drawn = draw(day, f"s{salt}")
        inclusion = np.array([d.inclusion_probability for d in drawn])
        said = np.array([float(by_key[d.key]) for d in drawn])
        totals.append((said / inclusion).sum())
        naive.append(said.mean())
        if salt < 1000:
            rates.append(false_match_rate(inclusion, said, len(day)).value)
    error = np.std(totals) / len(totals) ** 0.5
    assert abs(np.mean(totals) - wrong.sum()) < 4 * error
    assert abs(np.mean(rates) - truth) < 4 * np.std(rates) / len(rates) ** 0.5 + 0.003
    assert np.mean(naive) > 1.3 * truth


def test_a_sample_of_everything_is_known_exactly() -> None:
    rate = false_match_rate(np.ones(10), np.array([1.0] * 3 + [0.0] * 7), 10)
    assert (rate.value, rate.low, rate.high) == (0.3, 0.3, 0.3)
    assert (rate.matches, rate.sampled, rate.reviewed, rate.wrong) == (10, 10, 10, 3)


def test_equal_weights_without_an_error_are_clopper_pearsons_interval() -> None:
    rate = false_match_rate(np.full(59, 1e-6), np.zeros(59), 10_000_000)
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(1 - 0.025 ** (1 / 59), rel=1e-3)


def test_half_of_a_small_population_says_more_than_a_sample_of_a_large_one() -> None:
    said = np.array([1.0] * 5 + [0.0] * 45)
    small = false_match_rate(np.full(50, 0.5), said, 100)
    large = false_match_rate(np.full(50, 0.001), said, 50_000)
    assert small.value == large.value == pytest.approx(0.1)
    assert small.high - small.low < 0.8 * (large.high - large.low)


def test_without_reviews_everything_is_possible() -> None:
    for inclusion, said, matches in (
        (np.zeros(0), np.zeros(0), 0),
        (np.zeros(0), np.zeros(0), 40),
        (np.full(5, 0.2), np.full(5, np.nan), 25),
    ):
        rate = false_match_rate(inclusion, said, matches)
        assert math.isnan(rate.value)
        assert (rate.low, rate.high, rate.reviewed) == (0.0, 1.0, 0)


def test_a_part_that_nobody_reviewed_may_be_anything() -> None:
    inclusion = np.array([1.0] * 10 + [0.1] * 9)
    only_flagged = np.array([1.0] * 5 + [0.0] * 5 + [np.nan] * 9)
    rate = false_match_rate(inclusion, only_flagged, 100)
    assert rate.low == pytest.approx(0.05)  # the 5 that were seen, of 100
    assert rate.high == pytest.approx(0.95)  # and the other 90, if all of them are wrong
    assert rate.reviewed == 10


def test_more_drawn_than_there_were_is_refused() -> None:
    with pytest.raises(ValueError, match="drawn from"):
        false_match_rate(np.full(5, 0.5), np.zeros(5), 4)
    with pytest.raises(ValueError, match="verdicts"):
        false_match_rate(np.full(5, 0.5), np.zeros(4), 10)


def test_reviews_needed_are_those_of_the_exact_interval() -> None:
    assert reviews_needed(0.0, 0.05) == 72  # 0.025 ** (1 / n) >= 0.95
    assert reviews_needed(0.05, 0.05) is None
    assert reviews_needed(float("nan"), 0.05) is None
    few, many = reviews_needed(0.01, 0.05), reviews_needed(0.03, 0.05)
    assert few is not None
    assert many is not None
    assert 72 < few < many
    assert reviews_needed(0.0499999, 0.05) is None


def _a_month(
    rng: np.random.Generator, matches: int, rate: float, slope: float, answered: float
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Samples of 30 days: errors come more often where the risk is (slope), and some flags find them."""
    inclusion, said, total, errors = [], [], 0, 0
    scale = np.exp(slope * np.random.default_rng(0).beta(1, 4, 4000)).mean()
    for _ in range(30):
        count = rng.poisson(matches) + 1
        risk = rng.beta(1, 4, count)
        wrong = rng.random(count) < np.minimum(rate * np.exp(slope * risk) / scale, 0.95)
        flagged = rng.random(count) < 0.02 + 0.2 * wrong
        chance = inclusion_probabilities(risk, flagged, 2.5, 2.5)
        drawn = rng.random(count) < chance
        verdicts = wrong[drawn].astype(float)
        verdicts[rng.random(len(verdicts)) > answered] = np.nan
        inclusion.append(chance[drawn])
        said.append(verdicts)
        total, errors = total + count, errors + int(wrong.sum())
    return np.concatenate(inclusion), np.concatenate(said), total, errors / total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("matches", "rate", "slope", "answered"),
    [
        (30, 0.02, 0, 1.0),
        (30, 0.05, 4, 1.0),
        (30, 0.05, 8, 1.0),
        (30, 0.15, 4, 1.0),
        (200, 0.03, 2, 1.0),
        (30, 0.1, 2, 0.7),
    ],
)
def test_intervals_cover_in_1000_worlds(matches: int, rate: float, slope: float, answered: float) -> None:
    rng = np.random.default_rng(2026)
    covered = 0
    for _ in range(1000):
        inclusion, said, total, truth = _a_month(rng, matches, rate, slope, answered)
        found = false_match_rate(inclusion, said, total)
        covered += found.low <= truth <= found.high
    assert 930 <= covered <= 970
