"""Similarity of labelled detections, a block of query rows at a time.

The similarity of 11,570 detections to each other has 134 million values; nothing here ever holds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled, Mask
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import flank_signs, fused_similarity
from deer_reid_pipeline.reid.similarity import FloatArray, VectorSet, cosine_matrix

Block = Callable[[Ints], FloatArray]
"""Query rows, int (m,), to their similarity to all rows; float32 (m, n), values in -1 to 1."""

BLOCK_ROWS = 256

SAME, CROSS = "same", "cross"
"""Which flanks are compared: all but opposite ones, or opposite ones only."""


def row_blocks(n: int, size: int = BLOCK_ROWS) -> Iterator[Ints]:
    """The rows 0 to n - 1 in order, at most `size` at a time; int64 arrays.

    Raises:
        ValueError: size is below one.
    """
    if size < 1:
        raise ValueError(f"a block has at least one row, not {size}")
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n), dtype=np.int64)


def branch_blocks(labelled: Labelled, branch: str) -> Block:
    """Cosine similarity in one branch.

    Raises:
        KeyError: the detections carry no vectors of this branch.
    """
    gallery = labelled.vectors[branch]

    def block(rows: Ints) -> FloatArray:
        return cosine_matrix(_take(gallery, rows), gallery)

    return block


def fused_blocks(labelled: Labelled, fitted: FittedPolicy) -> Block:
    """Fused similarity, each query row scored with the policy that was fitted without its individual.

    The similarity of rows i and j is that of i as the query; it differs from that of j as the query where the two
    individuals are in different folds.

    Raises:
        KeyError: the detections carry no vectors of a branch that a policy needs.
    """
    fold = fitted.folds_of(list(labelled.names))[labelled.individual]
    policies = {number: fitted.judging(number) for number in np.unique(fold).tolist()}
    needed = sorted({branch for policy in policies.values() for branch in policy.branches})
    cosines = {branch: branch_blocks(labelled, branch) for branch in needed}

    def block(rows: Ints) -> FloatArray:
        similarities = {branch: cosine(rows) for branch, cosine in cosines.items()}
        folds = np.unique(fold[rows]).tolist()
        if len(folds) == 1:
            return fused_similarity(similarities, policies[folds[0]])
        fused = np.empty((len(rows), len(labelled)), dtype=np.float32)
        for number in folds:
            here = np.flatnonzero(fold[rows] == number)
            fused[here] = fused_similarity({b: matrix[here] for b, matrix in similarities.items()}, policies[number])
        return fused

    return block


def never_compared(labelled: Labelled, flank: str) -> Callable[[Ints], Mask | None]:
    """Which pairs the protocol leaves out because of the flanks that they show, or the compartments they lie in.

    Args:
        flank: "same" leaves out opposite flanks, "cross" everything else.

    Returns:
        Query rows, int (m,), to bool (m, n), or None where every pair is compared.

    Raises:
        ValueError: flank is neither.
    """
    if flank not in (SAME, CROSS):
        raise ValueError(f"flank is {SAME} or {CROSS}, not {flank}")
    signs = flank_signs(labelled.viewpoints)
    compartment = labelled.compartment if labelled.divided else None
    both_flanks = bool(np.any(signs > 0) and np.any(signs < 0))
    all_compared = flank == SAME and not both_flanks and compartment is None

    def left_out(rows: Ints) -> Mask | None:
        if all_compared:
            return None
        opposite: Mask = np.multiply.outer(signs[rows], signs) < 0
        barred: Mask = opposite if flank == SAME else ~opposite
        if compartment is not None:
            barred |= compartment[rows][:, None] != compartment
        return barred

    return left_out


def mates(labelled: Labelled, rows: Ints, columns: Ints, *, leaky: bool) -> Mask:
    """Which of these pairs of one individual's rows are true pairs, flanks aside; bool (len(rows), len(columns)).

    Pairs of one burst are no evidence of recognition (same light, same pose, same place) and are left out. With
    `leaky` they count, as they do where pictures are split at random; a row is never its own mate.
    """
    if leaky:
        return rows[:, None] != columns[None, :]
    return labelled.burst[rows][:, None] != labelled.burst[columns][None, :]


def _take(vectors: VectorSet, rows: Ints) -> VectorSet:
    return VectorSet(vectors.recipe_id, vectors.branch, vectors.vectors[rows])
