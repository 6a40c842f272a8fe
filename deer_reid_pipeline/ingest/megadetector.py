"""`detections.json`: the batch output of MegaDetector.

Read: images[].file, images[].detections[].{category, conf, bbox}, images[].failure, detection_categories. A
bbox is [x_min, y_min, width, height] in shares of the picture's size.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from deer_reid_pipeline.ingest.claims import Claims
from deer_reid_pipeline.ingest.ledger import BadValue, Ledger
from deer_reid_pipeline.ingest.manifest import UnusableManifest, load_json
from deer_reid_pipeline.ingest.paths import PictureIndex
from deer_reid_pipeline.ingest.records import BoxRecord
from deer_reid_pipeline.ingest.values import clip_box, number
from deer_reid_pipeline.ingest.wording import printable, storable

_DEFAULT_CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}


def open_manifest(path: Path) -> dict[str, Any]:
    """The parsed file.

    Raises:
        UnusableManifest: it is not JSON, or has no list "images".
    """
    document = load_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise UnusableManifest('it has no list "images", so it is not a MegaDetector batch file')
    return document


class MegaDetectorReader:
    """Turns the parsed file into claims; what cannot be used goes to the ledger."""

    def __init__(self, name: str, index: PictureIndex, claims: Claims, ledger: Ledger, min_confidence: float) -> None:
        self._name = name
        self._index = index
        self._claims = claims
        self._ledger = ledger
        self._min_confidence = min_confidence
        self._other: Counter[str] = Counter()
        self._faint = 0
        self._seen: dict[str, int] = {}
        self._categories: dict[str, str] = {}

    def read(self, document: dict[str, Any]) -> None:
        """Read every entry. Nothing in the document, however odd, raises."""
        given = document.get("detection_categories")
        if isinstance(given, dict):
            self._categories = {
                key: value.strip().lower() if isinstance(value, str) else "unnamed" for key, value in given.items()
            }
        else:
            self._categories = dict(_DEFAULT_CATEGORIES)
            self._ledger.warn(f"{self._name} has no detection_categories; 1 animal, 2 person, 3 vehicle assumed")
        for number_, image in enumerate(document["images"]):
            self._image(number_, image)
        if self._faint:
            self._ledger.warn(f"{self._boxes(self._faint)} under the confidence {self._min_confidence:g} left out")
        if self._other:
            kinds = ", ".join(f"{printable(kind, 30)} {count}" for kind, count in sorted(self._other.items()))
            self._ledger.warn(f"{self._boxes(sum(self._other.values()))} of other categories left out: {kinds}")

    @staticmethod
    def _boxes(count: int) -> str:
        return "1 box" if count == 1 else f"{count} boxes"

    def _image(self, position: int, image: Any) -> None:
        place = f"{self._name}:images[{position}]"
        file = image.get("file") if isinstance(image, dict) else None
        if not isinstance(file, str):
            self._ledger.quarantine(place, "bad_row", 'the entry has no text "file"')
            return
        place = f"{place} ({file})"
        try:
            rel = self._index.find(file)
        except BadValue as error:
            self._ledger.quarantine(file if file.strip() else place, error.code, f"{error.reason} (see {self._name})")
            return
        if rel is None:
            return
        failure, detections = image.get("failure"), image.get("detections")
        if not isinstance(detections, list) or failure:
            self._claims.claim(rel)
            if failure:
                what = printable(failure, 100) if isinstance(failure, str) else "no text given"
                self._ledger.quarantine(place, "detector_failure", f"the detector failed on this picture: {what}")
            else:
                self._ledger.quarantine(place, "bad_row", 'the entry has no list "detections"')
            return
        if rel in self._seen:
            first = self._seen[rel]
            self._ledger.quarantine(place, "duplicate_row", f"images[{first}] already describes this picture")
            return
        self._seen[rel] = position
        self._claims.claim(rel).looked_at = True
        for at, detection in enumerate(detections):
            spot = f"{self._name}:images[{position}].detections[{at}] ({storable(file, 120)})"
            try:
                box = self._box(detection)
            except BadValue as error:
                self._ledger.quarantine(spot, error.code, error.reason)
                continue
            if box is not None:
                self._claims.add_box(rel, box, spot)

    def _box(self, detection: Any) -> BoxRecord | None:
        if not isinstance(detection, dict):
            raise BadValue("bad_row", "the detection is not an object")
        raw = detection.get("category")
        key = str(raw) if isinstance(raw, int | str) and not isinstance(raw, bool) else ""
        category = self._categories.get(key)
        if category is None:
            raise BadValue("bad_value", f"category {printable(key, 20) or 'none'} is not in detection_categories")
        if category != "animal":
            self._other[category] += 1
            return None
        try:
            confidence = number(detection.get("conf"))
        except BadValue:
            confidence = -1.0
        if not 0 <= confidence <= 1:
            raise BadValue("bad_value", "conf is not a number between 0 and 1")
        bbox = detection.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4:
            raise BadValue("bad_box", "bbox is not a list of 4 numbers")
        if any(isinstance(side, str) for side in bbox):
            raise BadValue("bad_box", "bbox holds text where numbers belong")
        x, y, width, height = clip_box(*map(number, bbox))
        if confidence < self._min_confidence:
            self._faint += 1
            return None
        return BoxRecord(x, y, width, height, confidence)
