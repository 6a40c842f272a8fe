"""The pairs that a person should look at first: different animals that look alike, and animals not recognised."""

from __future__ import annotations

import numpy as np

from deer_reid_pipeline.reid.evaluation.blocks import Block, never_compared, row_blocks
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.evaluation.pair_scores import PairScores

EXAMPLES = 12
"""Worst false matches and worst misses that are kept."""

Pair = tuple[int, int, float]
"""Row of the query, row of what it was compared with, score."""


def worst_false(labelled: Labelled, block: Block, pairs: PairScores, flank: str) -> tuple[Pair, ...]:
    """Highest-scoring pairs of different individuals, one for each two individuals, highest first.

    No individual stands in more than two of them, or one look-alike would fill the list.
    """
    directed = pairs.best_impostor
    found = np.argwhere(np.triu(np.maximum(directed, directed.T), 1) > 0)
    highest = np.maximum(directed, directed.T)[found[:, 0], found[:, 1]]
    left_out = never_compared(labelled, flank)
    worst: list[Pair] = []
    for first, second in _each_twice(found[np.argsort(-highest, kind="stable")]):
        if directed[second, first] > directed[first, second]:
            first, second = second, first
        rows = np.flatnonzero(labelled.individual == first)
        others = np.flatnonzero(labelled.individual == second)
        best: Pair | None = None
        for chunk in row_blocks(len(rows)):
            scores = block(rows[chunk])
            barred = left_out(rows[chunk])
            if barred is not None:
                scores = np.where(barred, -np.inf, scores)
            at, column = np.unravel_index(np.argmax(scores[:, others]), (len(chunk), len(others)))
            score = float(scores[at, others[column]])
            if best is None or score > best[2]:
                best = (int(rows[chunk][at]), int(others[column]), score)
        if best is not None:
            worst.append(best)
    return tuple(sorted(worst, key=lambda pair: -pair[2]))


def worst_missed(labelled: Labelled, pairs: PairScores) -> tuple[Pair, ...]:
    """Queries whose best mate scores lowest, with that mate, lowest first; no individual more than twice."""
    rows, others, scores = pairs.best_mates
    worst: list[Pair] = []
    times: dict[int, int] = {}
    told: set[frozenset[int]] = set()
    for place in np.argsort(scores, kind="stable").tolist():
        row, other = int(rows[place]), int(others[place])
        who = int(labelled.individual[row])
        if times.get(who, 0) == 2 or frozenset((row, other)) in told:
            continue
        times[who] = times.get(who, 0) + 1
        told.add(frozenset((row, other)))
        worst.append((row, other, float(scores[place])))
        if len(worst) == EXAMPLES:
            break
    return tuple(worst)


def _each_twice(ordered: Ints) -> list[tuple[int, int]]:
    """The first `EXAMPLES` pairs of individuals in which none stands more than twice."""
    times: dict[int, int] = {}
    chosen: list[tuple[int, int]] = []
    for first, second in ordered.tolist():
        if times.get(first, 0) == 2 or times.get(second, 0) == 2:
            continue
        times[first], times[second] = times.get(first, 0) + 1, times.get(second, 0) + 1
        chosen.append((first, second))
        if len(chosen) == EXAMPLES:
            break
    return chosen
