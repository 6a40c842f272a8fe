"""Layout 1: what of a MegaDetector file becomes a box, and what goes to the quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deer_reid_pipeline_tests.ingest.drops import box, codes, detections, media, picture, read


def test_only_sure_animals_become_boxes(tmp_path: Path) -> None:
    picture(tmp_path, "images/a.jpg")
    picture(tmp_path, "images/b.JPG")
    found = [box(), box((0.5, 0.5, 0.2, 0.2), conf=0.1), box(category="2"), box(category="3")]
    detections(
        tmp_path,
        [{"file": "images\\a.jpg", "detections": found}, {"file": "./images/b.JPG", "detections": []}],
    )
    contents = read(tmp_path)
    assert contents.layout == "megadetector"
    (only,) = media(contents, "images/a.jpg").boxes or ()
    assert (only.x, only.y, only.width, only.height) == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert (only.confidence, only.category, only.individual_id, only.whole_picture) == (
        0.9,
        "animal",
        None,
        False,
    )
    assert media(contents, "images/b.JPG").boxes == ()
    assert contents.quarantined == ()
    assert contents.warnings == (
        "1 box under the confidence 0.2 left out",
        "2 boxes of other categories left out: person 1, vehicle 1",
    )


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (box((0.1, 0.1, float("nan"), 0.1)), "bad_box"),
        (box((0.1, 0.1, float("inf"), 0.1)), "bad_box"),
        (box((0.1, 0.1, 10**400, 0.1)), "bad_box"),
        (box((0.1, 0.1, "0.1", 0.1)), "bad_box"),
        (box((0.1, 0.1, True, 0.1)), "bad_box"),
        (box((0.1, 0.1, None, 0.1)), "bad_box"),
        (box((0.1, 0.1, [1], 0.1)), "bad_box"),
        (box((0.1, 0.1, 0.1)), "bad_box"),
        (box({"x": 1}), "bad_box"),
        (box((0.1, 0.1, 0, 0.1)), "bad_box"),
        (box((0.1, 0.1, 0.1, -0.1)), "bad_box"),
        (box((0.9, 0.1, 0.12, 0.1)), "box_outside"),
        (box((-0.02, 0.1, 0.1, 0.1)), "box_outside"),
        (box((120, 80, 300, 200)), "box_outside"),
        (box(conf="high"), "bad_value"),
        (box(conf=float("nan")), "bad_value"),
        (box(conf=1.5), "bad_value"),
        (box(category="9"), "bad_value"),
        (box(category=None), "bad_value"),
        (box(category=["1"]), "bad_value"),
        ([], "bad_row"),
        (None, "bad_row"),
    ],
)
def test_a_bad_box_is_quarantined_and_is_no_whole_frame_guess(tmp_path: Path, bad: Any, code: str) -> None:
    picture(tmp_path, "a.jpg")
    detections(tmp_path, [{"file": "a.jpg", "detections": [bad]}])
    contents = read(tmp_path)
    assert codes(contents) == [("detections.json:images[0].detections[0] (a.jpg)", code)]
    assert media(contents, "a.jpg").boxes == ()


def test_a_small_overshoot_is_clipped(tmp_path: Path) -> None:
    picture(tmp_path, "a.jpg")
    detections(tmp_path, [{"file": "a.jpg", "detections": [box((-0.009, 0.5, 0.509, 0.509))]}])
    contents = read(tmp_path)
    (only,) = media(contents, "a.jpg").boxes or ()
    assert (only.x, only.y, only.width, only.height) == pytest.approx((0.0, 0.5, 0.5, 0.5))
    assert contents.quarantined == ()


def test_failures_and_missing_detections_leave_the_picture_to_a_detector(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path, name)
    entries = [
        {"file": "a.jpg", "failure": "image access", "detections": None},
        {"file": "b.jpg"},
        {"file": 7},
        "nonsense",
        {"file": "gone.jpg", "detections": []},
    ]
    detections(tmp_path, entries)
    contents = read(tmp_path)
    assert codes(contents) == [
        ("detections.json:images[0] (a.jpg)", "detector_failure"),
        ("detections.json:images[1] (b.jpg)", "bad_row"),
        ("detections.json:images[2]", "bad_row"),
        ("detections.json:images[3]", "bad_row"),
        ("gone.jpg", "missing_file"),
    ]
    assert [record.boxes for record in contents.media] == [None, None, None]
    assert "1 picture in the folder not listed in detections.json" in contents.warnings


def test_the_same_entry_and_the_same_box_twice(tmp_path: Path) -> None:
    picture(tmp_path, "a.jpg")
    detections(tmp_path, [{"file": "a.jpg", "detections": [box(), box()]}, {"file": "a.jpg", "detections": [box()]}])
    contents = read(tmp_path)
    assert codes(contents) == [
        ("detections.json:images[0].detections[1] (a.jpg)", "duplicate_row"),
        ("detections.json:images[1] (a.jpg)", "duplicate_row"),
    ]
    assert len(media(contents, "a.jpg").boxes or ()) == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b'{"images": [{"file": "a.jpg", "det', "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"images": {}}', 'no list "images"'),
        (b"[]", 'no list "images"'),
        (b"null", 'no list "images"'),
        ('{"images": []}'.encode("utf-16"), "UTF-16"),
        (b'{"images": ["\xe9"]}', "not UTF-8"),
    ],
)
def test_an_unusable_file_is_quarantined_and_the_pictures_are_read_alone(tmp_path: Path, data: bytes, why: str) -> None:
    picture(tmp_path, "a.jpg")
    (tmp_path / "detections.json").write_bytes(data)
    contents = read(tmp_path)
    assert contents.layout == "images"
    assert codes(contents) == [("detections.json", "unreadable_manifest")]
    assert why in contents.quarantined[0].reason
    assert contents.warnings == ("detections.json cannot be used; the pictures are read without it",)
    assert media(contents, "a.jpg").boxes is None


def test_a_byte_order_mark_and_missing_categories_are_fine(tmp_path: Path) -> None:
    picture(tmp_path, "a.jpg")
    text = '{"images": [{"file": "a.jpg", "detections": [{"category": 1, "conf": 1, "bbox": [0, 0, 1, 1]}]}]}'
    (tmp_path / "detections.json").write_bytes(text.encode("utf-8-sig"))
    contents = read(tmp_path)
    assert len(media(contents, "a.jpg").boxes or ()) == 1
    assert "no detection_categories" in contents.warnings[0]
