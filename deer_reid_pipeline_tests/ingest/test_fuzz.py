"""Whatever the tables hold: no exception, and every listed picture is accounted for."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deer_reid_pipeline.ingest import BoxRecord, DropContents
from deer_reid_pipeline_tests.ingest.drops import picture, read

NAMES = ("a.jpg", "b.jpg", "sub/c.jpg")
PROFILE = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

numbers = st.one_of(st.floats(), st.integers(), st.floats(0, 1))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(NAMES))
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


def mostly(good: Any) -> Any:
    return st.one_of(good, good, good, anything)


paths = mostly(st.sampled_from([*NAMES, "gone.jpg", "../x.jpg", "", "\ud800", "a\0", "C:/x"]))
boxes = mostly(st.lists(mostly(numbers), min_size=3, max_size=5))
detection = mostly(
    st.fixed_dictionaries({"category": mostly(st.sampled_from("123")), "conf": mostly(numbers), "bbox": boxes})
)
image = mostly(
    st.fixed_dictionaries({"file": paths}, optional={"detections": mostly(st.lists(detection)), "failure": anything})
)
batch = mostly(st.fixed_dictionaries({"images": mostly(st.lists(image))}, optional={"detection_categories": anything}))

cells = st.one_of(
    st.sampled_from([*NAMES, "gone.jpg", "../x.jpg", "N1", "N2", "animal", "blank", "human", "media", "event"]),
    st.sampled_from(["0.1", "0.5", "nan", "-1", "1e999", "", "", '"', "NA", "1", "2", "E1", "2024-05-01T00:00:00Z"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
OBSERVED = [
    "filePath",
    "individualID",
    "bboxX",
    "bboxY",
    "bboxWidth",
    "bboxHeight",
    "timestamp",
    "sex",
    "eventID",
]
CAMTRAP = [
    "observationType",
    "observationLevel",
    "mediaID",
    "eventID",
    "individualID",
    *OBSERVED[2:6],
    "eventStart",
]


def csv_text(columns: list[str]) -> Any:
    rows = st.lists(st.lists(cells, min_size=max(len(columns) - 1, 0), max_size=len(columns) + 1), max_size=8)
    return rows.map(lambda found: "\n".join([",".join(columns), *(",".join(row) for row in found)]).encode())


def check(files: dict[str, bytes]) -> DropContents:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in NAMES:
            picture(root, name)
        for name, data in files.items():
            (root / name).write_bytes(data)
        contents = read(root)
    accounted = {record.file_path for record in contents.media} | {entry.file for entry in contents.quarantined}
    assert accounted.issuperset(NAMES)
    for text in [*contents.warnings, *(entry.reason for entry in contents.quarantined)]:
        assert text.isascii()
        assert text.isprintable()
    for entry in contents.quarantined:
        entry.file.encode("utf-8")
        assert "\0" not in entry.file
    for box in (box for record in contents.media for box in record.boxes or ()):
        assert 0 <= box.x <= 1
        assert 0 <= box.y <= 1
        assert 0 < box.width <= 1
        assert 0 < box.height <= 1
        assert 0 <= box.confidence <= 1
        assert BoxRecord.from_json(json.loads(json.dumps(box.to_json()))) == box
    return contents


@PROFILE
@given(batch)
def test_detections_json(document: Any) -> None:
    contents = check({"detections.json": json.dumps(document).encode()})
    if contents.layout != "megadetector":
        return
    told = {entry.file for entry in contents.quarantined}
    for item in document["images"]:
        file = item.get("file") if isinstance(item, dict) else None
        if isinstance(file, str) and file.strip() and file.isprintable() and len(file) < 100:
            assert any(record.file_path == file for record in contents.media) or any(file in text for text in told)


@PROFILE
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
@pytest.mark.parametrize("name", ["detections.json", "observations.csv", "datapackage.json"])
def test_any_bytes(name: str, data: bytes) -> None:
    check({name: data})


@PROFILE
@given(csv_text(OBSERVED))
def test_observations_csv(data: bytes) -> None:
    contents = check({"observations.csv": data})
    assert contents.layout == "observations"


@PROFILE
@given(csv_text(["mediaID", "filePath", "deploymentID", "timestamp"]), csv_text(CAMTRAP), st.booleans())
def test_camtrap_packages(media: bytes, observations: bytes, well_formed: bool) -> None:
    if well_formed:
        rows = "".join(f"\n{n},{name},d1,2024-05-01T00:00:00Z" for n, name in enumerate(NAMES, start=1))
        media = b"mediaID,filePath,deploymentID,timestamp" + rows.encode()
    resources = [{"name": name, "path": f"{name}.csv"} for name in ("media", "observations")]
    descriptor = json.dumps({"resources": resources}).encode()
    contents = check({"datapackage.json": descriptor, "media.csv": media, "observations.csv": observations})
    assert contents.layout == "camtrap_dp"


@PROFILE
@given(st.lists(cells, max_size=4), csv_text([]))
def test_odd_headers(columns: list[str], rest: bytes) -> None:
    header = ",".join(["mediaID", "filePath", *columns]).encode()
    descriptor = b'{"resources": [{"name": "media", "path": "media.csv"}]}'
    check({"datapackage.json": descriptor, "media.csv": header + b"\n1,a.jpg" + b"," * len(columns) + rest})


@PROFILE
@given(anything, mostly(st.just("media.csv")))
def test_any_descriptor(extra: Any, path: Any) -> None:
    descriptor = {"resources": [{"name": "media", "path": path, "schema": extra, "dialect": extra}, extra]}
    assert check({"datapackage.json": json.dumps(descriptor).encode(), "media.csv": b"mediaID,filePath\n1,a.jpg"})
