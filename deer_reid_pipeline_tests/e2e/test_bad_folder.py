"""A folder with everything that can be wrong in it: the good files are processed, each bad one has its reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from deer_reid_pipeline_tests.e2e.runs import Answer, Home, new_home
from deer_reid_pipeline_tests.sites import read_table, write_table

UNICODE = "K\u00e4mera \u9e7f/h\u00f6 s 1.jpg"
GOOD = (UNICODE, "cmyk.jpg", "grey16.png", "rotated.jpg", "animated.gif", "original.jpg")
BOXED = ("outside_box.jpg", "nan_box.jpg", "twice_listed.jpg")
BOX = {"bboxX": "0.2", "bboxY": "0.2", "bboxWidth": "0.5", "bboxHeight": "0.5"}

FILES = {  # file: code and words of the reason
    "truncated.jpg": ("truncated", "ends before the picture does"),
    "zero.jpg": ("empty_file", "empty"),
    "text.jpg": ("not_an_image", "is not a picture"),
    "bomb.png": ("too_many_pixels", "30000 x 30000"),
    "one.png": ("too_small", "1 x 1"),
    "../outside.jpg": ("path_outside", "leaves the drop"),
    "link.jpg": ("path_outside", "link to something outside the drop"),
    "second_copy.jpg": ("duplicate_image", "same picture as original.jpg"),
}
ROWS = {  # picture of a row: code and words of the reason
    "outside_box.jpg": ("box_outside", "leaves the picture"),
    "nan_box.jpg": ("bad_box", "NaN"),
    "twice_listed.jpg": ("duplicate_row", "repeats"),
}


def pictures(herd: Path) -> Iterator[Path]:
    """Different small pictures."""
    return iter(sorted((herd / "images").rglob("*.jpg")))


def make_bad_folder(herd: Path, folder: Path) -> Path:
    """The folder of the issue's list, with an observations.csv that names all of it."""
    folder.mkdir()
    source = pictures(herd)
    for name in (UNICODE, "original.jpg", *BOXED):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(next(source), folder / name)
    shutil.copyfile(folder / "original.jpg", folder / "second_copy.jpg")
    with Image.open(next(source)) as image:
        image.convert("CMYK").save(folder / "cmyk.jpg")
    with Image.open(next(source)) as image:
        grey = image.convert("L").convert("I").point(lambda value: value * 257)
        grey.convert("I;16").save(folder / "grey16.png")
    with Image.open(next(source)) as image:
        turned = Image.Exif()
        turned[0x0112] = 6
        image.save(folder / "rotated.jpg", exif=turned)
    with Image.open(next(source)) as image, Image.open(next(source)) as second:
        image.save(folder / "animated.gif", save_all=True, append_images=[second], duration=100)
    whole = next(source).read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("this is no picture\n" * 100)
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")
    Image.new("RGB", (1, 1), "green").save(folder / "one.png")
    shutil.copyfile(next(source), folder.parent / "outside.jpg")
    (folder / "link.jpg").symlink_to(folder.parent / "outside.jpg")

    listed = [*GOOD, *(name for name in FILES), *BOXED]
    rows = [{"filePath": name, **BOX} for name in listed]
    by_name = {row["filePath"]: row for row in rows}
    by_name["outside_box.jpg"]["bboxX"] = "0.8"
    by_name["nan_box.jpg"]["bboxWidth"] = "NaN"
    write_table(folder, [*rows, dict(by_name["twice_listed.jpg"])])
    return folder


@dataclass
class Visit:
    """A home, the folder that was processed in it, and the answer."""

    home: Home
    folder: Path
    answer: Answer

    def quarantine(self, drop: str) -> set[tuple[str, str, str]]:
        """(file, code, reason) of a drop."""
        return set(self.home.query("SELECT file, code, reason FROM quarantine WHERE drop_key = %s", [drop]))  # type: ignore[arg-type]

    def pictures(self, drop: str) -> set[str]:
        """Files of a drop whose picture is stored."""
        rows = self.home.query("SELECT file_path FROM drop_media WHERE drop_key = %s AND image_id IS NOT NULL", [drop])
        return {name for (name,) in rows}


@pytest.fixture(scope="module")
def visit(
    make_home: Callable[[], Path], lite_models: Path, herd: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Visit]:
    """The bad folder, processed once."""
    home = new_home(make_home, lite_models)
    folder = make_bad_folder(herd, tmp_path_factory.mktemp("bad") / "b\u00e4d folder")
    yield Visit(home, folder, home.run("process", folder, "--json"))
    home.stop()


def test_the_run_succeeds_with_a_warning(visit: Visit) -> None:
    result = visit.answer.result
    assert f"Warning: {len(result['quarantined'])} files or rows were quarantined" in visit.answer.stderr
    assert "Traceback" not in visit.answer.stderr
    assert visit.answer.stderr.isascii()
    assert visit.answer.stdout.isascii()


def test_every_good_file_is_stored_and_embedded(visit: Visit) -> None:
    result = visit.answer.result
    # The copy's row leads to the one stored picture; rows that are refused leave their picture usable.
    assert visit.pictures(result["drop"]) == {*GOOD, *BOXED, "second_copy.jpg"}
    assert result["images"] == len(GOOD) + len(BOXED)
    embedded = visit.home.query(
        "SELECT m.file_path, count(*) FROM drop_media m JOIN detections d ON d.image_id = m.image_id "
        "JOIN embeddings e ON e.detection_id = d.id WHERE m.file_path <> 'second_copy.jpg' GROUP BY 1"
    )
    assert dict(embedded) == dict.fromkeys([*GOOD, "twice_listed.jpg"], 3)  # type: ignore[arg-type]
    decided = visit.home.query("SELECT count(*), count(encounter_id) FROM detections")
    assert decided == [(len(GOOD) + 1, len(GOOD) + 1)]
    assert result["detections"] == len(GOOD) + 2, "the copy's box counts with its file"
    sizes = dict(visit.home.query("SELECT filename, (width, height)::text FROM images"))  # type: ignore[arg-type]
    assert sizes["rotated.jpg"] == "(480,640)"
    assert sizes["cmyk.jpg"] == sizes["grey16.png"] == sizes["animated.gif"] == "(640,480)"


def test_no_picture_was_decoded_to_something_empty(visit: Visit) -> None:
    from deer_reid_pipeline.vision.crops import decode_crop

    files = visit.home.query(
        "SELECT i.filename, c.file FROM detection_crops c JOIN detections d ON d.id = c.detection_id "
        "JOIN images i ON i.id = d.image_id"
    )
    for name, file in files:
        pixels = decode_crop(visit.home.folder / "crops" / file)
        assert 10 < pixels.mean() < 245, name
        assert pixels.std() > 5, name


def test_every_bad_file_and_row_is_in_the_quarantine_with_its_reason(visit: Visit) -> None:
    result = visit.answer.result
    found = visit.quarantine(result["drop"])
    by_file = {file: (code, reason) for file, code, reason in found}
    assert len(by_file) == len(found) == len(FILES) + len(ROWS)
    for file, (code, words) in FILES.items():
        assert by_file[file][0] == code, file
        assert words in by_file[file][1]
    for name, (code, words) in ROWS.items():
        (key,) = [file for file in by_file if file.startswith("observations.csv:") and file.endswith(f"({name})")]
        assert by_file[key][0] == code
        assert words in by_file[key][1]
        line = int(key.removeprefix("observations.csv:").split()[0])
        written = (visit.folder / "observations.csv").read_text(encoding="utf-8").splitlines()[line - 1]
        assert written.startswith(name), "the reason names another line"
    assert {(entry["file"], entry["reason"]) for entry in result["quarantined"]} == {
        (file, reason) for file, _, reason in found
    }


def test_the_animation_is_told(visit: Visit) -> None:
    assert [line for line in visit.answer.result["warnings"] if "animated.gif" in line and "first frame" in line]


def test_what_the_link_led_to_was_never_read(visit: Visit) -> None:
    from deer_reid_pipeline.vision.model_files import sha256_of

    outside = sha256_of(visit.folder.parent / "outside.jpg")
    assert visit.home.query("SELECT count(*) FROM images WHERE sha256 = %s", [outside]) == [(0,)]
    assert visit.home.query("SELECT count(*) FROM drop_media WHERE sha256 = %s", [outside]) == [(0,)]


def test_processing_it_again_adds_nothing(visit: Visit) -> None:
    before = visit.home.row_counts()
    again = visit.home.run("process", visit.folder, "--json").result
    assert again["already_processed"] is True
    assert again["quarantined"] == visit.answer.result["quarantined"]
    assert visit.home.row_counts() == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("observations.csv", "filePath,sex\na.jpg,male\n".encode("utf-16"), "UTF-16"),
        ("observations.csv", b"", "empty"),
        ("detections.json", b'{"images": [{"file": "a.jpg", "detections": [{"category": "1", "co', "JSON"),
    ],
)
def test_a_table_that_cannot_be_read_is_quarantined_and_the_pictures_are_used(
    visit: Visit, herd: Path, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    shutil.copyfile(visit.folder / "original.jpg", folder / "a.jpg")
    (folder / name).write_bytes(content)
    answer = visit.home.run("process", folder, "--json")
    result = answer.result
    ((file, code, reason),) = visit.quarantine(result["drop"])
    assert (file, code) == (name, "unreadable_manifest")
    assert said.lower() in reason.lower()
    assert result["images"] == 1
    assert visit.pictures(result["drop"]) == {"a.jpg"}
    assert f"Warning: {name} cannot be used" in answer.stderr
    assert "Warning: 1 files or rows were quarantined" in answer.stderr


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"no picture", "not_an_image"), (b"", "empty_file"), (None, None)],
    ids=["text", "zero", "no"],
)
def test_a_folder_with_nothing_usable_fails_every_time(
    visit: Visit, tmp_path: Path, content: bytes | None, code: str | None
) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    if content is not None:
        (folder / "a.jpg").write_bytes(content)
    for _ in range(2):
        answer = visit.home.run("process", folder, "--json")
        assert answer.code == 1
        assert answer.stdout == ""
        assert "Traceback" not in answer.stderr
        last = answer.stderr.splitlines()[-1]
        assert last.startswith("Error: ")
        assert "no usable picture" in last or "holds no picture" in last
        if code == "not_an_image":
            assert "a.jpg is not a picture" in last
    assert visit.home.query("SELECT count(*) FROM drop_media WHERE file_path = 'a.jpg' AND image_id IS NULL") in (
        [(0,)],
        [(1,)],
    )
    assert "STARTED" not in visit.home.runs()


def test_the_table_of_the_test_is_what_it_means_to_be(visit: Visit) -> None:
    rows = read_table(visit.folder / "observations.csv")
    names = [row["filePath"] for row in rows]
    assert len(names) == len(set(names)) + 1
    assert set(names) == {*GOOD, *FILES, *BOXED}
