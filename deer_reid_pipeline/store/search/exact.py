"""Exact search for many queries at once: one pass over the stored vectors, whatever the number of queries.

What the recall of an index is measured against, and the fused search of galleries without an index.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import LargeBinary, and_, func, select
from sqlalchemy.orm import Session, aliased

from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.store.models import VECTOR_SIZE, ProfileExemplar
from deer_reid_pipeline.store.search.among import EVERYONE, Among

FETCH_ROWS = 2000
"""Vectors are fetched in portions of this many rows."""

VECTOR_HEADER = 4
"""Bytes before the numbers of a vector in pgvector's binary form, which numpy reads without parsing text."""

Key = tuple[uuid.UUID, uuid.UUID]
"""Individual and detection."""

Score = Callable[[Mapping[str, FloatArray]], FloatArray]
"""Branch -> cosines (n_queries, n_rows); gives what the rows are ranked by, of the same shape."""

Block = tuple[list[Key], dict[str, FloatArray]]
"""Exemplars, and their vectors by branch: float32 (n_rows, 512)."""


def exact_top(
    session: Session,
    recipe_id: str,
    queries: Mapping[str, FloatArray],
    k: int,
    score: Score,
    among: Among = EVERYONE,
    without: Sequence[uuid.UUID] = (),
    individuals: Sequence[Collection[uuid.UUID]] = (),
) -> list[list[tuple[Key, float]]]:
    """The k best exemplars of each query, best first, with what they score.

    Args:
        queries: branch -> float32 (n, 512), unit rows; only exemplars that have all of these branches count.
        without: one detection a query that does not count for it: its own.
        individuals: those a query whose exemplars count for it; all unless given.
    """
    count = len(next(iter(queries.values())))
    top = TopRows(count, k)
    for keys, vectors in read_blocks(session, recipe_id, sorted(queries), among):
        scores = score({branch: rows @ vectors[branch].T for branch, rows in queries.items()})
        ranked = without_own(scores, keys, without)
        if individuals:
            ranked = np.where([[deer in counting for deer, _ in keys] for counting in individuals], ranked, -np.inf)
        top.add(keys, ranked, scores)
    return top.best()


def without_own(scores: FloatArray, keys: Sequence[Key], own: Sequence[uuid.UUID]) -> FloatArray:
    """The scores with -inf where a query meets its own detection; (n_queries, n_rows)."""
    if not own:
        return scores
    place = {detection: column for column, (_, detection) in enumerate(keys)}
    hidden = scores.copy()
    for row, detection in enumerate(own):
        if detection in place:
            hidden[row, place[detection]] = -np.inf
    return hidden


class TopRows:
    """The rows with the highest scores seen so far of each query, and a value of each."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._scores = np.full((queries, 0), -np.inf, dtype=np.float32)
        self._values = np.full((queries, 0), -np.inf, dtype=np.float32)
        self._rows = np.zeros((queries, 0), dtype=np.int64)
        self._keys: dict[int, Key] = {}
        self._seen = 0

    def add(self, keys: Sequence[Key], scores: FloatArray, values: FloatArray) -> None:
        """Take in a block: scores and values are (n_queries, n_rows)."""
        numbers = np.broadcast_to(np.arange(self._seen, self._seen + len(keys)), scores.shape)
        joined = np.concatenate([self._scores, scores], axis=1)
        near = np.argpartition(-joined, min(self._k, joined.shape[1]) - 1, axis=1)[:, : self._k]
        keep = np.take_along_axis(near, np.argsort(-np.take_along_axis(joined, near, axis=1), axis=1), axis=1)
        self._scores = np.take_along_axis(joined, keep, axis=1)
        self._values = np.take_along_axis(np.concatenate([self._values, values], axis=1), keep, axis=1)
        self._rows = np.take_along_axis(np.concatenate([self._rows, numbers], axis=1), keep, axis=1)
        first, self._seen = self._seen, self._seen + len(keys)
        self._keys = {
            row: keys[row - first] if row >= first else self._keys[row] for row in np.unique(self._rows).tolist()
        }

    @property
    def values(self) -> FloatArray:
        """Values of the best rows, best first; (n_queries, at most k), -inf where a row does not count."""
        return np.where(np.isfinite(self._scores), self._values, -np.inf)

    def best(self) -> list[list[tuple[Key, float]]]:
        """Keys and values of the best rows of each query, best first."""
        counts = np.isfinite(self._scores)
        return [
            [(self._keys[row], value) for row, value, there in zip(*of_query, strict=True) if there]
            for of_query in zip(self._rows.tolist(), self._values.tolist(), counts.tolist(), strict=True)
        ]


def read_blocks(session: Session, recipe_id: str, branches: Sequence[str], among: Among = EVERYONE) -> Iterator[Block]:
    """Every exemplar of a recipe that has these branches, in portions of `FETCH_ROWS`."""
    exemplars = [aliased(ProfileExemplar, name=f"e{number}") for number in range(len(branches))]
    first = exemplars[0]
    query = select(first.deer_id, first.detection_id, *(_sent(item.vector) for item in exemplars)).where(
        first.recipe_id == recipe_id, first.branch == branches[0]
    )
    for branch, other in zip(branches[1:], exemplars[1:], strict=True):
        same = and_(other.deer_id == first.deer_id, other.detection_id == first.detection_id)
        query = query.join(other, and_(same, other.recipe_id == recipe_id, other.branch == branch))
    result = session.execute(among.narrow(query, first), execution_options={"yield_per": FETCH_ROWS})
    for rows in result.partitions():
        keys = [(row[0], row[1]) for row in rows]
        yield keys, {b: _matrix([row[2 + number] for row in rows]) for number, b in enumerate(branches)}


def _sent(vector: Any) -> Any:
    return func.vector_send(vector, type_=LargeBinary)


def _matrix(sent: Sequence[bytes]) -> FloatArray:
    """Vectors in pgvector's binary form as float32 (n, 512)."""
    width = VECTOR_HEADER + 4 * VECTOR_SIZE
    raw = np.frombuffer(b"".join(sent), dtype=np.uint8).reshape(len(sent), width)[:, VECTOR_HEADER:]
    return np.ascontiguousarray(raw).view(">f4").astype(np.float32)
