"""Pictures, detections and crops as rows."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.vocabulary import UNKNOWN
from deer_reid_pipeline.store.models import Deer, Detection, DetectionCrop, DropMedia, Embedding, Image

WHOLE_FRAME = "whole_frame"
"""Source of detections that stand for a picture whose boxes nobody knows."""


def add_images(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Store pictures; one that is known by its sha256 is left as it is."""
    if rows:
        session.execute(insert(Image).on_conflict_do_nothing(), list(rows))


def add_detections(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Store detections.

    A box that is known keeps its row. What is said of it now (identity, viewpoint, age, class) replaces what was said
    before; what is known is never replaced by nothing.
    """
    if not rows:
        return
    statement = insert(Detection)
    new = statement.excluded
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Detection.id],
            set_={
                "given_individual": func.coalesce(new.given_individual, Detection.given_individual),
                "viewpoint": func.coalesce(new.viewpoint, Detection.viewpoint),
                "life_stage": func.coalesce(new.life_stage, Detection.life_stage),
                "classification": func.coalesce(func.nullif(new.classification, UNKNOWN), Detection.classification),
            },
        ),
        list(rows),
    )


def images_with_detections(
    session: Session, images: Sequence[uuid.UUID], *, whole_frames: bool = True
) -> set[uuid.UUID]:
    """Those of the pictures that have a detection which stands.

    Args:
        whole_frames: count machine-made whole-frame guesses too.
    """
    guess = (Detection.source == WHOLE_FRAME) & Detection.given_individual.is_(None)
    query = select(Detection.image_id).where(Detection.image_id.in_(images), ~Detection.superseded)
    if not whole_frames:
        query = query.where(func.coalesce(~guess, True))
    return set(session.scalars(query.distinct()))


def supersede_whole_frames(session: Session, images: Sequence[uuid.UUID]) -> int:
    """Retire whole-frame guesses of pictures that now have real boxes; identities given by a person stay."""
    result = session.execute(
        update(Detection)
        .where(
            Detection.image_id.in_(images),
            Detection.source == WHOLE_FRAME,
            Detection.given_individual.is_(None),
            ~Detection.superseded,
        )
        .values(superseded=True)
    )
    return int(getattr(result, "rowcount", 0))


@dataclass(frozen=True)
class CropJob:
    """A detection whose crop is to be cut: where its picture is, and its box as shares of the picture."""

    detection_id: uuid.UUID
    image_id: uuid.UUID
    path: str
    image_sha256: str | None
    box: tuple[float, float, float, float]
    pixel_box: dict[str, float]
    crop_file: str | None
    crop_sha256: str | None


def crop_jobs(
    session: Session,
    spec_id: str,
    *,
    drop_key: str | None = None,
    detections: Sequence[uuid.UUID] | None = None,
) -> list[CropJob]:
    """Detections of a drop (or the given ones) with the crop that each has under this spec, picture by picture."""
    query = (
        select(Detection, Image, DetectionCrop.file, DetectionCrop.sha256)
        .join(Image, Image.id == Detection.image_id)
        .outerjoin(DetectionCrop, (DetectionCrop.detection_id == Detection.id) & (DetectionCrop.spec_id == spec_id))
        .where(~Detection.superseded)
        .order_by(Image.path, Detection.id)
    )
    if drop_key is not None:
        in_drop = select(DropMedia.image_id).where(DropMedia.drop_key == drop_key)
        query = query.where(Detection.image_id.in_(in_drop))
    if detections is not None:
        query = query.where(Detection.id.in_(detections))
    return [
        CropJob(
            detection.id,
            image.id,
            image.path,
            image.sha256,
            box_of(detection, image),
            detection.bbox,
            file,
            sha256,
        )
        for detection, image, file, sha256 in session.execute(query)
    ]


def box_of(detection: Detection, image: Image) -> tuple[float, float, float, float]:
    """The box as shares of the picture.

    Rows from before the enhancement have pixels only; without the picture's size their box cannot be placed and
    the whole picture is returned as a zero-size marker: (0, 0, 0, 0).
    """
    if detection.bbox_x is not None:
        return (
            detection.bbox_x,
            detection.bbox_y or 0.0,
            detection.bbox_width or 0.0,
            detection.bbox_height or 0.0,
        )
    if not image.width or not image.height:
        return (0.0, 0.0, 0.0, 0.0)
    box = detection.bbox
    return (
        float(box.get("x", 0)) / image.width,
        float(box.get("y", 0)) / image.height,
        float(box.get("width", 0)) / image.width,
        float(box.get("height", 0)) / image.height,
    )


def add_crops(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Store crop rows, replacing a row whose file had to be written again."""
    if not rows:
        return
    statement = insert(DetectionCrop)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[DetectionCrop.detection_id, DetectionCrop.spec_id],
            set_={name: getattr(statement.excluded, name) for name in ("file", "sha256", "width", "height")},
        ),
        list(rows),
    )


@dataclass(frozen=True)
class DetectionRow:
    """A detection with what matching needs to know of it and of its picture."""

    id: uuid.UUID
    image_id: uuid.UUID
    file_path: str
    order: int
    camera: str
    event_id: str | None
    timestamp: datetime | None
    box: tuple[float, float, float, float]
    classification: str
    viewpoint: str | None
    life_stage: str | None
    given_individual: str | None
    individual: str | None
    encounter_id: uuid.UUID | None
    method: str | None
    confidence: float


def detections_of_drop(session: Session, drop_key: str) -> list[DetectionRow]:
    """Standing detections of a drop's pictures, in the drop's order."""
    rows = session.execute(
        select(Detection, Image, DropMedia, Deer.name)
        .join(Image, Image.id == Detection.image_id)
        .outerjoin(Deer, Deer.id == Detection.deer_id)
        .join(DropMedia, DropMedia.image_id == Image.id)
        .where(DropMedia.drop_key == drop_key, ~Detection.superseded)
        .order_by(DropMedia.ordinal, Detection.id)
    )
    found: dict[uuid.UUID, DetectionRow] = {}
    for detection, image, media, individual in rows:
        folder = media.file_path.rpartition("/")[0]
        found.setdefault(
            detection.id,
            DetectionRow(
                id=detection.id,
                image_id=image.id,
                file_path=media.file_path,
                order=media.ordinal,
                camera=media.deployment_id or f"folder:{folder}",
                event_id=media.event_id,
                timestamp=media.timestamp or image.timestamp,
                box=box_of(detection, image),
                classification=detection.classification,
                viewpoint=detection.viewpoint,
                life_stage=detection.life_stage,
                given_individual=detection.given_individual,
                individual=individual,
                encounter_id=detection.encounter_id,
                method=detection.classification_method,
                confidence=detection.confidence,
            ),
        )
    return list(found.values())


def detections_without_vectors(
    session: Session,
    recipe_id: str,
    branches: Sequence[str],
    *,
    drop_key: str | None = None,
    all_again: bool = False,
    unassigned_only: bool = False,
) -> list[uuid.UUID]:
    """Detections (of a drop, or all) that lack a vector of one of the branches under the recipe.

    Those of an individual come first, individual by individual; then the unassigned ones.

    Args:
        all_again: return every detection, as a restart asks.
        unassigned_only: leave out detections of individuals.
    """
    query = (
        select(Detection.id).where(~Detection.superseded).order_by(Detection.deer_id.asc().nulls_last(), Detection.id)
    )
    if drop_key is not None:
        in_drop = select(DropMedia.image_id).where(DropMedia.drop_key == drop_key)
        query = query.where(Detection.image_id.in_(in_drop))
    if unassigned_only:
        query = query.where(Detection.deer_id.is_(None))
    if not all_again:
        complete = (
            select(Embedding.detection_id)
            .where(Embedding.recipe_id == recipe_id, Embedding.branch.in_(branches))
            .group_by(Embedding.detection_id)
            .having(func.count() == len(branches))
        )
        query = query.where(Detection.id.not_in(complete))
    return list(session.scalars(query))
