"""Layout 2: rows of observations.csv, good, odd and broken."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from deer_reid_pipeline_tests.ingest.drops import codes, media, picture, read, table

BOXED = "filePath,individualID,bboxX,bboxY,bboxWidth,bboxHeight\n"


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    picture(tmp_path, "a.jpg")
    picture(tmp_path, "b.jpg")
    return tmp_path


def test_a_row_without_a_box_is_the_whole_picture(drop: Path) -> None:
    table(drop, "filePath,individualID,eventID,viewpoint\na.jpg, N1 ,E2,LEFT\nb.jpg,,E1,\n")
    contents = read(drop)
    assert [record.file_path for record in contents.media] == ["b.jpg", "a.jpg"]
    (one,) = media(contents, "a.jpg").boxes or ()
    assert (one.x, one.y, one.width, one.height, one.whole_picture) == (0, 0, 1, 1, True)
    assert (one.individual_id, one.viewpoint, one.confidence) == ("N1", "left", 1.0)
    (other,) = media(contents, "b.jpg").boxes or ()
    assert other.individual_id is None
    assert (contents.quarantined, contents.warnings) == ((), ())


def test_several_rows_are_several_boxes(drop: Path) -> None:
    table(drop, BOXED + "a.jpg,N1,0.1,0.1,0.2,0.2\na.jpg,N2,0.5,0.5,0.2,0.2\n")
    contents = read(drop)
    assert [item.individual_id for item in media(contents, "a.jpg").boxes or ()] == ["N1", "N2"]
    assert media(contents, "b.jpg").boxes is None
    assert contents.warnings == ("1 picture in the folder not listed in observations.csv",)


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("a.jpg,N1,0.1,0.1,,0.2", "bad_box"),
        ("a.jpg,N1,nan,0.1,0.2,0.2", "bad_box"),
        ("a.jpg,N1,0.1,inf,0.2,0.2", "bad_box"),
        ("a.jpg,N1,x,0.1,0.2,0.2", "bad_box"),
        ("a.jpg,N1,0.1,0.1,0,0.2", "bad_box"),
        ("a.jpg,N1,0.9,0.1,0.2,0.2", "box_outside"),
        ("a.jpg," + "N" * 101 + ",0.1,0.1,0.2,0.2", "bad_value"),
        ("a.jpg,N\x01,0.1,0.1,0.2,0.2", "bad_value"),
        ("a.jpg,N1,0.1,0.1,0.2", "bad_row"),
        ("a.jpg,N1,0.1,0.1,0.2,0.2,0.3", "bad_row"),
    ],
)
def test_a_bad_row_keeps_the_picture_without_a_guess(drop: Path, row: str, code: str) -> None:
    table(drop, BOXED + row + "\n")
    contents = read(drop)
    assert codes(contents) == [("observations.csv:2 (a.jpg)", code)]
    assert media(contents, "a.jpg").boxes == ()
    assert all(entry.reason.isascii() and "\n" not in entry.reason for entry in contents.quarantined)


def test_repeated_and_contradicting_rows(drop: Path) -> None:
    same = "0.1,0.1,0.2,0.2\n"
    rows = [f"a.jpg,{name},{same}" for name in ("N1", "N1", "N2", "")]
    table(drop, BOXED + "".join(rows) + f"b.jpg,,{same}b.jpg,N3,{same}")
    contents = read(drop)
    assert codes(contents) == [
        ("observations.csv:3 (a.jpg)", "duplicate_row"),
        ("observations.csv:4 (a.jpg)", "conflicting_row"),
        ("observations.csv:5 (a.jpg)", "duplicate_row"),
        ("observations.csv:6 (b.jpg)", "duplicate_row"),
    ]
    assert "N1" in contents.quarantined[1].reason
    assert "N2" in contents.quarantined[1].reason
    assert [box.individual_id for record in contents.media for box in record.boxes or ()] == ["N1", "N3"]


@pytest.mark.parametrize(
    ("sex", "stage", "expected"),
    [
        ("male", "", ("male", None, "buck")),
        ("FEMALE", "adult", ("female", "adult", "doe")),
        ("male", "juvenile", ("male", "juvenile", "fawn")),
        ("buck", "", ("male", None, "buck")),
        ("doe", "", ("female", None, "doe")),
        ("mature", "", ("male", None, "mature")),
        ("Mid", "", ("male", None, "mid")),
        ("young", "", ("male", None, "young")),
        ("fawn", "", ("unknown", "juvenile", "fawn")),
        ("", "fawn", ("unknown", "juvenile", "fawn")),
        ("unknown", "subadult", ("unknown", "subadult", "unknown")),
        ("hermit", "elder", ("unknown", None, "unknown")),
    ],
)
def test_words_for_sex_and_age(drop: Path, sex: str, stage: str, expected: tuple[str, ...]) -> None:
    table(drop, f"filePath,sex,lifeStage\na.jpg,{sex},{stage}\n")
    contents = read(drop)
    (box,) = media(contents, "a.jpg").boxes or ()
    assert (box.sex, box.life_stage, box.classification) == expected
    warned = [text for text in contents.warnings if "not known" in text]
    assert bool(warned) == (sex == "hermit")
    assert not warned or warned[0].startswith("2 x ")


def test_semicolons_tabs_marks_and_decimal_commas(drop: Path) -> None:
    text = BOXED.replace(",", ";") + 'a.jpg;"N;1";0,1;0,1;0,2;0,2\n'
    (drop / "observations.csv").write_bytes(text.encode("utf-8-sig"))
    (box,) = media(read(drop), "a.jpg").boxes or ()
    assert (box.individual_id, box.x, box.width) == ("N;1", pytest.approx(0.1), pytest.approx(0.2))
    table(drop, "individualID\tFILEPATH\r\nN1\ta.jpg\r\n")
    (box,) = media(read(drop), "a.jpg").boxes or ()
    assert box.individual_id == "N1"


def test_times_put_pictures_in_order(drop: Path) -> None:
    picture(drop, "c.jpg")
    rows = "a.jpg,2024-05-01T08:00:00+02:00\nb.jpg,2024-05-01T05:59:00Z\nc.jpg,2024:05:01 06:30:00\n"
    table(drop, "filePath,timestamp\n" + rows)
    contents = read(drop)
    assert [record.file_path for record in contents.media] == ["b.jpg", "a.jpg", "c.jpg"]
    assert contents.media[0].timestamp == datetime(2024, 5, 1, 5, 59, tzinfo=UTC)
    assert contents.media[2].timestamp == datetime(2024, 5, 1, 6, 30)


@pytest.mark.parametrize("when", ["yesterday", "2024-05-01", "31.12.2024 10:00", "0001-01-01T00:00:00+14:00"])
def test_a_bad_time_is_left_empty_with_a_warning(drop: Path, when: str) -> None:
    table(drop, f"filePath,timestamp\na.jpg,{when}\n")
    contents = read(drop)
    assert media(contents, "a.jpg").timestamp is None
    assert any(text.startswith("1 x timestamp") for text in contents.warnings)
    assert contents.quarantined == ()


def test_columns_views_and_names_that_say_nothing(drop: Path) -> None:
    table(drop, "filePath,colour,individualID,viewpoint\na.jpg,red,unknown,above\nb.jpg,red,NA,front\n")
    contents = read(drop)
    assert [box.individual_id for record in contents.media for box in record.boxes or ()] == [None, None]
    assert [box.viewpoint for record in contents.media for box in record.boxes or ()] == [None, "front"]
    joined = " | ".join(contents.warnings)
    assert "not used: colour" in joined
    assert "above" in joined
    assert "nobody knows" in joined


def test_blank_and_machine_rows(drop: Path) -> None:
    header = "filePath,observationType,classificationMethod,classificationProbability,individualID\n"
    table(drop, header + "a.jpg,blank,,,\nb.jpg,animal,machine,0.8,N1\n")
    contents = read(drop)
    assert media(contents, "a.jpg").boxes == ()
    (box,) = media(contents, "b.jpg").boxes or ()
    assert (box.individual_id, box.confidence) == (None, 0.8)
    assert any("machine" in text for text in contents.warnings)
    assert media(read(drop, min_confidence=0.9), "b.jpg").boxes == ()


def test_an_open_quote_costs_one_row(drop: Path) -> None:
    table(drop, 'filePath,individualID\na.jpg,"N1\nb.jpg,N2\n')
    contents = read(drop)
    assert codes(contents) == [("observations.csv:2", "bad_row")]
    assert [box.individual_id for box in media(contents, "b.jpg").boxes or ()] == ["N2"]


def test_a_huge_field_costs_one_row(drop: Path) -> None:
    table(drop, "filePath,individualID\na.jpg," + "x" * 400_000 + "\nb.jpg,N2\n")
    contents = read(drop)
    assert codes(contents) == [("observations.csv:2", "bad_row")]
    assert [box.individual_id for box in media(contents, "b.jpg").boxes or ()] == ["N2"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        ("filePath\na.jpg\n".encode("utf-16"), "UTF-16"),
        ("filePath\na.jpg\n".encode("utf-16-le"), "UTF-16"),
        (b"filePath\nh\xfcrt.jpg\n", "not UTF-8"),
        (b"name,individualID\na.jpg,N1\n", "no column filePath"),
        (b"\n\n", "no column"),
        (b"x" * 300_000, "not a table"),
    ],
)
def test_an_unusable_table_is_quarantined(drop: Path, data: bytes, why: str) -> None:
    (drop / "observations.csv").write_bytes(data)
    contents = read(drop)
    assert contents.layout == "images"
    assert codes(contents) == [("observations.csv", "unreadable_manifest")]
    assert why in contents.quarantined[0].reason


def test_a_long_table_is_read_in_bounded_memory(drop: Path) -> None:
    import tracemalloc

    table(drop, "filePath,observationType\n" + "a.jpg,blank\n" * 60_000)
    tracemalloc.start()
    contents = read(drop)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert media(contents, "a.jpg").boxes == ()
    assert peak < 4_000_000
