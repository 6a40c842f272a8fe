"""`detections`: the boxes of a drop's pictures, from its table or from a detector."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest.records import BoxRecord
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.encounters import iou
from deer_reid_pipeline.reid.vocabulary import UNKNOWN
from deer_reid_pipeline.steps.drops import in_transaction
from deer_reid_pipeline.steps.images import from_the_disk, gone, in_batches, unreadable_now
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.drops import (
    TRIED_AGAIN,
    QuarantineRow,
    add_quarantine,
    add_warnings,
    get_drop,
    media_with_image,
    note_look,
    quarantine_of,
    remove_quarantine,
)
from deer_reid_pipeline.store.ids import detection_id
from deer_reid_pipeline.store.media import (
    WHOLE_FRAME,
    StoredBox,
    add_detections,
    boxes_in,
    images_with_detections,
    move_boxes,
    recount_sightings,
    supersede_machine_boxes,
)
from deer_reid_pipeline.store.models import DropMedia, Image
from deer_reid_pipeline.vision.decode import ImageError, decode_image
from deer_reid_pipeline.vision.detectors import Detector, open_detector

Box = tuple[float, float, float, float]

BATCH = 64

MANIFEST = "manifest"

SAME_ANIMAL = 0.5
"""Boxes of one picture that overlap by this much (IoU) are one animal, whoever drew them."""


@dataclass
class DetectionReport:
    """Where the boxes came from: the drop's table, a detector, the whole frame; blank and already known pictures."""

    detector: str
    from_manifest: int = 0
    detected: int = 0
    whole_frames: int = 0
    blank: int = 0
    known: int = 0


def store_detections(site: Site, drop_key: str) -> DetectionReport:
    """Store the boxes of a drop, one transaction a batch of pictures.

    A picture whose boxes the drop gives gets those. Otherwise a picture that already has detections keeps them, and
    for the rest the detector is asked; without one the whole frame is one detection, flagged by its source. A box of
    an animal that is known keeps the detection that it has, and machine boxes that a table or a detector does not
    find again are retired.

    Raises:
        DropError: a file cannot be read now (the disk, not the file); running again goes on.
    """
    with site.database.session() as session:
        drop = get_drop(session, drop_key)
        assert drop is not None
        root, wanted = Path(drop.root), drop.detector
        media = _one_file_a_picture(media_with_image(session, drop_key))
        refused = _named_in(quarantine_of(session, drop_key))
    detector = None
    if any(asks_detector(item.boxes, wanted) for item, _ in media):
        detector = open_detector(wanted, site.settings.weight_search_dirs)
    result = DetectionReport(detector.name if detector else MANIFEST)
    work = _Work(drop_key, root, wanted, drop.sealed_at, detector, refused)
    done = 0
    for batch in in_batches(media, BATCH):
        _store_batch(site, work, batch, result)
        done += len(batch)
        report("detections", done, len(media))
    if result.whole_frames:
        with site.database.session() as session:
            add_warnings(session, drop_key, [_WHOLE_FRAME_WARNING.format(result.whole_frames)])
    return result


_WHOLE_FRAME_WARNING = (
    "{} pictures have no boxes and no detector was found: the whole frame stands for one animal in them (give "
    "detections.json, or --detector)"
)


@dataclass(frozen=True)
class _Work:
    """What is the same for every batch of a drop."""

    drop_key: str
    root: Path
    wanted: str
    sealed_at: datetime
    detector: Detector | None
    refused: set[str]
    """Pictures of which the drop says something that could not be used: without boxes they are not blank."""


@dataclass
class _Batch:
    """What is to be stored of a batch of pictures."""

    boxes: list[tuple[Image, list[BoxRecord], str]] = field(default_factory=list)
    spoken: list[uuid.UUID] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    bad: list[QuarantineRow] = field(default_factory=list)


def _store_batch(site: Site, work: _Work, batch: Sequence[tuple[DropMedia, Image]], result: DetectionReport) -> None:
    detector = work.detector
    real = detector is not None and detector.name != WHOLE_FRAME
    rest = [pair for pair in batch if asks_detector(pair[0].boxes, work.wanted)]
    with site.database.session() as session:
        known = images_with_detections(session, [image.id for _, image in rest], whole_frames=not real)
        boxed = images_with_detections(session, [image.id for _, image in batch], whole_frames=False)
    found = _Batch()
    failure: DropError | None = None
    for item, image in batch:
        if item.boxes and image.id in boxed and not says_anything(item.boxes):
            result.known += 1
            continue
        if not asks_detector(item.boxes, work.wanted):
            boxes = [BoxRecord.from_json(box) for box in item.boxes or []]
            result.from_manifest += len(boxes)
            source, speaks = MANIFEST, bool(boxes) or item.file_path not in work.refused
        elif image.id in known or (detector is not None and item.looked_at_by == detector.name):
            result.known += 1
            continue
        else:
            assert detector is not None
            looked = _detected(detector, work.root / item.file_path, item.file_path, site.settings.min_confidence)
            if isinstance(looked, DropError):
                failure = looked
                break
            if isinstance(looked, QuarantineRow):
                found.bad.append(looked)
                continue
            boxes = looked
            found.looked_at.append(item.file_path)
            source, speaks = detector.name, real
            result.detected += len(boxes) if real else 0
            result.whole_frames += 0 if real else len(boxes)
        result.blank += not boxes
        found.boxes.append((image, boxes, source))
        if speaks:
            found.spoken.append(image.id)
    in_transaction(site.database, lambda session: _write(session, work, found))
    if failure is not None:
        raise failure


def _detected(
    detector: Detector, path: Path, file_path: str, min_confidence: float
) -> list[BoxRecord] | QuarantineRow | DropError:
    try:
        return detect_boxes(detector, path, min_confidence)
    except ImageError as error:
        cause = from_the_disk(error)
        if cause is not None:
            return unreadable_now(path, cause)
        return QuarantineRow(file_path, "unreadable", f"cannot be read for detection: {error}")
    except OSError as error:
        return gone(path, file_path) or unreadable_now(path, error)


def _write(session: Session, work: _Work, found: _Batch) -> None:
    images = [image.id for image, _, _ in found.boxes]
    stored = boxes_in(session, images)
    rows: list[dict[str, Any]] = []
    moved: list[dict[str, Any]] = []
    for image, boxes, source in found.boxes:
        _place(image, boxes, source, work.sealed_at, stored.get(image.id, []), rows, moved)
    retired = {box.id for boxes in stored.values() for box in boxes if box.superseded}
    add_detections(session, rows)
    move_boxes(session, moved)
    lost = supersede_machine_boxes(session, found.spoken, [row["id"] for row in rows], MANIFEST)
    if lost or any(row["id"] in retired for row in rows):
        recount_sightings(session, images)
    if work.detector is not None:
        note_look(session, work.drop_key, found.looked_at, work.detector.name)
    remove_quarantine(session, work.drop_key, found.looked_at, TRIED_AGAIN)
    add_quarantine(session, work.drop_key, found.bad)


def _place(
    image: Image,
    boxes: Sequence[BoxRecord],
    source: str,
    sealed_at: datetime,
    stored: Sequence[StoredBox],
    rows: list[dict[str, Any]],
    moved: list[dict[str, Any]],
) -> None:
    """Make the rows of one picture's boxes; a box of an animal that is known gets the id of its detection."""
    standing = [box for box in stored if not box.superseded]
    same = match_boxes([(box.x, box.y, box.width, box.height) for box in boxes], [box.box for box in standing])
    taken = {standing[column].id for column in same.values()} | {box.id for box in standing}
    for position, box in enumerate(boxes):
        row = _row(image, box, source, sealed_at)
        if position in same:
            before = standing[same[position]]
            if _trust(source) > _trust(before.source):
                moved.append({**row, "id": before.id})
            row["id"] = before.id
        else:
            while row["id"] in taken:  # the detection that was there first has moved away since
                row["id"] = uuid.uuid5(row["id"], "another animal")
            taken.add(row["id"])
        rows.append(row)


def match_boxes(new: Sequence[Box], known: Sequence[Box]) -> dict[int, int]:
    """Pairs new boxes with known ones of the same picture, one to one, the best overlap first."""
    overlaps = sorted(
        (-overlap, row, column)
        for row, box in enumerate(new)
        for column, other in enumerate(known)
        if (overlap := iou(box, other)) >= SAME_ANIMAL
    )
    pairs: dict[int, int] = {}
    for _, row, column in overlaps:
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def _trust(source: str | None) -> int:
    """Whose box an animal keeps: a table's (or one from before the enhancement), a detector's, the whole frame."""
    return 2 if source in (None, MANIFEST) else 0 if source == WHOLE_FRAME else 1


def _named_in(rows: Sequence[QuarantineRow]) -> set[str]:
    """Files that quarantine entries are about: "a.jpg", or "observations.csv:12 (a.jpg)"."""
    return {row.file for row in rows} | {row.file.partition(" (")[2][:-1] for row in rows if row.file.endswith(")")}


def _one_file_a_picture(media: list[tuple[DropMedia, Image]]) -> list[tuple[DropMedia, Image]]:
    """Copies of a picture come after it and bring no boxes of their own."""
    first: dict[uuid.UUID, tuple[DropMedia, Image]] = {}
    for item, image in media:
        first.setdefault(image.id, (item, image))
    return list(first.values())


def asks_detector(boxes: Sequence[Mapping[str, Any]] | None, wanted: str) -> bool:
    """Whether a detector is asked about a picture.

    Always where the drop says nothing of its boxes; and, where a detector was named, also where its table holds boxes
    and nothing else (a detector's output). What a person said of an animal is never replaced.
    """
    if boxes is None:
        return True
    return wanted != "auto" and bool(boxes) and not any(_of_a_person(box) for box in boxes)


def says_anything(boxes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a table's boxes say where an animal is, or something of it; a row without a box says neither."""
    return any(not box.get("whole_picture") or _of_a_person(box) for box in boxes)


def _of_a_person(box: Mapping[str, Any]) -> bool:
    """Whether a box carries what only a person says: who, which flank, which age, which sex."""
    return bool(
        box.get("individual_id") or box.get("viewpoint") or box.get("life_stage") or box.get("sex", UNKNOWN) != UNKNOWN
    )


def detect_boxes(detector: Detector, path: Path, min_confidence: float) -> list[BoxRecord]:
    """Animals that a detector finds in a picture file, as boxes without identity.

    Raises:
        ImageError: the picture cannot be decoded.
    """
    found = detector.detect(decode_image(path, min_long_side=1280))
    return [
        BoxRecord(
            x=box.x,
            y=box.y,
            width=box.width,
            height=box.height,
            confidence=box.confidence,
            category=box.category,
            individual_id=None,
            viewpoint=None,
            sex=UNKNOWN,
            life_stage=None,
            classification=UNKNOWN,
            whole_picture=detector.name == WHOLE_FRAME,
        )
        for box in found
        if box.category == "animal" and (detector.name == WHOLE_FRAME or box.confidence >= min_confidence)
    ]


def _row(image: Image, box: BoxRecord, source: str, sealed_at: datetime) -> dict[str, Any]:
    if not image.width or not image.height:
        raise DropError(f"picture {image.filename} is stored without its size: run `deer-reid process` again")
    said = box.individual_id or box.viewpoint or box.life_stage or box.classification != UNKNOWN
    return {
        "id": detection_id(image.id, (box.x, box.y, box.width, box.height)),
        "image_id": image.id,
        "bbox": {
            "x": round(box.x * image.width),
            "y": round(box.y * image.height),
            "width": round(box.width * image.width),
            "height": round(box.height * image.height),
        },
        "confidence": box.confidence,
        "classification": box.classification,
        "bbox_x": box.x,
        "bbox_y": box.y,
        "bbox_width": box.width,
        "bbox_height": box.height,
        "source": source,
        "viewpoint": box.viewpoint,
        "life_stage": box.life_stage,
        "given_individual": box.individual_id,
        "given_at": sealed_at if said and source == MANIFEST else None,
    }
