"""The files beside the pictures: the manifest with gaps, the truth without, and the boxes as a detector's
answer.
"""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = (
    "filePath", "individualID", "eventID", "viewpoint", "sex", "lifeStage", "timestamp", "deploymentID",
    "bboxX", "bboxY", "bboxWidth", "bboxHeight",
)  # fmt: skip
MANIFEST, TRUTH, TRUTH_BOXES = "observations.csv", "ground_truth.csv", "ground_truth_megadetector.json"


@dataclass(frozen=True)
class Sighting:
    """One animal in one picture: its row in the tables, and what of it the manifest keeps to itself."""

    row: dict[str, str]
    known: bool
    tell_sex: bool
    tell_stage: bool

    def told(self) -> dict[str, str]:
        """The row as the manifest has it."""
        row = dict(self.row)
        if not self.known:
            row["individualID"] = ""
        if not self.tell_sex:
            row["sex"] = ""
        if not self.tell_stage:
            row["lifeStage"] = ""
        return row


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half done, even if the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, keys in the order given, one final newline."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode("ascii"))


def _csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("ascii")


def write_tables(folder: Path, sightings: list[Sighting]) -> None:
    """Write manifest, truth and truth boxes of a herd into `folder`."""
    write_atomically(folder / TRUTH, _csv([sighting.row for sighting in sightings]))
    images: dict[str, list[dict[str, Any]]] = {}
    for sighting in sightings:
        box = [float(sighting.row[name]) for name in COLUMNS[-4:]]
        images.setdefault(sighting.row["filePath"], []).append({"category": "1", "conf": 1.0, "bbox": box})
    answer = {
        "info": {"detector": "ground truth of a drawn herd", "format_version": "1.4"},
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
        "images": [{"file": name, "detections": found} for name, found in images.items()],
    }
    write_json(folder / TRUTH_BOXES, answer)
    # The manifest last: a drop that has one is complete.
    write_atomically(folder / MANIFEST, _csv([sighting.told() for sighting in sightings]))
