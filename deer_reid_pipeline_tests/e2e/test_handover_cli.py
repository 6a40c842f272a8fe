"""A home exported, imported and embedded again by the commands: the same identities, decisions and vectors."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from frictionless import validate

from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.e2e.runs import UNICODE_INDIVIDUAL, Home, assert_same, stored

ROWS = {
    "deer": "id, name, sex, first_seen, last_seen, sighting_count, identified_by",
    "encounters": "id, drop_key, ordinal, event_key, started_at, ended_at, sex, given_individual",
    "match_decisions": "id, encounter_id, detection_ids, decision, method, deer_id, individual, score, "
    "runner_up_deer_id, runner_up_score, threshold, new_below, probability, candidates, reason, matcher, recipe_id, "
    "release_id, run_id, decided_at",
}


@pytest.fixture(scope="module")
def package(processed: Processed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The processed home as a package with its pictures."""
    folder = tmp_path_factory.mktemp("handover") / "p\u00e4ckage"
    answer = processed.home.run("export", folder, "--copy-media", "--json")
    result = answer.result
    assert answer.stderr.isascii()
    assert (result["folder"], result["valid"], result["not_copied"]) == (str(folder), True, [])
    assert result["observations"] == processed.answer.result["detections"]
    assert result["media"] == result["copied"] == processed.answer.result["images"]
    assert result["individuals"] == processed.answer.result["individuals"]
    return folder


def test_frictionless_reports_the_package_valid_and_names_are_whole(package: Path) -> None:
    assert validate(str(package / "datapackage.json")).valid
    with (package / "observations.csv").open(encoding="utf-8", newline="") as stream:
        assert UNICODE_INDIVIDUAL in {row["individualID"] for row in csv.DictReader(stream)}


def test_an_imported_home_has_the_same_identities_and_after_reembedding_the_same_vectors(
    processed: Processed, package: Path, fresh: Home
) -> None:
    answer = fresh.run("import", package, "--json")
    result = answer.result
    assert answer.stderr.isascii()
    assert result["media_missing"] == 0
    assert result["drops"] == [processed.answer.result["drop"]]
    for table, columns in ROWS.items():
        statement = f"SELECT {columns} FROM {table} ORDER BY id"
        assert fresh.query(statement) == processed.home.query(statement), table
    again = fresh.run("import", package)
    assert "this home is not empty (individuals: " in again.stderr.splitlines()[-1]
    assert again.code == 1
    assert fresh.run("reembed", "--json").code == 0
    assert_same(stored(fresh), processed.stored)
    seen = fresh.run("process", processed.drop, "--json").result
    assert {name: seen[name] for name in ("matched", "new", "uncertain", "individuals", "release")} == {
        name: processed.answer.result[name] for name in ("matched", "new", "uncertain", "individuals", "release")
    }
    assert fresh.query("SELECT count(*) FROM match_decisions") == processed.home.query(
        "SELECT count(*) FROM match_decisions"
    )


def test_a_folder_that_is_no_package_is_one_line(fresh: Home, tmp_path: Path) -> None:
    answer = fresh.run("import", tmp_path, "--json")
    assert answer.code == 1
    assert answer.stdout == ""
    assert answer.stderr.splitlines()[-1].endswith("is not a package: give the folder that holds datapackage.json")
    table = fresh.run("export", tmp_path / "t.csv", "--with-coordinates", "--json")
    assert "give the name of a folder" in table.stderr.splitlines()[-1]
