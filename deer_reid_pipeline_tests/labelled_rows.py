"""Writes detections, encounters and vectors straight into a database, as a processed home has them."""

from __future__ import annotations

import io
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.models import Base, Deer, Detection, Drop, Encounter, Image

SEALED = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Shot:
    """One detection in a picture of its own.

    Attributes:
        given: what a person called it in the drop's table.
        decided: what the log of decisions made of it: (individual, human or machine); None where nobody decided.
        event: of the encounter, within the drop; with the individual it makes the encounter.
        encounter: tells encounters of one event and individual apart.
        ordinal: of the encounter in its drop; by default the shots' own order, behind those that have one.
        picture: detections with the same name are boxes of one picture.
    """

    given: str | None = None
    decided: tuple[str, str] | None = None
    event: str = "event:1"
    encounter: str = ""
    drop: str = "drop"
    camera: str | None = None
    at: datetime | None = None
    until: datetime | None = None
    ordinal: int | None = None
    viewpoint: str | None = None
    sex: str = "unknown"
    infrared: bool | None = None
    given_event: str | None = None
    superseded: bool = False
    picture: str | None = None
    key: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def encounter_id(self) -> uuid.UUID | None:
        if self.decided is None:
            return None
        return _id("encounter", self.drop, self.event, self.decided[0], self.encounter)


def _id(*parts: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, "/".join(parts))


def deer_id(name: str) -> uuid.UUID:
    """The individual of this name."""
    return _id("deer", name)


def store_shots(
    site: Site,
    shots: Sequence[Shot],
    recipe_id: str,
    vectors: Mapping[str, FloatArray],
    sealed: Mapping[str, datetime] | None = None,
) -> None:
    """Store the shots and their vectors under a recipe.

    Args:
        vectors: branch -> float32 (n, 512); rows of NaN are not stored.
        sealed: when a drop was sealed, where not at `SEALED`.
    """
    drops = sorted({shot.drop for shot in shots})
    decided = [shot for shot in shots if shot.decided is not None]
    names = sorted({shot.decided[0] for shot in decided if shot.decided} | {s.given for s in shots if s.given})
    with site.database.session() as session:
        _add(
            session,
            Drop,
            [
                {
                    "key": drop,
                    "name": drop,
                    "root": drop,
                    "digest": "0" * 64,
                    "layout": "images",
                    "detector": "none",
                    "sealed_at": (sealed or {}).get(drop, SEALED),
                }
                for drop in drops
            ],
        )
        _add(session, Deer, [{"id": deer_id(name), "name": name} for name in names])
        _add(
            session,
            Encounter,
            [
                {
                    "id": shot.encounter_id,
                    "drop_key": shot.drop,
                    "ordinal": 1000 + place if shot.ordinal is None else shot.ordinal,
                    "event_key": shot.event,
                    "deployment_id": shot.camera,
                    "started_at": shot.at,
                    "ended_at": shot.until or shot.at,
                    "sex": shot.sex,
                }
                for place, shot in {
                    shot.encounter_id: (n, shot) for n, shot in reversed([*enumerate(decided)])
                }.values()
            ],
        )
        _add(
            session,
            Image,
            [
                {
                    "id": _id("image", shot.picture or str(shot.key)),
                    "filename": "a.jpg",
                    "path": "a.jpg",
                    "timestamp": shot.at,
                    "infrared": shot.infrared,
                    "deployment_id": shot.camera,
                    "event_id": shot.given_event,
                    "drop_key": shot.drop,
                }
                for shot in shots
            ],
        )
        _add(
            session,
            Detection,
            [
                {
                    "id": shot.key,
                    "image_id": _id("image", shot.picture or str(shot.key)),
                    "deer_id": deer_id(shot.decided[0]) if shot.decided else None,
                    "bbox": {"x": 0, "y": 0, "width": 10, "height": 10},
                    "confidence": 1.0,
                    "viewpoint": shot.viewpoint,
                    "given_individual": shot.given,
                    "classification_method": shot.decided[1] if shot.decided else None,
                    "encounter_id": shot.encounter_id,
                    "superseded": shot.superseded,
                }
                for shot in shots
            ],
        )
    add_vectors(site, [shot.key for shot in shots], recipe_id, vectors)


def add_vectors(site: Site, keys: Sequence[uuid.UUID], recipe_id: str, vectors: Mapping[str, FloatArray]) -> None:
    """Store vectors of detections in PostgreSQL's binary COPY format; rows of NaN are left out."""
    stream = io.BytesIO()
    stream.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
    for branch, matrix in vectors.items():
        for key, row, there in zip(keys, matrix.astype(">f4"), np.isfinite(matrix).all(axis=1).tolist(), strict=True):
            if there:
                cells = (
                    key.bytes,
                    recipe_id.encode(),
                    branch.encode(),
                    struct.pack(">hh", len(row), 0) + row.tobytes(),
                )
                stream.write(struct.pack(">h", len(cells)))
                stream.writelines(struct.pack(">i", len(cell)) + cell for cell in cells)
    stream.write(struct.pack(">h", -1))
    stream.seek(0)
    connection = site.database.engine.raw_connection()
    try:
        columns = "detection_id, recipe_id, branch, vector"
        connection.cursor().copy_expert(f"COPY embeddings ({columns}) FROM STDIN BINARY", stream)
        connection.commit()
    finally:
        connection.close()


def _add(session: Session, table: type[Base], rows: list[dict[str, object]]) -> None:
    if rows:
        session.execute(insert(table).on_conflict_do_nothing(), rows)
