"""Queries that the checks are made of."""

from __future__ import annotations

import uuid

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.similarity import MULTISCALE, FloatArray
from deer_reid_pipeline.store.media import cannot_be_cropped
from deer_reid_pipeline.store.models import (
    Detection,
    DetectionCrop,
    DropMedia,
    Embedding,
    Encounter,
    Image,
    MatchDecision,
    ProfileExemplar,
)


def _images_of(drop_key: str):  # type: ignore[no-untyped-def]  # a Select whose type is longer than the query
    return select(DropMedia.image_id).where(DropMedia.drop_key == drop_key)


def vectors_of_drop(session: Session, recipe_id: str, branch: str, drop_key: str) -> list[tuple[uuid.UUID, FloatArray]]:
    """(detection, vector) of a drop's standing detections under a recipe and branch, by detection."""
    rows = session.execute(
        select(Embedding.detection_id, Embedding.vector)
        .join(Detection, Detection.id == Embedding.detection_id)
        .where(
            Embedding.recipe_id == recipe_id,
            Embedding.branch == branch,
            Detection.image_id.in_(_images_of(drop_key)),
            ~Detection.superseded,
        )
        .order_by(Embedding.detection_id)
    )
    return [(key, np.asarray(vector, dtype=np.float32)) for key, vector in rows]


def cropped_detections(session: Session, drop_key: str) -> set[uuid.UUID]:
    """Standing detections of a drop that have a crop."""
    return set(
        session.scalars(
            select(Detection.id)
            .join(DetectionCrop, DetectionCrop.detection_id == Detection.id)
            .where(Detection.image_id.in_(_images_of(drop_key)), ~Detection.superseded)
        )
    )


def undecided(session: Session, drop_key: str) -> int:
    """Encounters of the drop without a decision, plus its standing detections without an encounter.

    Detections that are quarantined because no crop of them can be made are not waited for.
    """
    decided = select(MatchDecision.id).where(MatchDecision.encounter_id == Encounter.id).exists()
    encounters = session.scalar(
        select(func.count()).select_from(Encounter).where(Encounter.drop_key == drop_key, ~decided)
    )
    detections = session.scalar(
        select(func.count(func.distinct(Detection.id)))
        .join(DropMedia, (DropMedia.image_id == Detection.image_id) & (DropMedia.drop_key == drop_key))
        .where(~Detection.superseded, Detection.encounter_id.is_(None), ~cannot_be_cropped(drop_key))
    )
    return (encounters or 0) + (detections or 0)


def pictures_with_an_individual_twice(session: Session, drop_key: str) -> list[str]:
    """File names of a drop's pictures in which one individual stands for two boxes."""
    rows = session.execute(
        select(Image.filename)
        .join(Detection, Detection.image_id == Image.id)
        .where(Image.id.in_(_images_of(drop_key)), ~Detection.superseded, Detection.deer_id.is_not(None))
        .group_by(Image.id, Image.filename, Detection.deer_id)
        .having(func.count() > 1)
        .order_by(Image.filename)
    )
    return [name for (name,) in rows]


def individuals_with_sightings(session: Session) -> int:
    """Individuals that have a standing detection."""
    return (
        session.scalar(
            select(func.count(func.distinct(Detection.deer_id))).where(
                Detection.deer_id.is_not(None), ~Detection.superseded
            )
        )
        or 0
    )


def exemplar_count(session: Session, recipe_id: str) -> int:
    """Exemplars under a recipe, counted once a detection."""
    return (
        session.scalar(
            select(func.count())
            .select_from(ProfileExemplar)
            .where(ProfileExemplar.recipe_id == recipe_id, ProfileExemplar.branch == MULTISCALE)
        )
        or 0
    )
