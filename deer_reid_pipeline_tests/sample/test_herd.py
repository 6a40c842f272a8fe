"""The drawn herd as a drop: same bytes for the same seed, tables that agree, and a folder that is never
overwritten.
"""

import csv
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.sample import herd
from deer_reid_pipeline.sample.herd import HerdSummary, draw_herd

SMALL = {"individuals": 5, "encounters": 10, "seed": 3, "size": (240, 180)}


def draw(folder: Path, **changes: object) -> HerdSummary:
    return draw_herd(folder, **{**SMALL, **changes})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HerdSummary]:
    folder = tmp_path_factory.mktemp("herd") / "drop"
    return folder, draw(folder)


def test_same_seed_same_bytes_other_seed_other_pictures(drawn: tuple[Path, HerdSummary], tmp_path: Path) -> None:
    folder, _ = drawn
    draw(tmp_path / "again")
    first, second = contents(folder), contents(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    draw(tmp_path / "other", seed=4, encounters=1)
    pictures = {data for name, data in first.items() if name.endswith(".jpg")}
    assert pictures.isdisjoint(contents(tmp_path / "other").values())


def test_tables_agree_and_name_every_picture_once(drawn: tuple[Path, HerdSummary]) -> None:
    folder, summary = drawn
    told, truth = rows(folder / "observations.csv"), rows(folder / "ground_truth.csv")
    hidden = {"individualID", "sex", "lifeStage"}
    assert list(told[0]) == [
        *(
            "filePath",
            "individualID",
            "eventID",
            "viewpoint",
            "sex",
            "lifeStage",
            "timestamp",
            "deploymentID",
        ),
        *("bboxX", "bboxY", "bboxWidth", "bboxHeight"),
    ]
    assert all(row["individualID"] and row["sex"] and row["lifeStage"] for row in truth)
    for given, full in zip(told, truth, strict=True):
        for column, value in given.items():
            assert value == full[column] or (column in hidden and value == "")
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")}
    assert {row["filePath"] for row in truth} == on_disk
    assert (summary.pictures, summary.detections) == (len(on_disk), len(truth))
    assert {row["viewpoint"] for row in truth} == {"left", "right"}
    assert {row["sex"] for row in truth} == {"male", "female"}


def test_megadetector_answer_has_the_boxes_of_the_truth(drawn: tuple[Path, HerdSummary]) -> None:
    folder, _ = drawn
    answer = json.loads((folder / "ground_truth_megadetector.json").read_text())
    found = [(image["file"], tuple(d["bbox"])) for image in answer["images"] for d in image["detections"]]
    names = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
    truth = [(r["filePath"], tuple(float(r[n]) for n in names)) for r in rows(folder / "ground_truth.csv")]
    assert found == truth
    for _, (x, y, width, height) in found:
        assert 0 <= x < x + width <= 1
        assert 0 <= y < y + height <= 1
        assert width > 0.04
        assert height > 0.08


def test_later_encounters_are_unnamed_and_some_of_their_animals_are_new(
    drawn: tuple[Path, HerdSummary],
) -> None:
    folder, summary = drawn
    told, truth = rows(folder / "observations.csv"), rows(folder / "ground_truth.csv")
    named = [row for row in told if row["individualID"]]
    unnamed = [row for row in told if not row["individualID"]]
    assert max(row["timestamp"] for row in named) < min(row["timestamp"] for row in unnamed)
    encounters = {(row["eventID"], row["individualID"]) for row in truth}
    assert summary.encounters == len(encounters) == 10
    assert summary.known_encounters == len({(row["eventID"], row["individualID"]) for row in named}) == 5
    residents = {row["individualID"] for row in named}
    assert summary.new_individuals == len({row["individualID"] for row in truth} - residents) >= 1


def test_exif_time_is_the_time_of_the_table(drawn: tuple[Path, HerdSummary]) -> None:
    folder, _ = drawn
    for row in rows(folder / "observations.csv"):
        with Image.open(folder / row["filePath"]) as picture:
            assert picture.size == SMALL["size"]
            stamp = picture.getexif().get_ifd(0x8769)[0x9003]
        assert datetime.strptime(stamp, "%Y:%m:%d %H:%M:%S") == datetime.fromisoformat(row["timestamp"])


def test_bursts_are_seconds_and_events_of_a_camera_are_far_apart(drawn: tuple[Path, HerdSummary]) -> None:
    times: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for row in rows(drawn[0] / "ground_truth.csv"):
        times[(row["deploymentID"], row["eventID"])].append(datetime.fromisoformat(row["timestamp"]))
    last: dict[str, datetime] = {}
    for (camera, _), stamps in sorted(times.items(), key=lambda item: min(item[1])):
        assert 2 <= len(set(stamps)) <= 3
        assert (max(stamps) - min(stamps)).total_seconds() <= 15
        if camera in last:
            assert (min(stamps) - last[camera]).total_seconds() > 600
        last[camera] = max(stamps)


@pytest.mark.parametrize(("share", "known"), [(0.0, 0), (1.0, 4), (0.25, 1)])
def test_known_share(tmp_path: Path, share: float, known: int) -> None:
    summary = draw(tmp_path / "drop", known_share=share, encounters=4, size=(160, 120))
    assert (summary.encounters, summary.known_encounters) == (4, known)
    named = {row["eventID"] for row in rows(tmp_path / "drop/observations.csv") if row["individualID"]}
    assert (len(named) == 0) == (known == 0)
    if share == 1.0:
        assert summary.new_individuals == 0


def test_second_call_draws_nothing_and_other_parameters_are_refused(
    drawn: tuple[Path, HerdSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, summary = drawn
    monkeypatch.setattr(herd, "compose", lambda *_: pytest.fail("it drew again"))
    assert draw(folder) == summary
    with pytest.raises(DeerReidError, match="other parameters"):
        draw(folder, seed=99)


def test_interrupted_drawing_is_completed_to_the_same_bytes(drawn: tuple[Path, HerdSummary], tmp_path: Path) -> None:
    folder = tmp_path / "drop"

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(folder, progress=stop)
    assert not (folder / ".herd.json").exists()
    assert not (folder / "observations.csv").exists()
    with pytest.raises(DeerReidError, match="unfinished"):
        draw(folder, seed=99)
    calls: list[tuple[int, int]] = []
    draw(folder, progress=lambda done, total: calls.append((done, total)))
    assert contents(folder) == contents(drawn[0])
    assert calls == [(n + 1, len(calls)) for n in range(len(calls))]


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DeerReidError, match="not empty") as caught:
        draw(tmp_path)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {"holiday.jpg": b"mine"}
    with pytest.raises(DeerReidError, match="is a file"):
        draw(tmp_path / "holiday.jpg")


@pytest.mark.parametrize(
    "changes", [{"individuals": 0}, {"encounters": 0}, {"seed": -1}, {"known_share": 1.5}, {"size": (40, 30)}]
)
def test_parameters_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(DeerReidError):
        draw(tmp_path / "drop", **changes)
    assert not (tmp_path / "drop").exists()
