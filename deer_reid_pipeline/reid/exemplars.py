"""Which detections stand for an individual.

One "best picture" loses the other flank and every other pose, and all pictures make the gallery grow for ever and
favour the most photographed animal. A few well-spread pictures a viewpoint are kept instead.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from deer_reid_pipeline.reid.similarity import FloatArray

PER_VIEWPOINT = 5


def choose_exemplars(
    keys: Sequence[Hashable],
    vectors: FloatArray,
    viewpoints: Sequence[str | None],
    by_person: Sequence[bool],
    per_viewpoint: int = PER_VIEWPOINT,
) -> list[int]:
    """Choose well-spread detections for each viewpoint of one individual.

    Farthest-first traversal (Gonzalez 1985, the 2-approximation of k-centre) from the medoid, so the result does
    not depend on the order of the rows. Where a person has named detections of a viewpoint, only those stand for
    it: a machine's match never displaces or adds to human evidence.

    Args:
        keys: identify the detections; break ties, so they must sort the same way every time.
        vectors: float32, shape (n, d), unit rows.
        viewpoints: left, right, front, back or None, one a row.
        by_person: whether a person gave the identity, one a row.

    Returns:
        Row indices, ascending.
    """
    chosen: list[int] = []
    for viewpoint in sorted(set(viewpoints), key=str):
        rows = [index for index, value in enumerate(viewpoints) if value == viewpoint]
        human = [index for index in rows if by_person[index]]
        rows = sorted(human or rows, key=lambda index: str(keys[index]))
        chosen += _spread(rows, vectors, per_viewpoint)
    return sorted(chosen)


def _spread(rows: list[int], vectors: FloatArray, count: int) -> list[int]:
    if len(rows) <= count:
        return rows
    points = vectors[rows].astype(np.float64)
    similarity = points @ points.T
    picked = [int(np.argmax(similarity.sum(axis=1).round(9)))]
    closest = similarity[picked[0]].copy()
    while len(picked) < count:
        following = int(np.argmin(closest.round(9)))
        picked.append(following)
        closest = np.maximum(closest, similarity[following])
    return [rows[index] for index in picked]


def mean_direction(vectors: FloatArray) -> FloatArray:
    """The unit vector of the mean of unit vectors; shape (d,).

    Raises:
        ValueError: the vectors cancel out, so that their mean has no direction.
    """
    mean = vectors.astype(np.float64).mean(axis=0)
    norm = float(np.linalg.norm(mean))
    if not np.isfinite(norm) or norm < 1e-12:
        raise ValueError("the vectors cancel out: their mean has no direction")
    return (mean / norm).astype(np.float32)
