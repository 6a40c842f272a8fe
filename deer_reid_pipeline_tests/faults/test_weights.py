"""A weight file is removed, before a run and during one: one sentence names it; with it back, the next run ends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from deer_reid_pipeline.vision.published import PUBLISHED
from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.e2e.gate import gate
from deer_reid_pipeline_tests.e2e.runs import Answer, Home, kill_group
from deer_reid_pipeline_tests.faults.conftest import assert_as_without_fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture
def weights(fresh: Home) -> Path:
    """A file of the site's own that `lite` is computed with: the bytes of the package, so the recipe is the same."""
    packaged = PUBLISHED["efficientnet_lite0"].in_package()
    assert packaged is not None
    folder = fresh.folder / "weights"
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
