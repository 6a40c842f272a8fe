"""Detections whose identity a person gave, with what an evaluation needs to know of them, and their vectors.

Only what a person said is truth. What the machine decided is never read here as an identity.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import ColumnElement, LargeBinary, and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.store.models import VECTOR_SIZE, Deer, Detection, Drop, Embedding, Encounter, Image, RecipeRow
from deer_reid_pipeline.store.search import FETCH_ROWS

_VECTOR_HEADER = 4
"""Bytes before the numbers of a vector in pgvector's binary form, which numpy reads without parsing text."""


@dataclass(frozen=True)
class TruthRow:
    """A standing detection and where it belongs.

    Attributes:
        individual: what a person called it; None where nobody did.
        encounter_id: None where matching has not looked at it yet.
        event: names the event that it was decided in; detections of one event share it.
        given_event: names the event that its picture came with, where it came with one.
        camera: deploymentID, or "folder:" and a folder where none is known.
        ordinal: of the encounter in its drop; 0 where it has none.
        classification: the owner's word for the detection: buck, doe, fawn or unknown.
        sex: of the encounter: male, female or unknown; None where it has none.
        infrared: None where nobody looked.
    """

    detection_id: uuid.UUID
    image_id: uuid.UUID
    individual: str | None
    encounter_id: uuid.UUID | None
    event: str
    given_event: str | None
    camera: str | None
    started_at: datetime | None
    ended_at: datetime | None
    sealed_at: datetime | None
    ordinal: int
    viewpoint: str | None
    classification: str
    sex: str | None
    infrared: bool | None


def truth_rows(session: Session, encounters: Collection[uuid.UUID] = ()) -> list[TruthRow]:
    """Standing detections that a person identified, by id.

    Args:
        encounters: the detections of these encounters are listed too, identified or not.
    """
    by_person = or_(
        Detection.given_individual.is_not(None),
        and_(Detection.classification_method == "human", Detection.deer_id.is_not(None)),
    )
    wanted: ColumnElement[bool] = by_person
    if encounters:
        wanted = or_(by_person, Detection.encounter_id.in_(list(encounters)))
    decided_in, brought_by = aliased(Drop), aliased(Drop)
    rows = session.execute(
        select(
            Detection.id,
            Detection.image_id,
            Detection.given_individual,
            Detection.classification_method,
            Detection.deer_id,
            Detection.encounter_id,
            Detection.viewpoint,
            Detection.classification,
            Deer.name,
            Image.timestamp,
            Image.infrared,
            Image.deployment_id,
            Image.event_id,
            Image.drop_key,
            Encounter.event_key,
            Encounter.drop_key.label("decided_drop"),
            Encounter.deployment_id.label("camera"),
            Encounter.started_at,
            Encounter.ended_at,
            Encounter.ordinal,
            Encounter.sex,
            func.coalesce(decided_in.sealed_at, brought_by.sealed_at).label("sealed_at"),
        )
        .join(Image, Image.id == Detection.image_id)
        .outerjoin(Encounter, Encounter.id == Detection.encounter_id)
        .outerjoin(decided_in, decided_in.key == Encounter.drop_key)
        .outerjoin(brought_by, brought_by.key == Image.drop_key)
        .outerjoin(Deer, Deer.id == Detection.deer_id)
        .where(~Detection.superseded, wanted)
        .order_by(Detection.id)
    )
    return [
        TruthRow(
            detection_id=row.id,
            image_id=row.image_id,
            individual=_said(row.given_individual, row.classification_method, row.name, row.deer_id),
            encounter_id=row.encounter_id,
            event=f"{row.decided_drop}/{row.event_key}" if row.event_key else f"picture:{row.image_id}",
            given_event=f"{row.drop_key}/{row.deployment_id}/{row.event_id}" if row.event_id else None,
            camera=row.camera or row.deployment_id,
            started_at=row.started_at or row.timestamp,
            ended_at=row.ended_at or row.timestamp,
            sealed_at=row.sealed_at,
            ordinal=row.ordinal or 0,
            viewpoint=row.viewpoint,
            classification=row.classification,
            sex=row.sex,
            infrared=row.infrared,
        )
        for row in rows
    ]


def _said(given: str | None, method: str | None, name: str | None, deer: uuid.UUID | None) -> str | None:
    """A name given in a drop is newer than a decision that does not carry it."""
    if given is not None:
        return given
    return (name or str(deer)) if method == "human" and deer is not None else None


def encounters_of(session: Session, detections: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Encounters that these detections were decided in, of those that stand."""
    found = session.scalars(
        select(Detection.encounter_id).where(
            Detection.id.in_(list(detections)), Detection.encounter_id.is_not(None), ~Detection.superseded
        )
    )
    return {key for key in found if key is not None}


def load_vectors(
    session: Session, recipe_id: str, branches: Sequence[str], ids: Sequence[uuid.UUID]
) -> tuple[dict[str, FloatArray], np.ndarray]:
    """Vectors of these detections under a recipe, read in PostgreSQL's binary form.

    Returns:
        branch -> float32 (n, 512), rows in the order of `ids`, zeros where there is none; and which detections have
        a vector of every branch, bool (n,).
    """
    place = {key: row for row, key in enumerate(ids)}
    vectors: dict[str, FloatArray] = {}
    complete = np.ones(len(ids), dtype=bool)
    for branch in branches:
        matrix = np.zeros((len(ids), VECTOR_SIZE), dtype=np.float32)
        found = np.zeros(len(ids), dtype=bool)
        for start in range(0, len(ids), FETCH_ROWS):
            portion = select(Embedding.detection_id, func.vector_send(Embedding.vector, type_=LargeBinary)).where(
                Embedding.recipe_id == recipe_id,
                Embedding.branch == branch,
                Embedding.detection_id.in_(ids[start : start + FETCH_ROWS]),
            )
            for key, sent in session.execute(portion):
                matrix[place[key]] = np.frombuffer(sent, dtype=">f4", offset=_VECTOR_HEADER)
                found[place[key]] = True
        vectors[branch] = matrix
        complete &= found
    return vectors, complete


@dataclass(frozen=True)
class Profiled:
    """How many individuals have a profile, and how many of these show both vectors of the enhancement."""

    individuals: int
    on_ensemble: int


def profiled_individuals(session: Session) -> Profiled:
    """Count the individuals that have a vector in a column of theirs, or a standing detection."""
    sighted = select(Detection.deer_id).where(Detection.deer_id.is_not(None), ~Detection.superseded)
    on_ensemble = and_(
        Deer.embedding_version == "v3_ensemble",
        Deer.feature_vector_multiscale.is_not(None),
        Deer.feature_vector_efficientnet.is_not(None),
    )
    row = session.execute(
        select(func.count(), func.count().filter(on_ensemble)).where(
            or_(Deer.feature_vector.is_not(None), Deer.feature_vector_multiscale.is_not(None), Deer.id.in_(sighted))
        )
    ).one()
    return Profiled(*row)


def embedded_recipe(session: Session, name: str) -> str | None:
    """Id of the newest recipe with this id or name that detections were embedded with; None where there is none.

    A fine-tuned recipe counts as soon as its fold recipes embedded something: that is what it is judged by.
    """
    fold = aliased(RecipeRow)
    itself = select(Embedding.detection_id).where(Embedding.recipe_id == RecipeRow.id)
    by_folds = select(Embedding.detection_id).join(fold, fold.id == Embedding.recipe_id)
    return session.scalar(
        select(RecipeRow.id)
        .where(
            or_(RecipeRow.id == name, RecipeRow.name == name),
            or_(itself.exists(), by_folds.where(fold.fold_of == RecipeRow.id).exists()),
        )
        .order_by((RecipeRow.id == name).desc(), RecipeRow.created_at.desc(), RecipeRow.id)
        .limit(1)
    )
