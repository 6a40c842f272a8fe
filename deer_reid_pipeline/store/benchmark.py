"""What a benchmark asks of the database: detections spread over all, and how long writing takes. It keeps nothing."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.media import CropJob, crop_jobs
from deer_reid_pipeline.store.models import Detection, Image, ProfileExemplar
from deer_reid_pipeline.store.vectors import put_embeddings


@dataclass(frozen=True)
class WriteTimes:
    """Seconds a batch of vectors; `commit` is what the server takes to have as many bytes on the disk."""

    insert: float
    commit: float


def evenly_spaced_detections(session: Session, spec_id: str, most: int) -> list[CropJob]:
    """At most this many standing detections, evenly spaced over all in the order of their pictures' paths.

    Cameras keep folders of their own and name files by time, so these stand for cameras and times alike.
    """
    standing = (
        select(Detection.id, (func.row_number().over(order_by=(Image.path, Detection.id)) - 1).label("place"))
        .join(Image, Image.id == Detection.image_id)
        .where(~Detection.superseded)
        .subquery()
    )
    count = session.scalar(select(func.count()).select_from(standing)) or 0
    wanted = sorted({number * count // min(most, count) for number in range(min(most, count))})
    found = list(session.scalars(select(standing.c.id).where(standing.c.place.in_(wanted))))
    return crop_jobs(session, spec_id, detections=found) if found else []


def exemplar_counts(session: Session, recipe_id: str) -> tuple[int, int]:
    """Individuals with exemplars under a recipe, and exemplars of one branch."""
    individuals, rows, branches = session.execute(
        select(
            func.count(func.distinct(ProfileExemplar.deer_id)),
            func.count(),
            func.count(func.distinct(ProfileExemplar.branch)),
        ).where(ProfileExemplar.recipe_id == recipe_id)
    ).one()
    return individuals, rows // max(branches, 1)


def time_writes(database: Database, recipe_id: str, vectors: Mapping[str, FloatArray], rounds: int = 5) -> WriteTimes:
    """How long storing one batch of vectors takes; the medians.

    The rows are made up and rolled back. What a commit then waits for, the disk, is measured by a message of the same
    size in the server's log, which is in no table.

    Args:
        vectors: branch -> float32 (n, 512); the recipe must be registered.

    Raises:
        ValueError: there are no vectors.
    """
    count = max((len(matrix) for matrix in vectors.values()), default=0)
    if not count:
        raise ValueError("no vectors to write were given")
    inserts, commits = [], []
    size = sum(matrix.astype(np.float32).nbytes for matrix in vectors.values())
    for _ in range(rounds):
        with database.session() as session:
            picture, detections = uuid.uuid4(), [uuid.uuid4() for _ in range(count)]
            session.execute(insert(Image).values(id=picture, filename="benchmark", path="benchmark"))
            session.execute(
                insert(Detection),
                [{"id": key, "image_id": picture, "bbox": {}, "confidence": 1.0} for key in detections],
            )
            start = time.perf_counter()
            put_embeddings(session, recipe_id, detections, vectors)
            inserts.append(time.perf_counter() - start)
            session.rollback()
        start = time.perf_counter()
        with database.session() as session:
            session.execute(
                text("SELECT pg_logical_emit_message(true, 'deer-reid benchmark', repeat('x', :size))"), {"size": size}
            )
        commits.append(time.perf_counter() - start)
    return WriteTimes(float(np.median(inserts)), float(np.median(commits)))


def server_versions(session: Session) -> dict[str, str]:
    """Versions of PostgreSQL and of pgvector."""
    vector = session.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    return {"postgresql": str(session.scalar(text("SHOW server_version"))), "pgvector": str(vector)}
