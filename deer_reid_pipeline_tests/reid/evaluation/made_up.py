"""Made-up labelled embeddings for tests of the metrics."""

import numpy as np

from deer_reid_pipeline.reid.evaluation.blocks import Block
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.similarity import FloatArray, VectorSet, unit

VIEWS = ["left", "right", "front", None]


def labelled(
    individual: list[int] | Ints,
    burst: list[int] | Ints | None = None,
    viewpoints: list[str | None] | None = None,
    vectors: FloatArray | None = None,
) -> Labelled:
    """Every row an encounter of its own where no bursts are given."""
    who = np.asarray(individual, dtype=np.int64)
    rows = len(who)
    event = np.arange(rows) if burst is None else np.asarray(burst, dtype=np.int64)
    made = np.eye(rows, max(rows, 1), dtype=np.float32) if vectors is None else vectors
    return Labelled(
        keys=list(range(rows)),
        vectors={"multiscale": VectorSet("r", "multiscale", made)},
        individual=who,
        encounter=event,
        burst=event,
        viewpoints=viewpoints or [None] * rows,
        names=[f"deer {code}" for code in range(int(who.max()) + 1)] if rows else [],
        sexes=["unknown"] * rows,
    )


def herd(individuals: int, rows: int, noise: float, seed: int, flanks: bool = True) -> Labelled:
    """Individuals as random directions, pictures as noisy copies of them, two pictures a burst."""
    rng = np.random.default_rng(seed)
    bursts = -(-rows // 2)
    event = np.repeat(np.arange(bursts), 2)[:rows]
    who = rng.integers(0, individuals, bursts)[event]
    centres = rng.normal(size=(individuals, 16))
    made = unit((centres[who] + noise * rng.normal(size=(rows, 16))).astype(np.float32))
    views = [VIEWS[code] for code in rng.integers(0, 4, rows)] if flanks else None
    return labelled(who, event, views, made)


def permuted(data: Labelled, order: Ints) -> Labelled:
    """The same detections in another order."""
    return Labelled(
        keys=[data.keys[i] for i in order],
        vectors={b: VectorSet(v.recipe_id, b, v.vectors[order]) for b, v in data.vectors.items()},
        individual=data.individual[order],
        encounter=data.encounter[order],
        burst=data.burst[order],
        viewpoints=[data.viewpoints[i] for i in order],
        names=data.names,
        sexes=[data.sexes[i] for i in order],
    )


def given(matrix: FloatArray) -> Block:
    """Blocks of a similarity matrix that is written down."""
    return lambda rows: matrix[rows].astype(np.float32)


def pairs_by_hand(
    data: Labelled, matrix: FloatArray, *, flank: str = "same", leaky: bool = False
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Genuine and impostor pairs in a double loop, as the protocol words them."""

    def opposite(i: int, j: int) -> bool:
        return {data.viewpoints[i], data.viewpoints[j]} == {"left", "right"}

    genuine, impostor = [], []
    for i in range(len(data)):
        for j in range(len(data)):
            if i == j or opposite(i, j) != (flank == "cross"):
                continue
            if data.individual[i] != data.individual[j]:
                impostor.append((i, j))
            elif leaky or data.burst[i] != data.burst[j]:
                genuine.append((i, j))
    return genuine, impostor
