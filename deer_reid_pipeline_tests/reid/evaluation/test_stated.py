"""Stated probabilities are those of the policy that did not see the animal, in the gallery of today."""

from __future__ import annotations

import numpy as np
import pytest

from deer_reid_pipeline.reid.evaluation.searches import Searches, searches_of
from deer_reid_pipeline.reid.evaluation.stated import stated
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.odds import Odds, fit_odds

POLICY = MatchPolicy(threshold=0.9, new_below=0.1)


def searches_in(
    scores: np.ndarray,
    individual: np.ndarray,
    first: np.ndarray,
    fold: np.ndarray,
    only_burst: np.ndarray | None = None,
) -> Searches:
    return searches_of(
        scores.astype(np.float32),
        encounter=np.arange(len(scores)),
        individual=individual,
        fold=fold,
        first=first,
        rows=tuple(np.array([row]) for row in range(len(scores))),
        gallery_size=scores.shape[1] - 1,
        only_burst=only_burst,
    )


def history(rng: np.random.Generator, animals: int = 40, each: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    individual = np.tile(np.arange(animals), each)
    scores = rng.normal(0.2, 0.1, (len(individual), animals))
    scores[np.arange(len(individual)), individual] += 0.25
    first = np.arange(len(individual)) < animals
    scores[first, individual[first]] = np.nan
    return scores.clip(-1, 1), individual, first


def some_odds(rng: np.random.Generator) -> Odds:
    scores, individual, first = history(rng)
    return fit_odds(scores, np.where(first, -1, individual), individual)


def test_probabilities_of_other_animals_come_true() -> None:
    rng = np.random.default_rng(0)
    odds = some_odds(rng)
    scores, individual, first = history(rng, animals=200)
    searches = searches_in(scores[:, :], individual, first, np.zeros(len(scores), dtype=np.int64))
    found = stated(searches, FittedPolicy(policy=POLICY.model_copy(update={"odds": odds})))
    assert found.probability.mean() == pytest.approx(found.right.mean(), abs=0.06)
    assert not found.right[first].any(), "nobody can be right about an animal that is not known"


def test_a_new_animal_is_searched_for_without_it() -> None:
    odds = some_odds(np.random.default_rng(1))
    scores = np.array([[np.nan, 0.4, 0.3]])
    searches = searches_in(scores, np.array([0]), np.array([True]), np.array([0]))
    found = stated(searches, FittedPolicy(policy=POLICY.model_copy(update={"odds": odds})))
    assert found.probability[0] == pytest.approx(odds.posterior(np.array([0.4, 0.3], dtype=np.float32))[0][0])
    assert not found.right[0]


def test_nothing_is_stated_of_an_animal_known_only_by_burst_neighbours() -> None:
    odds = some_odds(np.random.default_rng(1))
    scores, nobody = np.array([[np.nan, 0.4, 0.3]] * 2), np.zeros(2, dtype=np.int64)
    searches = searches_in(scores, nobody, np.array([True, False]), nobody, np.array([False, True]))
    found = stated(searches, FittedPolicy(policy=POLICY.model_copy(update={"odds": odds})))
    assert np.isfinite(found.probability).tolist() == [True, False]


def test_each_animal_is_judged_by_the_policy_without_it() -> None:
    rng = np.random.default_rng(2)
    one, other = some_odds(rng), some_odds(rng)
    scores = np.array([[0.5, 0.2], [0.2, 0.5]])
    searches = searches_in(scores, np.array([0, 1]), np.array([False, False]), np.array([0, 1]))
    fitted = FittedPolicy(
        policy=POLICY, without=(POLICY.model_copy(update={"odds": one}), POLICY.model_copy(update={"odds": other}))
    )
    found = stated(searches, fitted)
    expected = [
        item.posterior(np.array(row, dtype=np.float32))[0].max() for item, row in zip((one, other), scores, strict=True)
    ]
    assert found.probability == pytest.approx(expected)
    assert found.right.all()


def test_without_odds_nothing_is_stated() -> None:
    searches = searches_in(np.array([[0.5, 0.2]]), np.array([0]), np.array([False]), np.array([0]))
    assert not stated(searches, FittedPolicy(policy=POLICY)).any
