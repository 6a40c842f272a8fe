"""How good an embedding is on individuals that it was not trained on: the figures of `reid.evaluation`, no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deer_reid_pipeline.reid.evaluation.blocks import branch_blocks
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.retrieval import retrieve
from deer_reid_pipeline.reid.similarity import FloatArray, VectorSet
from deer_reid_pipeline.training.dataset import Picture

STOPS_BY = "map_individual"
"""Figure that decides which epoch is kept: mAP, every animal counting once."""


def labelled_of(pictures: Sequence[Picture], vectors: Mapping[str, FloatArray], recipe: str) -> Labelled:
    """Pictures and their vectors as the evaluation takes them; encounters in the order of their names.

    Args:
        vectors: branch -> float32 [n, 512].
    """
    names = sorted({picture.individual for picture in pictures})
    who = {name: code for code, name in enumerate(names)}
    met = {name: code for code, name in enumerate(sorted({picture.encounter for picture in pictures}))}
    encounter = np.array([met[picture.encounter] for picture in pictures], dtype=np.int64)
    return Labelled(
        keys=[picture.key for picture in pictures],
        vectors={branch: VectorSet(recipe, branch, matrix) for branch, matrix in vectors.items()},
        individual=np.array([who[picture.individual] for picture in pictures], dtype=np.int64),
        encounter=encounter,
        burst=encounter,
        viewpoints=[picture.flank or None for picture in pictures],
        names=names,
        sexes=["unknown"] * len(pictures),
    )


def ranking(labelled: Labelled, branch: str) -> dict[str, float]:
    """rank1, rank5, map and map_individual of one branch; NaN where no animal was seen in two encounters."""
    found = retrieve(labelled, branch_blocks(labelled, branch))
    return {name: found.statistic(name).value for name in ("rank1", "rank5", "map", STOPS_BY)}
