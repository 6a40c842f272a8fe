"""Cosine similarity between vectors that may be compared, and its weighted fusion.

Vectors carry the recipe and branch that made them. Two different recipes span unrelated spaces, so a comparison
between them raises instead of returning a number that looks like a similarity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.errors import RecipeMismatchError

FloatArray = NDArray[np.float32]

BASELINE, MULTISCALE, EFFICIENTNET = "baseline", "multiscale", "efficientnet"
BRANCHES = (BASELINE, MULTISCALE, EFFICIENTNET)
"""The three vectors of a detection: v1, v2 and the second half of the v3 ensemble."""

FIRST_NETWORK = (BASELINE, MULTISCALE)
"""Those that come out of one network, and are always made together; the other one is the second network's."""

UNIT_NORM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class VectorSet:
    """Unit vectors of one recipe and one branch.

    Attributes:
        recipe_id: the recipe that made every row.
        branch: baseline, multiscale or efficientnet.
        vectors: float32, shape (n, d), each row of unit norm.
    """

    recipe_id: str
    branch: str
    vectors: FloatArray

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2:
            raise ValueError(f"vectors must be 2-D (n, d), got shape {self.vectors.shape}")

    def __len__(self) -> int:
        return len(self.vectors)


def cosine_matrix(queries: VectorSet, gallery: VectorSet) -> FloatArray:
    """Cosine of every query with every gallery vector.

    Returns:
        float32, shape (n_queries, n_gallery), values in [-1, 1].

    Raises:
        RecipeMismatchError: the two sets come from different recipes or branches.
    """
    if queries.recipe_id != gallery.recipe_id:
        raise RecipeMismatchError(
            f"vectors of recipe {queries.recipe_id} cannot be compared with vectors of {gallery.recipe_id}: "
            "re-embed one side with `deer-reid reembed`"
        )
    if queries.branch != gallery.branch:
        raise RecipeMismatchError(
            f"vectors of branch {queries.branch} cannot be compared with vectors of {gallery.branch}"
        )
    return np.clip(queries.vectors @ gallery.vectors.T, -1.0, 1.0)


def fuse(similarities: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
    """Weighted sum of similarity matrices, the owner's ensemble rule (0.6 multiscale + 0.4 efficientnet).

    Args:
        similarities: branch -> matrix; all of one shape.
        weights: branch -> weight; branches with weight 0 need no matrix.

    Raises:
        ValueError: a weighted branch has no matrix, or shapes differ.
    """
    used = {branch: weight for branch, weight in weights.items() if weight != 0.0}
    missing = sorted(set(used) - set(similarities))
    if missing:
        raise ValueError(f"no similarities for branch {', '.join(missing)}")
    if not used:
        raise ValueError("all fusion weights are zero")
    matrices = [np.float32(weight) * similarities[branch] for branch, weight in sorted(used.items())]
    if len({matrix.shape for matrix in matrices}) != 1:
        raise ValueError("similarity matrices of the branches differ in shape")
    return np.sum(matrices, axis=0, dtype=np.float32)


def unit(vectors: FloatArray) -> FloatArray:
    """Scale rows to unit L2 norm; float32, same shape.

    Raises:
        ValueError: a row is zero or not finite, so that it has no direction.
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0.0):
        raise ValueError("a vector is zero or not finite and has no direction")
    return (vectors / norms).astype(np.float32)
