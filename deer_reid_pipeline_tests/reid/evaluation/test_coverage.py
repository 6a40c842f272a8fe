"""How often each kind of interval holds the truth: 1,000 made-up worlds each, in which the truth is known.

95 % is promised and 93 to 97 % asked for; chance alone moves a share of 1,000 worlds by 0.7 % (one standard error).
Individuals differ in their rates (beta-distributed, intraclass correlation `rho`) and in their number of pictures
(geometric, mean 11).
"""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from deer_reid_pipeline.reid.evaluation.estimates import (
    Estimate,
    clustered_rate,
    difference,
    estimate,
    mean_of_individuals,
    rate,
    ratio,
)
from deer_reid_pipeline.reid.evaluation.verification import verify
from deer_reid_pipeline_tests.reid.evaluation.made_up import given, labelled

WORLDS = 1000
Rng = np.random.Generator
World = Callable[[Rng], tuple[Estimate, float]]


def sizes(rng: Rng, individuals: int):
    return rng.geometric(1 / 11, individuals)


def rates(rng: Rng, mean: float, rho: float, individuals: int):
    return rng.beta(mean * (1 / rho - 1), (1 - mean) * (1 / rho - 1), individuals)


def rank1(mean: float, rho: float, individuals: int) -> World:
    """A mean over pictures; the truth is the mean rate, as it does not depend on the number of pictures."""

    def world(rng: Rng) -> tuple[Estimate, float]:
        trials = sizes(rng, individuals)
        right = rng.binomial(trials, rates(rng, mean, rho, individuals))
        return estimate(ratio(right, trials)), mean

    return world


def mean_precision(a: float, b: float, individuals: int) -> World:
    """A mean over individuals of values that are skewed like average precisions."""
    return lambda rng: (estimate(mean_of_individuals(rng.beta(a, b, individuals))), a / (a + b))


def paired(individuals: int) -> World:
    """The candidate rights 15 % of the misses of the live matcher and loses 5 % of its hits."""

    def world(rng: Rng) -> tuple[Estimate, float]:
        trials = sizes(rng, individuals)
        live = rng.binomial(trials, rates(rng, 0.6, 0.2, individuals))
        candidate = live + rng.binomial(trials - live, 0.15) - rng.binomial(live, 0.05)
        return difference(ratio(candidate, trials), ratio(live, trials)), 0.4 * 0.15 - 0.6 * 0.05

    return world


def clustered(mean: float, rho: float, individuals: int) -> World:
    def world(rng: Rng) -> tuple[Estimate, float]:
        trials = sizes(rng, individuals)
        return clustered_rate(rng.binomial(trials, rates(rng, mean, rho, individuals)), trials), mean

    return world


def independent(mean: float, trials: int) -> World:
    """Clopper-Pearson is conservative by construction, the more the fewer events: 98 to 99 % at 3 of 60. With a hundred
    events and more it is near what it promises."""
    return lambda rng: (rate(int(rng.binomial(trials, mean)), trials), mean)


def coverage(world: World) -> float:
    rng = np.random.default_rng(2026)
    held = 0
    for _ in range(WORLDS):
        figure, truth = world(rng)
        held += figure.low <= truth <= figure.high
    return held / WORLDS


@pytest.mark.slow
@pytest.mark.parametrize(
    "world",
    [
        pytest.param(rank1(0.8, 0.2, 30), id="ratio 0.80 of 30 individuals"),
        pytest.param(rank1(0.8, 0.2, 60), id="ratio 0.80 of 60 individuals"),
        pytest.param(rank1(0.95, 0.2, 60), id="ratio 0.95 of 60 individuals"),
        pytest.param(rank1(0.95, 0.2, 140), id="ratio 0.95 of 140 individuals"),
        pytest.param(mean_precision(3, 0.7, 30), id="mean 0.81 of 30 individuals"),
        pytest.param(mean_precision(3, 0.7, 60), id="mean 0.81 of 60 individuals"),
        pytest.param(mean_precision(0.3, 0.3, 60), id="mean 0.50 of 60 individuals, most near 0 or 1"),
        pytest.param(mean_precision(9, 0.5, 140), id="mean 0.95 of 140 individuals"),
        pytest.param(paired(30), id="paired difference of 30 individuals"),
        pytest.param(paired(140), id="paired difference of 140 individuals"),
        pytest.param(clustered(0.05, 0.1, 60), id="clustered rate 0.05 of 60 individuals"),
        pytest.param(clustered(0.05, 0.2, 140), id="clustered rate 0.05 of 140 individuals"),
        pytest.param(clustered(0.2, 0.2, 60), id="clustered rate 0.20 of 60 individuals"),
        pytest.param(independent(0.05, 3000), id="Clopper-Pearson 0.05 of 3000 trials"),
        pytest.param(independent(0.3, 500), id="Clopper-Pearson 0.30 of 500 trials"),
    ],
)
def test_an_interval_holds_the_truth_as_often_as_it_says(world: World, record_property: Callable) -> None:
    found = coverage(world)
    record_property("coverage", found)
    print(f"coverage {found:.3f}")
    assert 0.93 <= found <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("individuals", [30, 60])
def test_statistics_of_pairs_hold_the_truth_too(individuals: int, record_property: Callable) -> None:
    """Pairs depend on both of their animals: each has a tendency of its own to look like itself and like others.

    genuine = 0.16 + a_i + e, impostor = b_i + b_j + e, all normal, so that every truth has a closed form.
    """
    apart, own, other, noise = 0.16, 0.06, 0.04, 0.06
    genuine, impostor = np.hypot(own, noise), np.hypot(np.sqrt(2) * other, noise)
    rows = np.repeat(np.arange(individuals), 3)
    data = labelled(rows)
    same = rows[:, None] == rows[None, :]
    truths = {
        "roc_auc": stats.norm.cdf(apart / np.hypot(genuine, impostor)),
        "d_prime": apart / np.sqrt((genuine**2 + impostor**2) / 2),
        "fmr": stats.norm.sf(0.12 / impostor),
        "mean_genuine": apart,
        "eer": stats.norm.sf(apart / (genuine + impostor)),
    }
    rng = np.random.default_rng(2026)
    held = dict.fromkeys(truths, 0)
    for _ in range(WORLDS):
        like_itself, like_others = rng.normal(apart, own, individuals)[rows], rng.normal(0, other, individuals)[rows]
        errors = np.triu(rng.normal(0, noise, same.shape))
        matrix = np.where(same, like_itself[:, None], like_others[:, None] + like_others) + errors + errors.T
        result = verify(data, given(matrix))
        statistics = {
            "roc_auc": result.roc_auc,
            "d_prime": result.d_prime,
            "fmr": result.fmr_at(0.12),
            "mean_genuine": result.mean_genuine,
            "eer": result.eer,
        }
        for name, statistic in statistics.items():
            figure = estimate(statistic, draws=500)
            held[name] += figure.low <= truths[name] <= figure.high
    found = {name: count / WORLDS for name, count in held.items()}
    for name, share in found.items():
        record_property(name, share)
    print(found)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found
