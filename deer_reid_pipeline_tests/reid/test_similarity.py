"""Cosine and fusion against hand-worked numbers, and the refusal to compare two recipes."""

import numpy as np
import pytest

from deer_reid_pipeline.errors import RecipeMismatchError
from deer_reid_pipeline.reid.similarity import VectorSet, cosine_matrix, fuse, unit


def vectors(rows: list[list[float]], recipe: str = "a", branch: str = "baseline") -> VectorSet:
    return VectorSet(recipe, branch, unit(np.array(rows, dtype=np.float32)))


def test_cosine_of_known_angles() -> None:
    found = cosine_matrix(vectors([[1, 0], [1, 1]]), vectors([[1, 0], [0, 2], [-3, 0]]))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[1, 0, -1], [half, half, -half]], atol=1e-6)


def test_two_recipes_are_never_compared() -> None:
    with pytest.raises(RecipeMismatchError, match="recipe a cannot be compared with vectors of b"):
        cosine_matrix(vectors([[1, 0]]), vectors([[1, 0]], recipe="b"))


def test_two_branches_are_never_compared() -> None:
    with pytest.raises(RecipeMismatchError, match="branch"):
        cosine_matrix(vectors([[1, 0]]), vectors([[1, 0]], branch="multiscale"))


def test_fusion_is_the_owners_weighted_sum() -> None:
    a, b = np.array([[0.5, 1.0]], np.float32), np.array([[0.25, -1.0]], np.float32)
    fused = fuse({"multiscale": a, "efficientnet": b}, {"multiscale": 0.6, "efficientnet": 0.4})
    np.testing.assert_allclose(fused, [[0.4, 0.2]], atol=1e-6)


def test_a_branch_of_weight_zero_is_not_needed() -> None:
    a = np.array([[0.5]], np.float32)
    np.testing.assert_allclose(fuse({"multiscale": a}, {"multiscale": 1.0, "efficientnet": 0.0}), a)


@pytest.mark.parametrize(
    ("matrices", "weights"),
    [
        ({}, {"multiscale": 1.0}),
        ({"multiscale": np.zeros((1, 1), np.float32)}, {"multiscale": 0.0}),
        ({"a": np.zeros((1, 1), np.float32), "b": np.zeros((1, 2), np.float32)}, {"a": 1.0, "b": 1.0}),
    ],
)
def test_fusion_refuses_what_makes_no_sense(matrices: dict, weights: dict) -> None:
    with pytest.raises(ValueError):
        fuse(matrices, weights)


@pytest.mark.parametrize("row", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_vector_without_direction_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="direction"):
        unit(np.array([row], np.float32))
