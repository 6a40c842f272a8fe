"""Pictures, detections and crops as rows."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, delete, exists, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.vocabulary import UNKNOWN
from deer_reid_pipeline.store.drops import NO_CROP
from deer_reid_pipeline.store.models import (
    Deer,
    Detection,
    DetectionCrop,
    DropMedia,
    Embedding,
    Image,
    Quarantine,
)

WHOLE_FRAME = "whole_frame"
"""Source of detections that stand for a picture whose boxes nobody knows."""


def add_images(session: Session, rows: Sequence[dict[str, Any]]) -> dict[str, uuid.UUID]:
    """Store pictures and return the id of each by its sha256.

    A picture that is known by its sha256 is left as it is. A row from before the enhancement, which has no sha256, is
    taken for the picture that now lies under its path, keeps its id and gets what it lacks.
    """
    if not rows:
        return {}
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    known = set(image_ids(session, [row["sha256"] for row in ordered]))
    new = [row for row in ordered if row["sha256"] not in known]
    old = _rows_without_sha256(session, new)
    for row in new:
        if (key := old.get(row["id"]) or old.get(row["path"])) is not None:
            session.execute(
                update(Image)
                .where(Image.id == key, Image.sha256.is_(None))
                .values(sha256=row["sha256"], drop_key=func.coalesce(Image.drop_key, row["drop_key"]))
            )
    taken = set(image_ids(session, [row["sha256"] for row in new]))
    inserted = [row for row in new if row["sha256"] not in taken]
    if inserted:
        session.execute(insert(Image).on_conflict_do_nothing(), inserted)
    for row in [row for row in ordered if row not in inserted]:
        session.execute(
            update(Image)
            .where(
                Image.sha256 == row["sha256"],
                Image.width.is_(None) | Image.height.is_(None) | Image.infrared.is_(None),
            )
            .values({name: func.coalesce(getattr(Image, name), row[name]) for name in ("width", "height", "infrared")})
            .execution_options(synchronize_session=False)
        )
    return image_ids(session, [row["sha256"] for row in ordered])


def image_ids(session: Session, hashes: Sequence[str]) -> dict[str, uuid.UUID]:
    """Ids of the stored pictures with these sha256."""
    rows = session.execute(select(Image.sha256, Image.id).where(Image.sha256.in_(hashes)))
    return {sha256: key for sha256, key in rows if sha256 is not None}


def _rows_without_sha256(session: Session, rows: Sequence[dict[str, Any]]) -> dict[object, uuid.UUID]:
    """Ids of picture rows without sha256 that have the id or the path of one of `rows`, by both; the oldest wins."""
    found = session.execute(
        select(Image.id, Image.path)
        .where(
            Image.sha256.is_(None),
            Image.id.in_([row["id"] for row in rows]) | Image.path.in_([row["path"] for row in rows]),
        )
        .order_by(Image.created_at.desc(), Image.id.desc())
    )
    result: dict[object, uuid.UUID] = {}
    for key, path in found:
        result[key] = result[path] = key
    return result


def image_paths(session: Session, images: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Where these pictures were last."""
    return {key: path for key, path in session.execute(select(Image.id, Image.path).where(Image.id.in_(images)))}


def move_images(session: Session, paths: dict[uuid.UUID, str]) -> None:
    """Note where pictures are now."""
    for key in sorted(paths, key=str):
        session.execute(update(Image).where(Image.id == key).values(path=paths[key]))


def add_detections(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Store detections.

    A box that is known keeps its row. What a person says of it (identity, viewpoint, age, class) replaces what a drop
    that was sealed earlier said, and only fills what a later one left open; a machine (no `given_at`) changes
    nothing, and what is known is never replaced by nothing. A retired box that is found again stands again, but for
    whole frames.
    """
    if not rows:
        return
    statement = insert(Detection)
    new = statement.excluded
    newer = new.given_at >= func.coalesce(Detection.given_at, literal_column("'-infinity'::timestamptz"))

    def said(now: Any, before: Any) -> Any:
        return case(
            (newer, func.coalesce(now, before)), (new.given_at.is_not(None), func.coalesce(before, now)), else_=before
        )

    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Detection.id],
            set_={
                "given_individual": said(new.given_individual, Detection.given_individual),
                "viewpoint": said(new.viewpoint, Detection.viewpoint),
                "life_stage": said(new.life_stage, Detection.life_stage),
                "classification": func.coalesce(
                    said(func.nullif(new.classification, UNKNOWN), func.nullif(Detection.classification, UNKNOWN)),
                    Detection.classification,
                ),
                "given_at": case((newer, new.given_at), else_=Detection.given_at),
                "superseded": Detection.superseded & (func.coalesce(new.source, "") == WHOLE_FRAME),
            },
        ),
        sorted(rows, key=lambda row: str(row["id"])),
    )


@dataclass(frozen=True)
class StoredBox:
    """A detection as new boxes of its picture are compared with it; `box` has no size where it cannot be placed."""

    id: uuid.UUID
    box: tuple[float, float, float, float]
    source: str | None
    superseded: bool


def boxes_in(session: Session, images: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[StoredBox]]:
    """Every detection of these pictures, retired ones too, by picture."""
    found: dict[uuid.UUID, list[StoredBox]] = {}
    rows = session.execute(
        select(Detection, Image)
        .join(Image, Image.id == Detection.image_id)
        .where(Detection.image_id.in_(images))
        .order_by(Detection.id)
    )
    for detection, image in rows:
        found.setdefault(image.id, []).append(
            StoredBox(detection.id, box_of(detection, image), detection.source, detection.superseded)
        )
    return found


def move_boxes(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Give detections another box and source; crop and vectors of a box that differs are removed, to be made again."""
    for row in sorted(rows, key=lambda row: str(row["id"])):
        key = row["id"]
        box = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")
        equal = [getattr(Detection, name) == row[name] for name in box]
        if session.scalar(select(Detection.id).where(Detection.id == key, *equal)) is None:
            session.execute(delete(DetectionCrop).where(DetectionCrop.detection_id == key))
            session.execute(delete(Embedding).where(Embedding.detection_id == key))
        values = {name: row[name] for name in ("bbox", *box, "confidence", "source")}
        session.execute(update(Detection).where(Detection.id == key).values(values))


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


def supersede_machine_boxes(
    session: Session, images: Sequence[uuid.UUID], keep: Sequence[uuid.UUID], manifest: str
) -> int:
    """Retire boxes that a machine found in pictures that a table or a better detector has spoken about.

    Boxes of tables (source `manifest`), those from before the enhancement (no source), and identities given by a
    person stay.

    Args:
        keep: detections that were found again.
    """
    result = session.execute(
        update(Detection)
        .where(
            Detection.image_id.in_(images),
            Detection.source != manifest,
            Detection.given_individual.is_(None),
            Detection.id.not_in(keep),
            ~Detection.superseded,
        )
        .values(superseded=True)
        .execution_options(synchronize_session=False)
    )
    return int(getattr(result, "rowcount", 0))


def recount_sightings(session: Session, images: Sequence[uuid.UUID]) -> None:
    """Count the sightings of the individuals in these pictures anew; the owner's own counts are left alone."""
    standing = (
        select(func.count())
        .select_from(Detection)
        .where(Detection.deer_id == Deer.id, ~Detection.superseded)
        .scalar_subquery()
    )
    affected = select(Detection.deer_id).where(Detection.image_id.in_(images), Detection.deer_id.is_not(None))
    session.execute(
        update(Deer)
        .where(Deer.id.in_(affected), Deer.identified_by.is_not(None))
        .values(sighting_count=standing)
        .execution_options(synchronize_session=False)
    )


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
        sorted(rows, key=lambda row: str(row["detection_id"])),
    )


def forget_crops(session: Session, spec_id: str, detections: Sequence[uuid.UUID]) -> None:
    """Remove crop rows whose file is not what was written."""
    if detections:
        session.execute(
            delete(DetectionCrop).where(DetectionCrop.spec_id == spec_id, DetectionCrop.detection_id.in_(detections))
        )


def cannot_be_cropped(drop_key: str) -> Any:
    """Whether a detection of the drop has no crop and its picture is quarantined for that; joined to DropMedia."""
    quarantined = exists().where(
        Quarantine.drop_key == drop_key, Quarantine.file == DropMedia.file_path, Quarantine.code == NO_CROP
    )
    return quarantined & ~exists().where(DetectionCrop.detection_id == Detection.id)


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
    """Standing detections of a drop's pictures, in the drop's order, without those that cannot be cropped."""
    rows = session.execute(
        select(Detection, Image, DropMedia, Deer.name)
        .join(Image, Image.id == Detection.image_id)
        .outerjoin(Deer, Deer.id == Detection.deer_id)
        .join(DropMedia, DropMedia.image_id == Image.id)
        .where(DropMedia.drop_key == drop_key, ~Detection.superseded, ~cannot_be_cropped(drop_key))
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
    assigned_only: bool = False,
) -> list[uuid.UUID]:
    """Detections (of a drop, or all) that lack a vector of one of the branches under the recipe.

    Those of an individual come first, individual by individual; then the unassigned ones.

    Args:
        all_again: return every detection, as a restart asks.
        assigned_only: leave out detections without an individual.
    """
    query = (
        select(Detection.id).where(~Detection.superseded).order_by(Detection.deer_id.asc().nulls_last(), Detection.id)
    )
    if drop_key is not None:
        in_drop = select(DropMedia.image_id).where(DropMedia.drop_key == drop_key)
        query = query.where(Detection.image_id.in_(in_drop))
    if assigned_only:
        query = query.where(Detection.deer_id.is_not(None))
    if not all_again:
        complete = (
            select(Embedding.detection_id)
            .where(Embedding.recipe_id == recipe_id, Embedding.branch.in_(branches))
            .group_by(Embedding.detection_id)
            .having(func.count() == len(branches))
        )
        query = query.where(Detection.id.not_in(complete))
    return list(session.scalars(query))
