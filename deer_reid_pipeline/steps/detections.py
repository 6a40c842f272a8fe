"""`detections`: the boxes of a drop's pictures, from its table or from a detector."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest.records import BoxRecord
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.vocabulary import UNKNOWN
from deer_reid_pipeline.steps.images import in_batches
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.drops import (
    QuarantineRow,
    add_quarantine,
    add_warnings,
    get_drop,
    media_with_image,
)
from deer_reid_pipeline.store.ids import detection_id
from deer_reid_pipeline.store.media import WHOLE_FRAME, add_detections, images_with_detections, supersede_whole_frames
from deer_reid_pipeline.store.models import DropMedia, Image
from deer_reid_pipeline.vision.decode import ImageError, decode_image
from deer_reid_pipeline.vision.detectors import Detector, open_detector

BATCH = 64

MANIFEST = "manifest"


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
    for the rest the detector is asked; without one the whole frame is one detection, flagged by its source. Whole
    frames give way as soon as a table or a detector has looked at the picture.
    """
    with site.database.session() as session:
        drop = get_drop(session, drop_key)
        assert drop is not None
        root, wanted = Path(drop.root), drop.detector
        media = _one_file_a_picture(media_with_image(session, drop_key))
    detector = None
    if any(asks_detector(item.boxes, wanted) for item, _ in media):
        detector = open_detector(wanted, site.settings.weight_search_dirs)
    result = DetectionReport(detector.name if detector else MANIFEST)
    done = 0
    for batch in in_batches(media, BATCH):
        _store_batch(site, drop_key, root, wanted, detector, batch, result)
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


def _store_batch(
    site: Site,
    drop_key: str,
    root: Path,
    wanted: str,
    detector: Detector | None,
    batch: Sequence[tuple[DropMedia, Image]],
    result: DetectionReport,
) -> None:
    real = detector is not None and detector.name != WHOLE_FRAME
    rest = [pair for pair in batch if asks_detector(pair[0].boxes, wanted)]
    with site.database.session() as session:
        known = images_with_detections(session, [image.id for _, image in rest], whole_frames=not real)
    rows: list[dict[str, Any]] = []
    bad: list[QuarantineRow] = []
    looked_at: list[uuid.UUID] = []
    for item, image in batch:
        if not asks_detector(item.boxes, wanted):
            boxes = [BoxRecord.from_json(box) for box in item.boxes or []]
            result.from_manifest += len(boxes)
            source, replaces = MANIFEST, bool(boxes)
        elif image.id in known:
            result.known += 1
            continue
        else:
            assert detector is not None
            try:
                boxes = detect_boxes(detector, root / item.file_path, site.settings.min_confidence)
            except (ImageError, OSError) as error:
                bad.append(QuarantineRow(item.file_path, "unreadable", f"cannot be read for detection: {error}"))
                continue
            source, replaces = detector.name, real
            result.detected += len(boxes) if real else 0
            result.whole_frames += 0 if real else len(boxes)
        result.blank += not boxes
        rows += [_row(image, box, source) for box in boxes]
        if replaces:
            looked_at.append(image.id)
    with site.database.session() as session:
        add_detections(session, rows)
        supersede_whole_frames(session, looked_at)
        add_quarantine(session, drop_key, bad)


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
    said = any(
        box.get("individual_id") or box.get("viewpoint") or box.get("life_stage") or box.get("sex", UNKNOWN) != UNKNOWN
        for box in boxes
    )
    return wanted != "auto" and bool(boxes) and not said


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


def _row(image: Image, box: BoxRecord, source: str) -> dict[str, Any]:
    if not image.width or not image.height:
        raise DropError(f"picture {image.filename} is stored without its size: run `deer-reid process` again")
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
    }
