"""The command as a person or a program calls it: one object on standard output, one line for an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.e2e.runs import UNICODE_INDIVIDUAL, UNICODE_NAME, Home, lowest_cosine
from deer_reid_pipeline_tests.sites import part_of_herd, read_table

FIELDS = {  # SPEC section 11
    "drop": str,
    "images": int,
    "detections": int,
    "encounters": int,
    "individuals": int,
    "matched": int,
    "new": int,
    "uncertain": int,
    "quarantined": list,
    "seconds": float,
    "recipe": str,
    "release": int,
}


def test_process_prints_one_object_whose_numbers_are_those_of_the_table(processed: Processed) -> None:
    result = processed.answer.result
    rows = read_table(processed.drop / "observations.csv")
    assert {name: type(result[name]) for name in FIELDS} == FIELDS
    assert result["images"] == len({row["filePath"] for row in rows})
    assert result["detections"] == len(rows)
    assert result["encounters"] == processed.home.query("SELECT count(*) FROM encounters")[0][0]
    assert result["encounters"] == result["matched"] + result["new"] + result["uncertain"]
    assert (
        result["encounters"]
        > result["identified_by_a_person"]
        == len({row["eventID"] for row in rows if row["individualID"]})
    )
    assert result["individuals"] == processed.home.query("SELECT count(*) FROM deer")[0][0]
    assert result["quarantined"] == []
    assert result["already_processed"] is False
    assert (result["release"], result["recipe"]) == processed.home.query(
        "SELECT id, recipe_id FROM releases WHERE live"
    )[0]


def test_everything_printed_is_ascii_whatever_names_say(processed: Processed) -> None:
    assert processed.answer.stdout.isascii()
    assert processed.answer.stderr.isascii()
    assert UNICODE_INDIVIDUAL.encode("ascii", "backslashreplace").decode() in processed.answer.stderr
    shown = processed.home.run("process", processed.drop)
    assert shown.code == 0
    assert shown.stdout.isascii()
    assert UNICODE_INDIVIDUAL.encode("ascii", "backslashreplace").decode() in shown.stdout
    assert "nothing was added" in shown.stdout
    assert shown.stderr == ""


def test_output_has_one_row_a_detection_with_its_decision(processed: Processed) -> None:
    rows = read_table(processed.table)
    given = read_table(processed.drop / "observations.csv")
    wanted = {"filePath", "bboxX", "bboxY", "bboxWidth", "bboxHeight", "individualID", "decision", "similarity"}
    assert wanted | {"probability", "recipe"} <= set(rows[0])
    assert len(rows) == len(given)
    by_box = {(row["filePath"], round(float(row["bboxX"]), 4)): row for row in rows}
    for row in given:
        out = by_box[row["filePath"], round(float(row["bboxX"]), 4)]
        assert out["decision"] in ("matched", "new_individual", "uncertain")
        if row["individualID"]:
            assert (out["individualID"], out["method"]) == (row["individualID"], "human")
        else:
            assert out["method"] == "machine"
            assert bool(out["individualID"]) == (out["decision"] != "uncertain")
            assert out["recipe"] == processed.answer.result["recipe"]
    assert UNICODE_NAME in {row["filePath"] for row in rows}


def test_processing_the_same_drop_again_adds_no_row_anywhere(processed: Processed, tmp_path: Path) -> None:
    home = processed.home
    before, runs = home.row_counts(), home.runs()
    again = home.run("process", processed.drop, "--json", "--output", tmp_path / "again.csv").result
    first = processed.answer.result
    assert again["already_processed"] is True
    assert {name: again[name] for name in FIELDS if name != "seconds"} == {
        name: first[name] for name in FIELDS if name != "seconds"
    }
    assert home.row_counts() == before
    assert home.runs() == runs
    assert (tmp_path / "again.csv").read_bytes() == processed.table.read_bytes()


@pytest.mark.parametrize("batch_size", ["1", "32"])
def test_vectors_of_another_process_and_batch_size_are_the_stored_ones(
    processed: Processed, tmp_path: Path, batch_size: str
) -> None:
    home = processed.home
    before = home.row_counts()
    target = tmp_path / "vectors.parquet"
    result = home.run("embed", processed.drop, "--output", target, "--json", DEER_REID_BATCH_SIZE=batch_size).result
    rows = pq.read_table(target).to_pylist()
    assert result["rows"] == len(rows) == processed.answer.result["detections"]
    assert {row["recipe"] for row in rows} == {result["recipe"]} == {processed.answer.result["recipe"]}
    made = {
        (row["filePath"], round(row["bboxX"], 5), round(row["bboxY"], 5), branch): np.array(row[branch])
        for row in rows
        for branch in ("multiscale", "efficientnet", "baseline")
    }
    kept = {
        (name, round(x, 5), round(y, 5), branch): np.array(json.loads(text))
        for name, x, y, branch, text in home.query(
            "SELECT m.file_path, d.bbox_x, d.bbox_y, e.branch, e.vector::text FROM embeddings e "
            "JOIN detections d ON d.id = e.detection_id JOIN drop_media m ON m.image_id = d.image_id"
        )
    }
    assert lowest_cosine(made, kept) >= 0.9999
    assert home.row_counts() == before, "embed stored something"


def test_export_names_every_detection_and_no_place(processed: Processed, tmp_path: Path) -> None:
    result = processed.home.run("export", tmp_path / "out" / "seen.csv", "--json").result
    rows = read_table(Path(result["output"]))
    given = read_table(processed.drop / "observations.csv")
    assert result["rows"] == len(rows) == len(given)
    assert {"filePath", "individualID", "classificationProbability", "bboxX"} <= set(rows[0])
    assert not {"latitude", "longitude"} & set(rows[0])
    names = {(Path(row["filePath"]).name, row["individualID"]) for row in rows}
    assert {(Path(row["filePath"]).name, row["individualID"]) for row in given if row["individualID"]} <= names


def test_doctor_finds_the_home_sound_and_says_what_would_be_missing(processed: Processed) -> None:
    answer = processed.home.run("doctor", "--json")
    found = {finding["what"]: finding for finding in answer.result["findings"]}
    assert answer.result["ok"] is True
    assert found["database"]["ok"] is True
    assert found["recipe lite"]["ok"] is True
    assert found["recipe reference"]["ok"] is None
    assert "weights" in found["recipe reference"]["detail"]
    assert answer.stderr.isascii()
    broken = processed.home.run("doctor", "--json", DEER_REID_RECIPE="reference")
    assert broken.code == 1
    assert json.loads(broken.stdout)["ok"] is False


def test_sample_draws_what_it_says(processed: Processed, tmp_path: Path) -> None:
    folder = tmp_path / "herd"
    options = ("--individuals", 2, "--encounters", 2, "--json")
    result = processed.home.run("sample", folder, *options).result
    rows = read_table(folder / "observations.csv")
    assert result["detections"] == len(rows)
    assert result["pictures"] == len(list(folder.rglob("*.jpg"))) == len({row["filePath"] for row in rows})
    assert (result["individuals"], result["encounters"]) == (2, 2)


def test_a_folder_that_is_not_there_is_one_line(processed: Processed, tmp_path: Path) -> None:
    before = processed.home.row_counts()
    answer = processed.home.run("process", tmp_path / "n\u00f6 folder", "--json")
    assert answer.code == 1
    assert answer.stdout == ""
    assert answer.stderr.isascii()
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "does not exist; give the folder that holds the pictures" in last
    assert processed.home.row_counts() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"DEER_REID_DEVICE": "nonsense"}, ["DEER_REID_DEVICE", "nonsense", "cuda"]),
        (
            {"DATABASE_URL": "postgresql://somebody:s3cret@127.0.0.1:1/deer"},
            ["127.0.0.1:1/deer", "start the server or correct DATABASE_URL"],
        ),
        (
            {"DEER_REID_RECIPE": "mobile"},
            ["DEER_REID_RECIPE=mobile", "live release 1", "unset DEER_REID_RECIPE", "DEER_REID_HOME"],
        ),
        ({"DEER_REID_RECIPE": "bogus"}, ["DEER_REID_RECIPE", "bogus"]),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_fix(
    processed: Processed, changes: dict[str, str], said: list[str]
) -> None:
    before = processed.home.row_counts()
    complaint = processed.home.run("process", processed.drop, **changes).complaint
    for words in said:
        assert words in complaint
    assert "s3cret" not in complaint
    assert processed.home.row_counts() == before


def test_reference_without_weights_stops_with_the_fix_and_falls_back_when_asked(
    fresh: Home, drop: Path, tmp_path: Path
) -> None:
    tiny = part_of_herd(drop, tmp_path / "tiny", read_table(drop / "observations.csv")[:2])
    stopped = fresh.run("process", tiny, "--json", DEER_REID_RECIPE="reference")
    assert stopped.code == 1
    assert stopped.stdout == ""
    assert "Traceback" not in stopped.stderr
    errors = [line for line in stopped.stderr.splitlines() if line.startswith("Error: ")]
    assert errors == stopped.stderr.splitlines()[-1:]
    assert "resnet50" in errors[0]
    assert "DEER_REID_RECIPE=lite" in errors[0]
    assert fresh.row_counts()["releases"] == 0

    # As `make run` does it: nothing set, and the same words at the second run.
    first = fresh.run("process", tiny, "--json", "--fallback", "lite", DEER_REID_RECIPE=None)
    assert first.result["recipe"].startswith("lite-")
    assert [line for line in first.stderr.splitlines() if "Going on with the recipe 'lite'" in line]
    second = fresh.run("process", tiny, "--json", "--fallback", "lite", DEER_REID_RECIPE=None)
    assert second.result["already_processed"] is True
    assert second.result["recipe"] == first.result["recipe"]


def test_a_renamed_copy_of_the_drop_adds_no_picture_and_no_decision(processed: Processed, tmp_path: Path) -> None:
    home = processed.home
    before = home.row_counts()
    copy = tmp_path / "copy"
    shutil.copytree(processed.drop, copy)
    result = home.run("process", copy, "--json").result
    after = home.row_counts()
    kept = ("images", "detections", "deer", "encounters", "embeddings", "match_decisions", "profiles")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert result["drop"] != processed.answer.result["drop"]
    assert result["encounters"] == processed.answer.result["encounters"]
