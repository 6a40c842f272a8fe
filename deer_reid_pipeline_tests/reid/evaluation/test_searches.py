"""Searches against the matcher itself: `score_individuals` with a gallery rebuilt for every query."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deer_reid_pipeline.reid.evaluation.searches import search
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import V1_POLICY, Gallery, MatchPolicy, score_individuals
from deer_reid_pipeline.reid.similarity import VectorSet
from deer_reid_pipeline_tests.reid.evaluation.open_set import (
    FOLDED,
    asked,
    gallery_entry,
    permuted,
    pictured,
    scored,
    wild_herd,
)

ONE = FittedPolicy(policy=MatchPolicy(weights={"multiscale": 1.0}, threshold=0.8, new_below=0.4))
PICTURES = FittedPolicy(policy=V1_POLICY.model_copy(update={"weights": {"multiscale": 0.7, "efficientnet": 0.3}}))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([FOLDED, PICTURES]), st.sampled_from([2, 6]))
def test_scores_are_those_of_the_matcher(seed: int, fitted: FittedPolicy, individuals: int) -> None:
    data = wild_herd(seed, individuals)  # two have more pictures of a viewpoint than may stand for them
    found = search(data, fitted)
    kind = fitted.policy.gallery
    assert sorted(np.concatenate(found.rows)) == list(range(len(data)))
    for at, rows in enumerate(found.rows):
        own = found.individual[at]
        earlier = np.flatnonzero(
            (data.individual == own) & (data.encounter < data.encounter[rows[0]]) & (data.burst != data.burst[rows[0]])
        )
        gallery = Gallery(
            [
                gallery_entry(data, np.flatnonzero(data.individual == code), code, kind)
                for code in np.unique(data.individual).tolist()
                if code != own
            ]
        )
        if len(earlier):
            gallery.add(gallery_entry(data, earlier, own, kind))
        policy = fitted.judging(int(fitted.folds_of(list(data.names))[own]))
        expected = np.full(data.individuals, np.nan)
        for known, score in zip(
            gallery.individuals, score_individuals(asked(data, rows), gallery, policy), strict=True
        ):
            expected[known.key] = score
        np.testing.assert_allclose(found.scores[at], expected, atol=2e-6, equal_nan=True)
        met = np.any((data.individual == own) & (data.encounter < data.encounter[rows[0]]))
        assert found.first[at] == (not met)
        assert found.only_burst[at] == (met and len(earlier) == 0)


def test_a_picture_policy_searches_every_picture_by_itself() -> None:
    data = wild_herd(1)
    assert len(search(data, PICTURES)) == len(data)
    assert len(search(data, FOLDED)) == data.encounters


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_rank_and_best_are_counted_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 4, (12, 5)) / 4
    matrix[rng.random(matrix.shape) < 0.3] = np.nan
    who = rng.integers(0, 5, 12)
    found = scored(who, matrix)
    for row in range(12):
        mate = matrix[row, who[row]]
        others = {code: matrix[row, code] for code in range(5) if code != who[row] and not np.isnan(matrix[row, code])}
        assert found.candidates[row] == len(others)
        assert found.best_nonmate[row] == pytest.approx(max(others.values(), default=np.nan), nan_ok=True)
        if others:
            assert others[found.best_nonmate_individual[row]] == max(others.values())
        else:
            assert found.best_nonmate_individual[row] == -1
        rank = 0 if np.isnan(mate) else 1 + sum(value >= mate for value in others.values())
        assert found.mate_rank[row] == rank


def test_a_tie_with_another_individual_counts_against_the_mate() -> None:
    found = search(pictured([(0, 0, 0), (1, 1, 0), (0, 2, 0)]), ONE)
    assert found.mate_rank.tolist() == [0, 0, 2]


def test_later_pictures_stand_for_others_but_not_for_the_own_individual() -> None:
    found = search(pictured([(0, 0, 0), (0, 1, 30), (1, 2, 45)]), ONE)
    assert np.isnan(found.mate_score[0])
    assert found.best_nonmate[0] == pytest.approx(np.cos(np.deg2rad(45)), abs=1e-6)
    assert found.mate_score[1] == pytest.approx(np.cos(np.deg2rad(30)), abs=1e-6)


def test_burst_neighbours_are_no_mates_but_others_of_the_burst_are_impostors() -> None:
    data = pictured([(0, 0, 50), (0, 1, 0), (1, 2, 0), (0, 3, 0)], burst=[0, 1, 1, 1])
    found = search(data, ONE)
    assert found.mate_score[3] == pytest.approx(np.cos(np.deg2rad(50)), abs=1e-6)
    assert found.best_nonmate[3] == pytest.approx(1.0, abs=1e-6)
    assert found.first.tolist() == [True, False, True, False]


def test_an_animal_known_only_by_burst_neighbours_is_neither_new_nor_returning() -> None:
    data = pictured([(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), (1, 4, 90)], burst=[0, 0, 0, 1, 2])
    found = search(data, ONE)
    assert found.first.tolist() == [True, False, False, False, True]
    assert found.only_burst.tolist() == [False, True, True, False, False]
    assert found.mated.tolist() == [False, False, False, True, False]
    assert found.non_mated.all()
    assert found.only(found.only_burst).only_burst.tolist() == [True, True]


def test_an_encounter_of_two_animals_is_two_searches() -> None:
    found = search(pictured([(0, 0, 0), (1, 0, 90), (1, 1, 90)]), ONE)
    assert found.individual.tolist() == [0, 1, 1]
    assert found.encounter.tolist() == [0, 0, 1]


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_changes_nothing(seed: int) -> None:
    data = wild_herd(seed)
    order = np.random.default_rng(seed).permutation(len(data))
    one, other = search(data, FOLDED), search(permuted(data, order), FOLDED)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6, equal_nan=True)
    for rows, again in zip(one.rows, other.rows, strict=True):
        assert sorted(rows) == sorted(order[again])


def test_one_individual_has_no_non_mated_search_and_strangers_no_mate() -> None:
    alone = search(pictured([(0, 0, 0), (0, 1, 10)], names=3), ONE)
    assert not alone.non_mated.any()
    assert (alone.gallery_size, alone.best_nonmate_individual.tolist()) == (0, [-1, -1])
    strangers = search(pictured([(0, 0, 0), (1, 1, 10), (2, 2, 20)]), ONE)
    assert not strangers.mated.any()
    assert strangers.first.all()
    assert strangers.gallery_size == 2


def test_nothing_labelled_is_no_search() -> None:
    nothing = pictured([(0, 0, 0)]).rows(np.zeros(1, dtype=bool))
    found = search(nothing, ONE)
    assert (len(found), found.gallery_size) == (0, 0)


def test_a_missing_branch_and_a_second_recipe_are_refused() -> None:
    data = pictured([(0, 0, 0), (1, 1, 10)])
    with pytest.raises(ValueError, match="efficientnet"):
        search(data, FittedPolicy(policy=MatchPolicy(threshold=0.9, new_below=0.2)))
    mixed = {**data.vectors, "efficientnet": VectorSet("s", "efficientnet", data.vectors["multiscale"].vectors)}
    with pytest.raises(ValueError, match="more than one recipe"):
        replace(data, vectors=mixed)


def test_chosen_searches_keep_their_gallery() -> None:
    found = search(wild_herd(3), FOLDED)
    first = found.only(found.first)
    assert len(first) == int(found.first.sum())
    assert (first.gallery_size, first.individuals) == (found.gallery_size, found.individuals)
    np.testing.assert_array_equal(first.scores, found.scores[found.first])
