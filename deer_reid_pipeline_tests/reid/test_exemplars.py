"""Exemplars are spread, stable and never a machine's where a person spoke."""

import numpy as np
import pytest

from deer_reid_pipeline.reid.exemplars import choose_exemplars, mean_direction
from deer_reid_pipeline.reid.similarity import unit


def cloud(n: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32))


def test_few_are_all_kept() -> None:
    assert choose_exemplars(["a", "b"], cloud(2), [None, None], [False, False]) == [0, 1]


def test_each_viewpoint_has_its_own() -> None:
    views = ["left"] * 6 + ["right"] * 6
    chosen = choose_exemplars(list(range(12)), cloud(12), views, [False] * 12, per_viewpoint=2)
    assert [views[index] for index in chosen] == ["left", "left", "right", "right"]


def test_both_clusters_are_represented() -> None:
    rng = np.random.default_rng(1)
    east, north = np.eye(8)[0], np.eye(8)[1]
    rows = np.concatenate([east + rng.normal(0, 0.01, (9, 8)), north + rng.normal(0, 0.01, (1, 8))])
    chosen = choose_exemplars(list(range(10)), unit(rows.astype(np.float32)), [None] * 10, [False] * 10, 2)
    assert 9 in chosen
    assert min(chosen) < 9


def test_the_order_of_the_rows_does_not_matter() -> None:
    keys, vectors = [f"k{n:02d}" for n in range(20)], cloud(20, 3)
    forward = {keys[i] for i in choose_exemplars(keys, vectors, [None] * 20, [False] * 20)}
    shuffle = np.random.default_rng(4).permutation(20)
    moved = choose_exemplars([keys[i] for i in shuffle], vectors[shuffle], [None] * 20, [False] * 20)
    assert {keys[shuffle[i]] for i in moved} == forward


def test_a_machines_match_never_stands_beside_a_persons() -> None:
    chosen = choose_exemplars("abcd", cloud(4), ["left", "left", "left", "right"], [True, False, True, False])
    assert chosen == [0, 2, 3]


def test_mean_direction_of_two_axes() -> None:
    np.testing.assert_allclose(mean_direction(np.eye(2, dtype=np.float32)), [np.sqrt(0.5)] * 2, atol=1e-6)


def test_opposite_vectors_have_no_mean_direction() -> None:
    with pytest.raises(ValueError, match="cancel out"):
        mean_direction(np.array([[1, 0], [-1, 0]], np.float32))
