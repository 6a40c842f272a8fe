"""kill -9 at chosen and at random moments: the next run ends the work, with the results of an uninterrupted one."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deer_reid_pipeline.store.embedded import start_embedded
from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.e2e.gate import PATIENCE_S, gate
from deer_reid_pipeline_tests.e2e.runs import Answer, Home, assert_same, kill_group, new_home, stored
from deer_reid_pipeline_tests.store.clients import kill_server


def assert_going(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None, process.communicate()


def killed_at(home: Home, table: str, rows: int, *arguments: object) -> None:
    """Run a command with small batches and kill -9 its process group while it writes into a table."""
    with gate(home, table, rows) as wait:
        process = home.start(*arguments, DEER_REID_BATCH_SIZE="2")
        try:
            wait(lambda: assert_going(process))
        finally:
            kill_group(process)
        assert process.returncode == -9


def count(home: Home, table: str) -> int:
    return home.query(f"SELECT count(*) FROM {table}")[0][0]


def assert_runs(home: Home, failed: int) -> None:
    """No run looks alive: the killed ones are failures, the last one is a success."""
    assert home.runs()[-1] == "SUCCESS"
    assert home.runs() == ["FAILURE"] * failed + ["SUCCESS"]


def test_process_killed_in_every_phase_ends_like_an_uninterrupted_run(fresh: Home, processed: Processed) -> None:
    expected = processed.answer.result
    assert fresh.run("init", "--json").code == 0
    command = ("process", processed.drop, "--json")

    killed_at(fresh, "images", 3, *command)
    assert count(fresh, "images") == 0, "half a batch was stored"
    assert fresh.runs() == ["STARTED"]

    killed_at(fresh, "embeddings", 13, *command)
    kept = count(fresh, "embeddings")
    assert count(fresh, "images") == expected["images"]
    assert 0 < kept < 3 * expected["detections"]
    assert kept % 3 == 0, "a detection has some of its vectors"
    made = dict(fresh.query("SELECT (detection_id, branch)::text, created_at FROM embeddings"))  # type: ignore[arg-type]

    killed_at(fresh, "match_decisions", 3, *command)
    assert count(fresh, "embeddings") == 3 * expected["detections"]
    again = dict(fresh.query("SELECT (detection_id, branch)::text, created_at FROM embeddings"))  # type: ignore[arg-type]
    assert made.items() <= again.items(), "vectors that were stored were made again"
    assert [count(fresh, name) for name in ("match_decisions", "encounters", "deer")] == [0, 0, 0]

    killed_at(fresh, "profiles", 4, *command)
    assert count(fresh, "match_decisions") == expected["encounters"]
    assert 0 < count(fresh, "profiles") < 3 * expected["individuals"]

    result = fresh.run(*command).result
    assert result["already_processed"] is False
    same = ("drop", "images", "detections", "encounters", "individuals", "matched", "new", "uncertain", "recipe")
    assert {name: result[name] for name in same} == {name: expected[name] for name in same}
    assert_same(stored(fresh), processed.stored)
    assert_runs(fresh, failed=4)
    assert fresh.run(*command).result["already_processed"] is True


def test_reembed_killed_in_every_phase_ends_like_an_uninterrupted_run(processed: Processed) -> None:
    home = processed.home  # which ends as it was
    earlier = len(home.runs())
    command = ("reembed", "--restart", "--json")
    killed_at(home, "embeddings", 13, *command)
    assert_same(stored(home), processed.stored)
    killed_at(home, "profile_exemplars", 5, *command)
    assert stored(home).columns.keys() == processed.stored.columns.keys(), "the live profiles were gone meanwhile"
    assert home.run(*command).code == 0
    assert_same(stored(home), processed.stored)

    # Vectors that are really lost: what is missing at the next run is what the killed one had not reached.
    home.query("DELETE FROM embeddings")
    home.query("DELETE FROM profiles")
    home.query("DELETE FROM profile_exemplars")
    killed_at(home, "embeddings", 13, "reembed", "--json")
    assert 0 < count(home, "embeddings") < len(processed.stored.vectors)
    made = dict(home.query("SELECT (detection_id, branch)::text, created_at FROM embeddings"))  # type: ignore[arg-type]
    result = home.run("reembed", "--json").result
    again = dict(home.query("SELECT (detection_id, branch)::text, created_at FROM embeddings"))  # type: ignore[arg-type]
    assert made.items() <= again.items(), "vectors that were stored were made again"
    assert set(result["vectors"].values()) == {processed.answer.result["detections"]}
    assert_same(stored(home), processed.stored)
    assert home.runs()[earlier:] == ["FAILURE", "FAILURE", "SUCCESS", "FAILURE", "SUCCESS"]


@pytest.mark.parametrize(
    "children",
    [pytest.param(True, id="with children"), pytest.param(False, id="postmaster alone", marks=pytest.mark.slow)],
)
def test_a_killed_database_server_costs_one_run_at_most(fresh: Home, processed: Processed, children: bool) -> None:
    assert fresh.run("init", "--json").code == 0
    with fresh.connected() as connection, connection.cursor() as cursor:
        process = fresh.start("process", processed.drop, "--json", DEER_REID_BATCH_SIZE="1")
        try:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                cursor.execute("SELECT count(*) FROM embeddings")
                if cursor.fetchone()[0] >= 6:
                    break
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            pid = start_embedded(fresh.folder).pid
            assert pid is not None
            kill_server(pid, children=children)
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
        finally:
            kill_group(process)
    # First that nothing is lost, then how it was told.
    assert fresh.run("process", processed.drop, "--json").code == 0
    assert_same(stored(fresh), processed.stored)
    assert not {"STARTED", "STARTING", "NOT_STARTED", "CANCELING"} & set(fresh.runs())
    assert fresh.runs()[-1] == "SUCCESS"

    answer = Answer(process.returncode, stdout, stderr)
    if answer.code == 0:
        assert answer.result["detections"] == processed.answer.result["detections"]
    else:
        assert stdout == ""
        assert "Traceback" not in stderr
        errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
        assert errors == stderr.splitlines()[-1:], stderr
        assert len(errors[0]) < 500
        assert stderr.isascii()


@pytest.mark.slow
def test_process_and_reembed_killed_at_random_moments(
    make_home: Callable[[], Path], lite_models: Path, processed: Processed
) -> None:
    """Three kills of each, with nobody else connected, the server's start included."""
    home = new_home(make_home, lite_models)
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    kills = 0
    try:
        for command in (("process", processed.drop, "--json"), ("reembed", "--restart", "--json")):
            started = time.monotonic()
            whole = processed.home.run("reembed", "--restart", "--json")
            assert whole.code == 0
            length = time.monotonic() - started
            for _ in range(3):
                process = home.start(*command, DEER_REID_BATCH_SIZE="2")
                moment = draw.uniform(0.05, 1.0) * length
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(moment)
                kills += process.poll() is None
                kill_group(process)
            answer = home.run(*command)
            assert answer.code == 0, (seed, answer.stderr)
            assert_same(stored(home), processed.stored)
        assert kills, seed
        assert not {"STARTED", "STARTING", "NOT_STARTED", "CANCELING"} & set(home.runs()), seed
    finally:
        home.stop()
