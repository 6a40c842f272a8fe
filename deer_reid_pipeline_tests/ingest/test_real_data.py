"""The development pictures: counts that are known from their README."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest

from deer_reid_pipeline_tests.ingest.drops import read
from deer_reid_pipeline_tests.ingest.packages import write_package

pytestmark = pytest.mark.data


def data(name: str) -> Path:
    default = Path(__file__).resolve().parents[2] / "../shared/data"
    folder = Path(os.environ.get("DEER_REID_DATA") or default) / name
    if not folder.is_dir():
        pytest.skip(f"no development pictures {name}; set DEER_REID_DATA to the folder that holds them")
    return folder


def test_nyala() -> None:
    contents = read(data("nyala"))
    boxes = [box for record in contents.media for box in record.boxes or ()]
    assert (contents.layout, len(contents.media), len(boxes)) == ("observations", 1138, 1138)
    assert len({box.individual_id for box in boxes}) == 142
    assert (contents.quarantined, contents.warnings) == ((), ())
    events = [record.event_id or "" for record in contents.media]
    assert events == sorted(events)


def test_whitetail() -> None:
    """396 pictures and 498 boxes are listed; 3 pictures are copies, each with the same one box."""
    contents = read(data("whitetail"))
    boxes = [box for record in contents.media for box in record.boxes or ()]
    copies = [entry for entry in contents.quarantined if entry.code == "duplicate_image"]
    assert contents.layout == "megadetector"
    assert len(contents.quarantined) == len(copies) == 3
    assert len(contents.media) + len(copies) == 396
    assert len(boxes) + len(copies) == 498


def test_nyala_as_a_camtrap_package(tmp_path: Path) -> None:
    source = data("nyala")
    with (source / "observations.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))[:40]
    (tmp_path / "images").mkdir()
    for row in rows:
        shutil.copy(source / row["filePath"], tmp_path / row["filePath"])
    media = [{"mediaID": f"m{n}", "filePath": row["filePath"]} for n, row in enumerate(rows)]
    observations = [
        {
            "observationID": f"o{n}",
            "mediaID": f"m{n}",
            "observationLevel": "media",
            "observationType": "animal",
            "classificationMethod": "human",
            **{key: row[key] for key in ("individualID", "eventID", "viewpoint")},
        }
        for n, row in enumerate(rows)
    ]
    write_package(tmp_path, media, observations)
    contents = read(tmp_path)
    assert (contents.layout, contents.quarantined) == ("camtrap_dp", ())
    back = {
        (record.file_path, box.individual_id, record.event_id, box.viewpoint)
        for record in contents.media
        for box in record.boxes or ()
    }
    assert back == {(row["filePath"], row["individualID"], row["eventID"], row["viewpoint"]) for row in rows}
