"""Hand-made drops: folders with small stand-in pictures (ingest never decodes one) and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deer_reid_pipeline.ingest import DropContents, MediaRecord, read_drop, seal_drop


def picture(root: Path, rel: str, content: bytes | None = None) -> Path:
    """Write a file with contents of its own, so that it is nobody's copy."""
    path = root / rel
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rel.encode("utf-8", "surrogateescape") if content is None else content)
    return path


def table(root: Path, text: str, name: str = "observations.csv") -> None:
    (root / name).write_bytes(text.encode())


def detections(root: Path, images: list[Any], **more: Any) -> None:
    categories = {"1": "animal", "2": "person", "3": "vehicle"}
    document = {"images": images, "detection_categories": categories, **more}
    (root / "detections.json").write_text(json.dumps(document), encoding="utf-8")


def box(bbox: Any = (0.1, 0.2, 0.3, 0.4), conf: Any = 0.9, category: Any = "1") -> dict[str, Any]:
    return {"category": category, "conf": conf, "bbox": list(bbox) if isinstance(bbox, tuple) else bbox}


def read(root: Path, min_confidence: float = 0.2) -> DropContents:
    return read_drop(seal_drop(root), min_confidence=min_confidence)


def codes(contents: DropContents) -> list[tuple[str, str]]:
    return [(entry.file, entry.code) for entry in contents.quarantined]


def media(contents: DropContents, rel: str) -> MediaRecord:
    return next(record for record in contents.media if record.file_path == rel)
