"""Tables made to exhaust memory or time: bounded, told, and every good row kept."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deer_reid_pipeline.ingest import claims, csv_rows, ledger, manifest
from deer_reid_pipeline_tests.ingest.drops import box, codes, detections, media, picture, read, table

READ = """
import sys, time
from pathlib import Path
from deer_reid_pipeline.ingest import read_drop, seal_drop
from deer_reid_pipeline_tests.hostile.memory import highest
started = time.process_time()
before = highest()
found = read_drop(seal_drop(Path(sys.argv[1])), min_confidence=0.2)
peak = highest()
boxes = sum(len(record.boxes or ()) for record in found.media)
print(len(found.media), boxes, len(found.quarantined), peak - before, time.process_time() - started)
"""
HEADER = "filePath,individualID,bboxX,bboxY,bboxWidth,bboxHeight\n"


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path, name)
    return tmp_path


def measured(drop: Path) -> tuple[int, int, int, int, float]:
    """Pictures, boxes, quarantine entries, MiB and CPU seconds of reading a drop in a process of its own."""
    done = subprocess.run([sys.executable, "-c", READ, str(drop)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *counts, seconds = done.stdout.split()
    pictures, boxes, quarantined, peak = map(int, counts)
    return pictures, boxes, quarantined, peak, float(seconds)


def write_rows(drop: Path, layout: str, kind: str, rows: int) -> None:
    """A table of that many rows: `good` boxes over pictures that are there, or `bad`, of pictures that are not."""
    names = [f"p{number}.jpg" for number in range(1 + rows // 500)]
    if kind == "good":
        for name in names:
            picture(drop, name)

    def name_of(row: int) -> str:
        return names[row // 500] if kind == "good" else f"gone{row}.jpg"

    def place(row: int) -> float:
        return (row % 500) / 1000

    if layout == "observations":
        with (drop / "observations.csv").open("w") as stream:
            stream.write(HEADER)
            stream.writelines(f"{name_of(row)},N{row},{place(row)},0.1,0.2,0.2\n" for row in range(rows))
    elif layout == "megadetector":
        with (drop / "detections.json").open("w") as stream:
            stream.write('{"detection_categories": {"1": "animal"}, "images": [null')
            for first in range(0, rows, 500):
                found = [
                    {"category": "1", "conf": 0.9, "bbox": [place(row), 0.1, 0.2, 0.2]}
                    for row in range(first, min(first + 500, rows))
                ]
                if kind == "good":
                    stream.write("," + json.dumps({"file": name_of(first), "detections": found}))
                else:
                    for row, each in enumerate(found, start=first):
                        stream.write("," + json.dumps({"file": name_of(row), "detections": [each]}))
            stream.write("]}")
    else:
        tables = [{"name": name, "path": f"{name}.csv"} for name in ("media", "observations")]
        table(drop, json.dumps({"resources": tables}), "datapackage.json")
        with (drop / "media.csv").open("w") as stream:
            stream.write("mediaID,filePath\n")
            stream.writelines(f"{name},{name}\n" for name in names)
        with (drop / "observations.csv").open("w") as stream:
            stream.write("observationType,mediaID,individualID,bboxX,bboxY,bboxWidth,bboxHeight\n")
            stream.writelines(f"animal,{name_of(row)},N{row},{place(row)},0.1,0.2,0.2\n" for row in range(rows))


SIZES = [100_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("kind", ["good", "bad"])
@pytest.mark.parametrize("layout", ["observations", "megadetector", "camtrap"])
def test_a_long_table_takes_bounded_memory_and_time(drop: Path, layout: str, kind: str, rows: int) -> None:
    write_rows(drop, layout, kind, rows)
    pictures, boxes, quarantined, peak, seconds = measured(drop)
    if kind == "good":
        assert boxes == rows
        assert pictures == 2 + 1 + rows // 500
        assert quarantined == (layout == "megadetector")
    else:
        assert (pictures, boxes) == (2, 0)
        assert quarantined == ledger.MOST_ENTRIES
    assert peak < 150 + rows * 2000 / 2**20, "2 kB a row"
    assert seconds < 10 + rows * 300e-6


def test_rows_beyond_the_limit_of_the_quarantine_are_counted(drop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_ENTRIES", 3)
    picture(drop, "c.jpg", b"a.jpg")
    gone = "".join(f"gone{number}.jpg,N1\n" for number in range(10))
    table(drop, f"filePath,individualID\n{gone}a.jpg,N1\n")
    contents = read(drop)
    assert [code for _, code in codes(contents)] == ["missing_file"] * 3 + ["duplicate_image"], (
        "pictures are always told"
    )
    assert (
        "7 x missing_file after the first 3 entries of the quarantine, not listed (first: gone3.jpg)"
        in contents.warnings
    )
    assert len(media(contents, "a.jpg").boxes or ()) == 1


def test_one_picture_has_a_thousand_boxes_at_most(drop: Path) -> None:
    found = [box((number / 4000, 0.1, 0.2, 0.2)) for number in range(claims.MOST_BOXES + 5)]
    detections(drop, [{"file": "a.jpg", "detections": found}, {"file": "b.jpg", "detections": [box()]}])
    contents = read(drop)
    assert [len(media(contents, name).boxes or ()) for name in ("a.jpg", "b.jpg")] == [claims.MOST_BOXES, 1]
    assert [code for _, code in codes(contents)] == ["too_many_boxes"] * 5


def test_hundreds_of_open_quotes_cost_no_good_row(drop: Path) -> None:
    table(drop, "filePath,individualID\n" + 'a.jpg,"N1\n' * 300 + "b.jpg,N2\n" + 'a.jpg,"N1\n' * 300 + "a.jpg,N3\n")
    contents = read(drop)
    assert [box.individual_id for box in media(contents, "b.jpg").boxes or ()] == ["N2"]
    assert [box.individual_id for box in media(contents, "a.jpg").boxes or ()] == ["N3"]
    assert len(contents.quarantined) == 600


@pytest.mark.parametrize("width", [2, 7, 40])
def test_the_first_line_of_a_package_table_is_its_header_whatever_follows(drop: Path, width: int) -> None:
    """Found by fuzzing: where most rows had another width, the rows before the first of that width were lost."""
    tables = [{"name": name, "path": f"{name}.csv"} for name in ("media", "observations")]
    table(drop, json.dumps({"resources": tables}), "datapackage.json")
    odd = ",".join(["animal"] * width) + "\n"
    good = "animal,m1,N1,0.1,0.1,0.2,0.2\n"
    table(drop, "mediaID,filePath\nm1,a.jpg\n" + "x,y,z,q\n" * 30 + "m2,b.jpg\n", "media.csv")
    header = "observationType,mediaID,individualID,bboxX,bboxY,bboxWidth,bboxHeight\n"
    table(drop, header + good + odd * 30 + good.replace("m1", "m2"), "observations.csv")
    contents = read(drop)
    assert [len(media(contents, name).boxes or ()) for name in ("a.jpg", "b.jpg")] == [1, 1]
    lines = [entry.file.split(" ")[0] for entry in contents.quarantined if entry.code == "bad_row"]
    assert lines[:30] == [f"media.csv:{line}" for line in range(3, 33)]


def test_rows_that_are_lost_are_counted(drop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_MOST_REREAD", 0)
    table(drop, 'filePath,individualID\na.jpg,"N1\nb.jpg,N2\nb.jpg,N2\n')
    (entry,) = read(drop).quarantined
    assert entry.file == "observations.csv:2"
    assert entry.reason.endswith("; 2 lines after it are lost with it")


@pytest.mark.parametrize("name", ["observations.csv", "detections.json"])
def test_a_table_of_more_than_a_gibibyte_is_not_read(drop: Path, name: str) -> None:
    table(drop, "filePath\na.jpg\n", name)
    os.truncate(drop / name, manifest.SIZE_LIMIT + 1)
    started = os.times().user
    with pytest.raises(manifest.UnusableManifest, match="larger than 1 GiB"):
        manifest.check_utf8(drop / name)
    assert os.times().user - started < 1


@pytest.mark.parametrize("kind", ["json", "csv header", "csv row"])
def test_one_endless_line_is_refused_in_bounded_memory(drop: Path, kind: str) -> None:
    line = b"a," * (1 << 19)
    name = "detections.json" if kind == "json" else "observations.csv"
    with (drop / name).open("wb") as stream:
        stream.write({"json": b'{"images": ["', "csv header": b"", "csv row": b"filePath,individualID\na.jpg,"}[kind])
        for _ in range(100):
            stream.write(line)
    pictures, boxes, quarantined, peak, seconds = measured(drop)
    assert (pictures, boxes, quarantined) == (2, 0, 1)
    assert peak < (250 if kind == "json" else 40)
    assert seconds < 20


def test_a_json_of_empty_lists_is_refused_before_it_fills_the_memory(drop: Path) -> None:
    with (drop / "detections.json").open("wb") as stream:
        stream.write(b'{"images": [[]' + b",[]" * (manifest.MOST_VALUES // 2) + b"]}")
    pictures, boxes, _, peak, _ = measured(drop)
    assert (pictures, boxes) == (2, 0)
    assert peak < 200, "parsed it would take 700 MiB"
    assert "more than 20 million values" in read(drop).quarantined[0].reason


@pytest.mark.parametrize("opening", ["[", '{"images":', '{"images":[{"a":', '{"images": [[['])
def test_deep_nesting_is_refused(drop: Path, opening: str) -> None:
    table(drop, opening * 100_000, "detections.json")
    contents = read(drop)
    assert codes(contents) == [("detections.json", "unreadable_manifest")]
    assert "nested too deeply" in contents.quarantined[0].reason


@pytest.mark.parametrize(
    "number",
    ["9" * 100_000, "-" + "9" * 5000, "1e999999999", "0." + "3" * 100_000 + "e400", "NaN", "Infinity", "-Infinity"],
)
@pytest.mark.parametrize("field", ["x", "width", "conf"])
def test_huge_numbers_cost_their_own_box(drop: Path, number: str, field: str) -> None:
    values = {"x": "0.1", "width": "0.1", "conf": "0.9"} | {field: number}
    text = (
        '{"detection_categories": {"1": "animal"}, "images": [{"file": "a.jpg", "detections": [{"category": "1", '
        f'"conf": {values["conf"]}, "bbox": [{values["x"]}, 0.1, {values["width"]}, 0.1]}}, '
        '{"category": "1", "conf": 0.8, "bbox": [0.2, 0.2, 0.2, 0.2]}]}]}'
    )
    table(drop, text, "detections.json")
    contents = read(drop)
    assert len(contents.quarantined) == 1
    assert [found.confidence for found in media(contents, "a.jpg").boxes or ()] == [0.8]


def test_the_last_of_two_equal_keys_counts_and_nothing_is_merged(drop: Path) -> None:
    one = '"detections": [{"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.1, 0.1]}]'
    table(
        drop, f'{{"images": [], "images": [{{"file": "../x.jpg", "file": "a.jpg", {one}, {one}}}]}}', "detections.json"
    )
    contents = read(drop)
    assert contents.quarantined == ()
    assert len(media(contents, "a.jpg").boxes or ()) == 1


@pytest.mark.parametrize("disguised", [False, True])
@pytest.mark.parametrize("how", ["zip", "gzip"])
def test_compressed_tables_are_not_unpacked(drop: Path, how: str, disguised: bool) -> None:
    name = "media.csv" if disguised else {"zip": "media.csv.zip", "gzip": "media.csv.gz"}[how]
    bomb = b"mediaID,filePath\n" + b"1,a.jpg\n" * 10_000_000
    if how == "gzip":
        with gzip.open(drop / name, "wb") as stream:
            stream.write(bomb)
    else:
        with zipfile.ZipFile(drop / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("media.csv", bomb)
    del bomb
    resource = {"name": "media", "path": name, "compression": how, "format": "csv", "scheme": "file"}
    table(drop, json.dumps({"resources": [resource]}), "datapackage.json")
    pictures, boxes, quarantined, peak, _ = measured(drop)
    assert (pictures, boxes, quarantined) == (2, 0, 1)
    assert peak < 60
    assert ("datapackage.json", "unreadable_manifest") in codes(read(drop))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "utf-7", "cp037"])
@pytest.mark.parametrize("name", ["observations.csv", "detections.json", "datapackage.json"])
def test_other_encodings_are_refused_or_mean_no_other_file(drop: Path, name: str, encoding: str) -> None:
    texts = {
        "observations.csv": "filePath,individualID\n../x\u00e9.jpg,N\u00e9\n",
        "detections.json": '{"images": [{"file": "../x\u00e9.jpg", "detections": []}]}',
        "datapackage.json": '{"resources": [{"name": "media", "path": "../x\u00e9.csv"}]}',
    }
    (drop / name).write_bytes(texts[name].encode(encoding, "replace"))
    contents = read(drop)
    assert [code for _, code in codes(contents)] in (["unreadable_manifest"], ["path_outside"], ["missing_file"])
    assert all(not record.boxes for record in contents.media)
