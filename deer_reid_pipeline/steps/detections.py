"""`detections`: the boxes of a drop's pictures, from its table or from a detector."""

from __future__ import annotations

import uuid
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
from deer_reid_pipeline.store.media import add_detections, images_with_detections, supersede_whole_frames
from deer_reid_pipeline.store.models import DropMedia, Image
from deer_reid_pipeline.vision.decode import ImageError, decode_image
from deer_reid_pipeline.vision.detectors import Detector, open_detector

BATCH = 64

MANIFEST, WHOLE_FRAME = "manifest", "whole_frame"


@dataclass(frozen=True)
class DetectionReport:
    """Where the boxes came from: the drop's table, a detector, the whole frame; blank and already known pictures."""

    from_manifest: int
    detected: int
    whole_frames: int
    blank: int
    known: int
    detector: str


def store_detections(site: Site, drop_key: str) -> DetectionReport:
    """Store the boxes of a drop, one transaction a batch of pictures.

    A picture whose boxes the drop gives gets those. Otherwise a picture that already has detections keeps them, and
    for the rest the detector is asked; without one the whole frame is one detection, flagged by its source.
    """
    with site.database.session() as session:
        drop = get_drop(session, drop_key)
        assert drop is not None
        root, detector_name = Path(drop.root), drop.detector
        media = _one_file_a_picture(media_with_image(session, drop_key))
    asked = detector_name != "auto"
    detector = open_detector(detector_name, site.settings.weight_search_dirs) if _needed(media, asked) else None
    counts = {"manifest": 0, "detected": 0, "whole": 0, "blank": 0, "known": 0}
    done = 0
    for batch in in_batches(media, BATCH):
        given = [(m, i) for m, i in batch if m.boxes is not None and not (asked and _only_boxes(m))]
        rest = [(m, i) for m, i in batch if (m, i) not in given]
        with site.database.session() as session:
            known = images_with_detections(session, [image.id for _, image in rest])
        fresh = [(m, i) for m, i in rest if i.id not in known]
        rows = [_row(image, BoxRecord.from_json(box), MANIFEST) for m, image in given for box in m.boxes or []]
        counts["manifest"] += len(rows)
        counts["known"] += len(rest) - len(fresh)
        counts["blank"] += sum(not m.boxes for m, _ in given)
        bad: list[QuarantineRow] = []
        for item, image in fresh:
            assert detector is not None
            try:
                boxes = detect_boxes(detector, root / item.file_path, site.settings.min_confidence)
            except (ImageError, OSError) as error:
                bad.append(QuarantineRow(item.file_path, "unreadable", f"cannot be read for detection: {error}"))
                continue
            whole = detector.name == WHOLE_FRAME
            counts["whole" if whole else "detected"] += len(boxes)
            counts["blank"] += not boxes
            rows += [_row(image, box, WHOLE_FRAME if whole else detector.name) for box in boxes]
        with site.database.session() as session:
            add_detections(session, rows)
            real = {row["image_id"] for row in rows if row["source"] != WHOLE_FRAME}
            supersede_whole_frames(session, sorted(real, key=str))
            add_quarantine(session, drop_key, bad)
        done += len(batch)
        report("detections", done, len(media))
    if counts["whole"]:
        with site.database.session() as session:
            add_warnings(
                session,
                drop_key,
                [
                    f"{counts['whole']} pictures have no boxes and no detector was found: the whole frame stands for "
                    "one animal in them (give detections.json, or --detector)"
                ],
            )
    return DetectionReport(
        counts["manifest"],
        counts["detected"],
        counts["whole"],
        counts["blank"],
        counts["known"],
        detector.name if detector else MANIFEST,
    )


def _one_file_a_picture(media: list[tuple[DropMedia, Image]]) -> list[tuple[DropMedia, Image]]:
    """Copies of a picture come after it and bring no boxes of their own."""
    first: dict[uuid.UUID, tuple[DropMedia, Image]] = {}
    for item, image in media:
        first.setdefault(image.id, (item, image))
    return list(first.values())


def _only_boxes(media: DropMedia) -> bool:
    """Whether the table says nothing but where boxes are, so that an explicitly chosen detector may replace it."""
    return all(not box.get("individual_id") for box in media.boxes or [])


def _needed(media: list[tuple[DropMedia, Image]], asked: bool) -> bool:
    return any(item.boxes is None or (asked and _only_boxes(item)) for item, _ in media)


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
