"""Embeddings of detections, by recipe and branch."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.similarity import FloatArray, VectorSet
from deer_reid_pipeline.store.models import Embedding


def put_embeddings(
    session: Session, recipe_id: str, ids: Sequence[uuid.UUID], vectors: Mapping[str, FloatArray]
) -> None:
    """Store one batch of vectors; vectors of the same recipe are replaced, those of others stand beside them.

    Args:
        vectors: branch -> float32 (n, 512), rows in the order of `ids`.
    """
    rows = [
        {"detection_id": key, "recipe_id": recipe_id, "branch": branch, "vector": matrix[row]}
        for branch, matrix in vectors.items()
        for row, key in enumerate(ids)
    ]
    rows.sort(key=lambda row: (str(row["detection_id"]), str(row["branch"])))  # one order for all: no deadlock
    if not rows:
        return
    statement = insert(Embedding)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Embedding.detection_id, Embedding.recipe_id, Embedding.branch],
            set_={"vector": statement.excluded.vector, "created_at": func.now()},
        ),
        rows,
    )


def get_embeddings(
    session: Session, recipe_id: str, branch: str, ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, FloatArray]:
    """Vectors of these detections under a recipe and branch; detections without one are left out."""
    found: dict[uuid.UUID, FloatArray] = {}
    for start in range(0, len(ids), 2000):
        rows = session.execute(
            select(Embedding.detection_id, Embedding.vector).where(
                Embedding.recipe_id == recipe_id,
                Embedding.branch == branch,
                Embedding.detection_id.in_(ids[start : start + 2000]),
            )
        )
        found.update({key: np.asarray(vector, dtype=np.float32) for key, vector in rows})
    return found


def embedded(session: Session, recipe_id: str, branches: Sequence[str], ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these detections that have a vector of every branch under a recipe; no vector is read."""
    found: set[uuid.UUID] = set()
    for start in range(0, len(ids), 2000):
        found.update(
            session.scalars(
                select(Embedding.detection_id)
                .where(
                    Embedding.recipe_id == recipe_id,
                    Embedding.branch.in_(branches),
                    Embedding.detection_id.in_(ids[start : start + 2000]),
                )
                .group_by(Embedding.detection_id)
                .having(func.count() == len(branches))
            )
        )
    return found


def vector_set(recipe_id: str, branch: str, rows: Sequence[FloatArray]) -> VectorSet:
    """Stack rows of shape (512,) into a VectorSet."""
    return VectorSet(recipe_id, branch, np.stack(list(rows)).astype(np.float32))


def count_embeddings(session: Session, recipe_id: str) -> dict[str, int]:
    """Number of vectors of each branch under a recipe."""
    rows = session.execute(
        select(Embedding.branch, func.count()).where(Embedding.recipe_id == recipe_id).group_by(Embedding.branch)
    )
    return {branch: count for branch, count in rows}
