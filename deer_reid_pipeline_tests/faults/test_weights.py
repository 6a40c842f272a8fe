"""A weight file is removed, before a run and during one: one sentence names it; with it back, the next run ends.

So it is where nobody looks and a drop arrives, but that a person has to say so once the sensor has tried often enough.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deer_reid_pipeline.vision.published import PUBLISHED
from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.e2e.gate import gate
from deer_reid_pipeline_tests.e2e.runs import Answer, Home, kill_group
from deer_reid_pipeline_tests.faults.conftest import assert_as_without_fault, new_installation, serving
from deer_reid_pipeline_tests.faults.installation import WITHIN_S, Installation
from deer_reid_pipeline_tests.launcher.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture
def weights(fresh: Home) -> Path:
    """The file of the fresh home."""
    return own_weights(fresh)


@pytest.fixture
def unattended(make_home: Callable[[], Path], lite_models: Path) -> Iterator[Installation]:
    """One that serves, computes with a file of its own, and leaves a drop to a person after two failed runs."""
    made = new_installation(make_home, lite_models)
    made.settings["DEER_REID_WATCH_ATTEMPTS"] = "2"
    own_weights(made)
    with serving(made) as running:
        yield running


def own_weights(home: Home) -> Path:
    """A file of the site's own that `lite` is computed with: the bytes of the package, so the recipe is the same."""
    packaged = PUBLISHED["efficientnet_lite0"].in_package()
    assert packaged is not None
    folder = home.folder / "weights"
    folder.mkdir()
    path = folder / "ours.pth"
    path.write_bytes(packaged.read_bytes())
    declared = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "weights.json").write_text(json.dumps({"efficientnet_lite0": declared}), encoding="utf-8")
    return path


def assert_told(said: str, weights: Path) -> None:
    """One line that names the file and what to do."""
    lines = said.splitlines()
    assert "Traceback" not in said
    assert lines[-1].startswith("Error: ")
    assert str(weights) in lines[-1]
    assert "put it back" in lines[-1]


def test_removed_while_a_run_works_and_before_one(fresh: Home, processed: Processed, weights: Path) -> None:
    command = ("process", processed.drop, "--json")
    assert fresh.run("init", "--json").result["recipe"] == processed.answer.result["recipe"]
    elsewhere = weights.with_suffix(".moved")

    # Before the networks are loaded: the run cannot go on.
    cut_off = run_without(fresh, command, ("detection_crops", 3), weights, elsewhere)
    assert cut_off.code == 1
    assert_told(cut_off.stderr, weights)
    missing = fresh.run(*command)
    assert missing.code == 1
    assert_told(missing.stderr, weights)
    assert fresh.query("SELECT count(*) FROM embeddings") == [(0,)]
    elsewhere.rename(weights)

    # Afterwards: they are in memory, and the run ends.
    done = run_without(fresh, command, ("embeddings", 13), weights, elsewhere)
    assert done.code == 0, done.stderr
    assert not weights.exists()
    assert fresh.runs() == ["FAILURE", "FAILURE", "SUCCESS"]
    assert_as_without_fault(fresh, processed)


def test_missing_when_a_drop_arrives_and_nobody_looks(unattended: Installation, processed: Processed) -> None:
    """The sensor tries again after five minutes, and then asks for a person; what it says brings the drop in."""
    weights = unattended.folder / "weights" / "ours.pth"
    elsewhere = weights.rename(weights.with_suffix(".moved"))
    unattended.deliver(processed.drop)
    failed = ["FAILURE", "FAILURE"]
    wait_for(lambda: [status for _, status in unattended.runs_since()] == failed, "second failed run", WITHIN_S)
    for run, _ in unattended.runs_since():
        report = unattended.failure_report(run)
        assert str(weights) in report
        assert "put it back" in report
        assert "Do what the error says." in report
    given_up = wait_for(lambda: last_said(unattended, "Failed too often"), "tick that asks for a person", WITHIN_S)
    assert f"{processed.drop.name} (2 times, partition " in given_up
    assert "deer-reid process FOLDER" in given_up

    elsewhere.rename(weights)
    unattended.wait_for_a_look()
    assert [status for _, status in unattended.runs_since()] == failed, "it is left to a person"
    answer = unattended.run("process", unattended.drops / processed.drop.name, "--json")
    assert answer.code == 0, answer.stderr
    assert [status for _, status in unattended.runs_since()] == [*failed, "SUCCESS"]
    assert_as_without_fault(unattended, processed)
    wait_for(lambda: last_said(unattended, "Nothing new in 1 folder."), "tick with nothing to do", WITHIN_S)


def last_said(installation: Installation, words: str) -> str | None:
    """What the newest tick of the sensor of drops said, where these words are in it."""
    installation.check()
    said = installation.query(
        "SELECT tick_body FROM job_ticks WHERE tick_body LIKE '%image_drop_sensor%' AND status = 'SKIPPED' "
        "ORDER BY id DESC LIMIT 1",
        database="dagster",
    )
    return said[0][0] if said and words in said[0][0] else None


def run_without(
    home: Home, command: tuple[object, ...], moment: tuple[str, int], weights: Path, elsewhere: Path
) -> Answer:
    """Run a command; the file is taken away when so many rows of a table are written."""
    with gate(home, *moment) as wait:
        process = home.start(*command, DEER_REID_BATCH_SIZE="2")
        try:
            wait(lambda: process.poll() is None or pytest.fail(str(process.communicate())))
            weights.rename(elsewhere)
        except BaseException:
            kill_group(process)
            raise
    stdout, stderr = process.communicate(timeout=600)
    return Answer(process.returncode, stdout, stderr)
