"""Layout 3: Camtrap DP packages, media-level boxes and event-level identities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deer_reid_pipeline.ingest import seal_drop
from deer_reid_pipeline_tests.ingest.drops import codes, media, picture, read, table
from deer_reid_pipeline_tests.ingest.packages import write_package, write_table

BOX = {"bboxX": 0.1, "bboxY": 0.2, "bboxWidth": 0.3, "bboxHeight": 0.4}


def animal(media_id: str, **more: Any) -> dict[str, Any]:
    return {"observationLevel": "media", "mediaID": media_id, "observationType": "animal", **more}


def event(event_id: str, kind: str = "animal", **more: Any) -> dict[str, Any]:
    return {"observationLevel": "event", "eventID": event_id, "observationType": kind, **more}


def package(root: Path, observations: list[dict[str, Any]], count: int = 2, **more: Any) -> None:
    for number in range(1, count + 1):
        picture(root, f"images/{number}.jpg")
    rows = [{"mediaID": str(n), "filePath": f"images/{n}.jpg", **more} for n in range(1, count + 1)]
    write_package(root, rows, observations)


def names(root: Path) -> dict[str, list[str | None] | None]:
    found = read(root).media
    return {
        record.file_path: None if record.boxes is None else [box.individual_id for box in record.boxes]
        for record in found
    }


def test_media_level_rows_carry_boxes(tmp_path: Path) -> None:
    tags = {"observationTags": "night|viewpoint:right"}
    rows = [
        animal("1", **BOX, individualID="N1", sex="female", lifeStage="adult", eventID="E1", **tags),
        {"mediaID": "2", "observationType": "blank"},
        {"mediaID": "3", "observationType": "human"},
        {"mediaID": "4", "observationType": "unclassified"},
    ]
    package(tmp_path, rows, 5, timestamp="2024-05-01T06:00:00Z")
    contents = read(tmp_path)
    assert contents.layout == "camtrap_dp"
    first = media(contents, "images/1.jpg")
    assert (first.event_id, first.deployment_id) == ("E1", "d1")
    (box,) = first.boxes or ()
    assert (box.x, box.y, box.width, box.height) == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert (box.individual_id, box.sex, box.classification, box.viewpoint) == ("N1", "female", "doe", "right")
    assert [media(contents, f"images/{n}.jpg").boxes for n in (2, 3, 4, 5)] == [(), (), None, None]
    assert contents.quarantined == ()
    sealed = {file.rel for file in seal_drop(tmp_path).files}
    assert {"datapackage.json", "media.csv", "observations.csv", "deployments.csv"} < sealed


def test_row_errors_become_quarantine_entries(tmp_path: Path) -> None:
    rows = [
        animal("1", **{**BOX, "bboxX": "left"}),
        animal("1", **{**BOX, "bboxX": "NaN"}),
        animal("1", bboxX=0.1),
        animal("9", **BOX),
        {"mediaID": "2", "observationType": "deer"},
        {"mediaID": "2", "observationType": ""},
        {"observationLevel": "media", "observationType": "animal"},
    ]
    package(tmp_path, rows)
    with (tmp_path / "observations.csv").open("a", encoding="utf-8") as handle:
        handle.write("x\n")
    contents = read(tmp_path)
    place = "observations.csv:{} ({})".format
    assert codes(contents) == [
        (place(2, "images/1.jpg"), "bad_box"),
        (place(3, "images/1.jpg"), "bad_box"),
        (place(4, "images/1.jpg"), "bad_box"),
        (place(5, "9"), "unknown_media"),
        (place(6, "images/2.jpg"), "bad_value"),
        (place(7, "images/2.jpg"), "bad_value"),
        (place(8, ""), "bad_row"),
        (place(9, ""), "bad_row"),
    ]
    assert [record.boxes for record in contents.media] == [(), ()]


def test_one_individual_of_an_event_goes_to_its_pictures(tmp_path: Path) -> None:
    rows = [
        event("E1", individualID="N1", sex="male"),
        {"mediaID": "1", "observationType": "unclassified", "eventID": "E1"},
        animal("2", **BOX, eventID="E1"),
        {"mediaID": "3", "observationType": "blank", "eventID": "E1"},
        animal("4", **BOX, eventID="E1"),
        animal("4", **{**BOX, "bboxX": 0.5}, eventID="E1"),
    ]
    package(tmp_path, rows, 5)
    assert names(tmp_path) == {
        "images/1.jpg": ["N1"],
        "images/2.jpg": ["N1"],
        "images/3.jpg": [],
        "images/4.jpg": [None, None],
        "images/5.jpg": None,
    }
    (box,) = media(read(tmp_path), "images/2.jpg").boxes or ()
    assert (box.sex, box.classification, box.whole_picture) == ("male", "buck", False)


@pytest.mark.parametrize(
    "rows",
    [
        [event("E1", individualID="N1"), event("E1", individualID="N2")],
        [event("E1", individualID="N1"), event("E1")],
        [event("E1", individualID="N1", count="2")],
        [event("E1", individualID="N1"), animal("2", eventID="E1", individualID="N2")],
        [event("E1", individualID="N1", classificationMethod="machine")],
    ],
)
def test_an_event_that_may_hold_two_animals_names_none(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    package(tmp_path, [*rows, {"mediaID": "1", "observationType": "unclassified", "eventID": "E1"}])
    assert names(tmp_path)["images/1.jpg"] is None
    assert any("individualID" in text for text in read(tmp_path).warnings)


def test_an_event_reaches_pictures_by_its_time_span(tmp_path: Path) -> None:
    span = {"eventStart": "2024-05-01T06:00:00Z", "eventEnd": "2024-05-01T06:10:00Z", "deploymentID": "d1"}
    package(tmp_path, [event("E1", individualID="N1", **span)], 2, timestamp="2024-05-01T08:05:00+02:00")
    assert names(tmp_path) == {"images/1.jpg": ["N1"], "images/2.jpg": ["N1"]}
    package(tmp_path, [event("E1", individualID="N1", **span)], 2, timestamp="2024-05-01T06:11:00Z")
    assert names(tmp_path) == {"images/1.jpg": None, "images/2.jpg": None}
    package(tmp_path, [event("E1", "blank", **span)], 2, timestamp="2024-05-01T06:10:00Z")
    assert names(tmp_path) == {"images/1.jpg": [], "images/2.jpg": []}


def test_media_rows_that_repeat_or_lead_nowhere(tmp_path: Path) -> None:
    picture(tmp_path, "a.jpg")
    rows = [
        {"mediaID": "1", "filePath": "a.jpg"},
        {"mediaID": "2", "filePath": "a.jpg"},
        {"mediaID": "3", "filePath": "https://example.invalid/a.jpg"},
        {"mediaID": "4", "filePath": "gone.jpg", "deploymentID": "d9"},
        {"mediaID": "", "filePath": "a.jpg"},
    ]
    write_package(tmp_path, rows, [animal("2", **BOX), animal("4", **BOX)])
    contents = read(tmp_path)
    assert [code for _, code in codes(contents)] == [
        "duplicate_row",
        "remote_file",
        "missing_file",
        "bad_value",
    ]
    assert len(media(contents, "a.jpg").boxes or ()) == 1


@pytest.mark.parametrize("bad", ["d" * 201, "d\0", "d\x07"])
def test_deployments_that_cannot_be_stored_cost_no_more_than_themselves(tmp_path: Path, bad: str) -> None:
    package(tmp_path, [{"mediaID": "1", "observationType": "blank"}])
    where = {"latitude": 50.123456, "longitude": 8.654321}
    rows = [
        {"deploymentID": bad, "locationName": "Oak", **where},
        {"deploymentID": "d1", "locationName": bad, **where},
        {"deploymentID": "d2", "locationName": "Elm", **where},
    ]
    write_table(tmp_path / "deployments.csv", rows, list(rows[0]))
    contents = read(tmp_path)
    assert [(c.deployment_id, c.name) for c in contents.deployments] == [("d1", None), ("d2", "Elm")]
    (refused,) = contents.quarantined
    assert (refused.code, refused.file[:17]) == ("bad_value", "deployments.csv:2")
    assert "deploymentID is longer than 200 characters or holds control" in refused.reason
    assert any("locationName cannot be used" in line and "d1" in line for line in contents.warnings)
    assert not any(number in f"{contents.quarantined} {contents.warnings}" for number in ("123456", "654321"))


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        ([{"name": "media", "path": "../media.csv"}], "not safe"),
        ([{"name": "media", "path": "/media.csv"}], "not safe"),
        ([{"name": "media", "path": "https://example.invalid/media.csv"}], "web address"),
        ([{"name": "media", "path": "link.csv"}], "outside the drop"),
        ([{"name": "media", "path": "none.csv"}], "missing"),
        ([{"name": "media", "path": "utf16.csv"}], "UTF-16"),
        ([{"name": "media", "path": "a.jpg"}], "not a plain"),
        ([{"name": "media", "data": []}], "no single file"),
        ([{"name": "media", "path": "m.csv"}, {"name": "media", "path": "m.csv"}], "data package"),
        ([{"name": "media", "path": "nocolumns.csv"}], "no column mediaID"),
        ([{"name": "birds", "path": "m.csv"}, 3], "table media"),
        ({"media": 1}, 'no list "resources"'),
    ],
)
def test_unusable_packages_are_quarantined(tmp_path: Path, resources: Any, why: str) -> None:
    drop = tmp_path / "drop"
    picture(drop, "a.jpg")
    table(tmp_path, "mediaID,filePath\n1,a.jpg\n", "media.csv")
    table(drop, "mediaID,filePath\n1,a.jpg\n", "m.csv")
    table(drop, "x\n", "nocolumns.csv")
    (drop / "utf16.csv").write_bytes("mediaID,filePath\n".encode("utf-16"))
    (drop / "link.csv").symlink_to(tmp_path / "media.csv")
    (drop / "datapackage.json").write_text(json.dumps({"resources": resources}), encoding="utf-8")
    contents = read(drop)
    assert contents.layout == "images"
    assert ("datapackage.json", "unreadable_manifest") in codes(contents)
    assert why in contents.quarantined[0].reason


def test_a_broken_observations_table_leaves_the_media(tmp_path: Path) -> None:
    package(tmp_path, [animal("1", **BOX)])
    (tmp_path / "observations.csv").write_bytes(b"")
    contents = read(tmp_path)
    assert contents.layout == "camtrap_dp"
    assert codes(contents) == [("observations.csv", "unreadable_manifest")]
    assert [record.deployment_id for record in contents.media] == ["d1", "d1"]
