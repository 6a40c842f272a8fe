"""Paths in every field of every table: nothing outside of the drop is opened, named or fetched."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest import DropContents, seal_drop
from deer_reid_pipeline_tests.hostile.watching import nothing_but
from deer_reid_pipeline_tests.ingest.drops import box, codes, detections, picture, read, table
from deer_reid_pipeline_tests.ingest.packages import write_package

Write = Callable[[Path, str], None]

ATTACKS = [
    ("../secret.jpg", "path_outside"),
    ("sub/../../secret.jpg", "path_outside"),
    ("..", "path_outside"),
    ("..\\secret.jpg", "path_outside"),
    ("sub\\..\\..\\secret.jpg", "path_outside"),
    ("/etc/passwd", "path_outside"),
    ("//server/share/a.jpg", "path_outside"),
    ("\\\\server\\share\\a.jpg", "path_outside"),
    ("\\\\?\\C:\\a.jpg", "path_outside"),
    ("C:\\a.jpg", "path_outside"),
    ("c:a.jpg", "path_outside"),
    ("out/secret.jpg", "path_outside"),
    ("sub/../out/secret.jpg", "path_outside"),
    ("file:///etc/passwd", "remote_file"),
    ("https://example.invalid/a.jpg", "remote_file"),
    ("s3://bucket/a.jpg", "remote_file"),
    ("a.jpg\0.csv", "bad_path"),
    ("x" * 300 + ".jpg", "missing_file"),
    ("x/" * 2000 + "a.jpg", "missing_file"),
    ("x" * 5000, "bad_path"),
    ("%2e%2e/secret.jpg", "missing_file"),
    ("\uff0e\uff0e/secret.jpg", "missing_file"),
    ("..\u2215secret.jpg", "missing_file"),
    ("\u2024\u2024/secret.jpg", "missing_file"),
    ("~/secret.jpg", "missing_file"),
    ("$HOME/secret.jpg", "missing_file"),
    ("*.jpg", "missing_file"),
    ("A.JPG", "missing_file"),
    ("a.jpg ../secret.jpg", "missing_file"),
    ("a.jpg/../../secret.jpg", "path_outside"),
    ("notes.txt", "not_a_picture"),
]


def megadetector(root: Path, path: str) -> None:
    detections(root, [{"file": path, "detections": [box()]}])


def observations(root: Path, path: str) -> None:
    quoted = path.replace('"', '""')
    table(root, f'filePath,individualID\n"{quoted}",N1\n')


def camtrap(root: Path, path: str) -> None:
    write_package(root, [{"mediaID": "m1", "filePath": path}], [{"observationType": "animal", "mediaID": "m1"}])


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    """A drop with one picture, and secrets beside it that links lead to."""
    root = tmp_path / "drop"
    picture(root, "a.jpg")
    (root / "sub").mkdir()
    (root / "notes.txt").write_text("x")
    picture(tmp_path, "secret.jpg")
    picture(tmp_path, "elsewhere/secret.jpg")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    return root


def read_watched(root: Path) -> DropContents:
    with nothing_but(root):
        return read(root)


@pytest.mark.parametrize(("path", "code"), ATTACKS)
@pytest.mark.parametrize("write", [megadetector, observations, camtrap])
def test_a_path_that_leaves_the_drop_is_refused(drop: Path, write: Write, path: str, code: str) -> None:
    write(drop, path)
    contents = read_watched(drop)
    told = [entry.code for entry in contents.quarantined if entry.file != "out"]
    assert told == [code]
    kept = [record.file_path for record in contents.media]
    assert kept == ["a.jpg"]
    assert all(not record.boxes for record in contents.media), "its animal went to no other picture"


@pytest.mark.parametrize(
    "path",
    [
        "../media.csv",
        "/etc/media.csv",
        "sub/../../media.csv",
        "out/media.csv",
        "..\\media.csv",
        "C:\\media.csv",
        "\\\\server\\media.csv",
        "~/media.csv",
        "$HOME/media.csv",
        "%2e%2e/media.csv",
        "\uff0e\uff0e/media.csv",
        "https://example.invalid/media.csv",
        "http:media.csv",
        "http:/example.invalid/media.csv",
        "file:media.csv",
        "data:text/plain,media.csv",
        "s3:bucket/media.csv",
        "zip:media.csv",
        "media*.csv",
        "media.csv\0.csv",
        "m" * 300 + ".csv",
        "m/" * 2000 + "media.csv",
        "media.zip",
        "media.csv.gz",
        "media.xlsx",
        "pipe.csv",
        "sub",
        "leak.csv",
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_a_table_of_a_package_outside_the_drop_is_not_opened(drop: Path, path: str, as_list: bool) -> None:
    rows = "mediaID,filePath\n1,a.jpg\n"
    table(drop, rows, "media.csv")
    for place in (drop.parent, drop.parent / "elsewhere"):
        table(place, rows, "media.csv")
    (drop / "leak.csv").symlink_to(drop.parent / "media.csv")
    os.mkfifo(drop / "pipe.csv")
    written = [path] if as_list else path
    table(drop, json.dumps({"resources": [{"name": "media", "path": written}]}), "datapackage.json")
    contents = read_watched(drop)
    assert contents.layout == "images"
    assert ("datapackage.json", "unreadable_manifest") in codes(contents)
    assert [record.file_path for record in contents.media] == ["a.jpg"]


@pytest.mark.parametrize("field", ["profile", "$schema", "schema", "dialect", "sources", "licenses", "contributors"])
@pytest.mark.parametrize("at", ["package", "resource"])
@pytest.mark.parametrize(
    "value", ["https://example.invalid/x.json", "../secret.json", "/etc/passwd", "file:///etc/passwd"]
)
def test_what_a_descriptor_names_beside_its_tables_is_never_read(drop: Path, field: str, at: str, value: str) -> None:
    table(drop, "mediaID,filePath\n1,a.jpg\n", "media.csv")
    resource = {"name": "media", "path": "media.csv"} | ({field: value} if at == "resource" else {})
    document = {"resources": [resource], **({field: value} if at == "package" else {})}
    table(drop, json.dumps(document), "datapackage.json")
    contents = read_watched(drop)
    assert contents.layout == "camtrap_dp"
    assert codes(contents) == [("out", "path_outside")]


@pytest.mark.parametrize(
    "text", ["../../etc/cron.d/x", "/etc/passwd", "C:\\x", "a/b", "..", "%2e%2e", "nul", "\uff0e\uff0e/x"]
)
def test_what_is_no_path_is_kept_as_it_is_and_opens_nothing(drop: Path, text: str) -> None:
    table(drop, f"filePath,individualID,eventID,deploymentID\na.jpg,{text},{text},{text}\n")
    (record,) = read_watched(drop).media
    (found,) = record.boxes or ()
    assert (record.event_id, record.deployment_id) == (text, text)
    assert found.individual_id == unicodedata.normalize("NFC", text)


def test_names_that_look_alike_stay_two_animals(drop: Path) -> None:
    picture(drop, "b.jpg")
    table(drop, "filePath,individualID\na.jpg,Buck\nb.jpg,\u0392uck\n")
    named = {box.individual_id for record in read(drop).media for box in record.boxes or ()}
    assert named == {"Buck", "\u0392uck"}


def test_a_path_too_long_for_the_database_is_refused_by_name(drop: Path) -> None:
    for depth in range(1, 7):
        picture(drop, "/".join(["d" * 200] * depth) + "/x.jpg", b"x")
    contents = read(drop)
    long = [entry for entry in contents.quarantined if entry.code == "bad_name"]
    assert len(long) == 1
    assert "longer than 1000 bytes" in long[0].reason
    assert len(contents.media) == 2, "a.jpg and one of the copies; the others are the same picture"


def test_a_huge_picture_file_is_not_even_read(drop: Path) -> None:
    picture(drop, "huge.jpg")
    os.truncate(drop / "huge.jpg", (1 << 30) + 1)
    sealed = seal_drop(drop)
    assert "huge.jpg" not in [file.rel for file in sealed.files], "it was not hashed"
    assert ("huge.jpg", "too_large") in codes(read(drop))


def test_a_folder_whose_name_no_database_can_hold_is_refused(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"bad\xff")
    picture(root, "a.jpg")
    with pytest.raises(DropError, match="not valid UTF-8; rename the folder") as caught:
        seal_drop(root)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", ["detections.json", "observations.csv", "datapackage.json", "Observations.CSV"])
def test_a_table_that_is_a_link_out_of_the_drop_is_not_read(drop: Path, name: str) -> None:
    rows = {"detections.json": '{"images": []}', "datapackage.json": '{"resources": []}'}.get(name, "filePath\na.jpg\n")
    table(drop.parent, rows, "elsewhere/table")
    (drop / name).symlink_to(drop.parent / "elsewhere/table")
    contents = read_watched(drop)
    assert contents.layout == "images"
    assert (name, "path_outside") in codes(contents)
