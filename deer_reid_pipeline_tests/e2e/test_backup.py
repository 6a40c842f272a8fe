"""Backup, loss of the whole home, restore: the same identities, decisions, releases and runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deer_reid_pipeline.store import migrate
from deer_reid_pipeline_tests.e2e.runs import Home, assert_same, new_home, stored


def log_of(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    """What a restore must bring back to the letter: the logs, the releases, every vector, Dagster's runs and events."""
    return {
        "decisions": home.query("SELECT to_jsonb(d) FROM match_decisions d ORDER BY id"),
        "releases": home.query("SELECT to_jsonb(r) FROM releases r ORDER BY id"),
        "events": home.query("SELECT to_jsonb(e) FROM release_events e ORDER BY id"),
        "vectors": home.query("SELECT to_jsonb(e) FROM embeddings e ORDER BY to_jsonb(e)::text"),
        "comments": home.query("SELECT count(*) FROM pg_description"),
        "runs": home.query("SELECT run_id, status, partition FROM runs ORDER BY id", database="dagster"),
        "dagster": home.query("SELECT id, dagster_event_type, event FROM event_logs ORDER BY id", database="dagster"),
    }


def files_of(folder: Path) -> dict[str, bytes]:
    """Every crop and model by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in ("crops", "models")
        for path in (folder / name).rglob("*")
        if path.is_file()
    }


def test_a_lost_home_comes_back_the_same(
    make_home: Callable[[], Path], lite_models: Path, drop: Path, tmp_path: Path
) -> None:
    home = new_home(make_home, lite_models)
    assert home.run("process", drop, "--json").code == 0
    before, log, files = stored(home), log_of(home), files_of(home.folder)
    assert len(log["decisions"]) > 5
    assert any(name.startswith("crops/") for name in files)
    answer = home.run("backup", tmp_path / "copy", "--json")
    assert answer.result["revision"] == migrate.head()
    home.stop()
    shutil.rmtree(home.folder)
    home.folder.mkdir(mode=0o711)

    restored = home.run("restore", tmp_path / "copy", "--json")
    assert (restored.result["moved_to"], restored.result["kept_databases"]) == (None, [])
    assert (log_of(home), files_of(home.folder)) == (log, files)
    assert_same(stored(home), before)
    again = home.run("process", drop, "--json")
    assert again.result["already_processed"] is True
    assert log_of(home)["decisions"] == log["decisions"], "the restored home does not know what it processed"

    assert "is in use (the folder crops" in home.run("restore", tmp_path / "copy").complaint
    replaced = home.run("restore", tmp_path / "copy", "--replace", "--json").result
    assert files_of(Path(replaced["moved_to"])) == files, "what was there is gone"
    assert (log_of(home), files_of(home.folder)) == (log, files)
    kept = {name.partition("_replaced_")[0]: name for name in replaced["kept_databases"]}
    assert set(kept) == {"deer_reid", "dagster"}
    decisions = "SELECT to_jsonb(d) FROM match_decisions d ORDER BY id"
    assert home.query(decisions, database=kept["deer_reid"]) == log["decisions"]
    home.stop()


def test_there_is_nothing_to_back_up_in_a_new_home(fresh: Home, tmp_path: Path) -> None:
    assert "nothing to back up" in fresh.run("backup", tmp_path / "copy").complaint
    assert "is no backup" in fresh.run("restore", tmp_path).complaint
    assert list(tmp_path.iterdir()) == []
    assert not (fresh.folder / "postgres").exists(), "a question made a database"
