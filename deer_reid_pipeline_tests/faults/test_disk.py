"""The disk is full while crops are written: one sentence says so, and the next run with room again ends the work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.e2e.runs import Home
from deer_reid_pipeline_tests.faults.conftest import assert_as_without_fault
from deer_reid_pipeline_tests.faults.installation import WITHIN_S, Installation
from deer_reid_pipeline_tests.launcher.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@dataclass(frozen=True)
class SmallDisk:
    """A disk where a home keeps its crops, with room for half of them."""

    folder: Path

    def make_room(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(self.folder)], check=True, timeout=60)

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture
def small_disk(fresh: Home, processed: Processed) -> Iterator[SmallDisk]:
    yield from mounted(fresh, processed)


@pytest.fixture
def small_disk_of_the_running(installation: Installation, processed: Processed) -> Iterator[SmallDisk]:
    yield from mounted(installation, processed)


def mounted(home: Home, processed: Processed) -> Iterator[SmallDisk]:
    """Mount it; the test is skipped where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    crops = (path for path in (processed.home.folder / "crops").rglob("*") if path.is_file())
    room = sum(path.stat().st_size for path in crops) // 2
    folder = home.folder / "crops"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=60)


def test_a_full_disk_is_told_and_the_next_run_goes_on(fresh: Home, processed: Processed, small_disk: SmallDisk) -> None:
    for _ in range(2):
        answer = fresh.run("process", processed.drop, "--json")
        assert answer.code == 1
        assert answer.stdout == ""
        assert "Traceback" not in answer.stderr
        last = answer.stderr.splitlines()[-1]
        assert last.startswith("Error: drop ")
        assert "No space left on device; free some space" in last
        assert answer.stderr.count("No space left on device") == 1
        assert 0 < len(small_disk.files()) < len(processed.stored.detections)
        assert {path.suffix for path in small_disk.files()} == {".jpg"}, "half a file was left"
    small_disk.make_room()
    assert fresh.run("process", processed.drop, "--json").code == 0
    assert fresh.runs() == ["FAILURE", "FAILURE", "SUCCESS"]
    assert_as_without_fault(fresh, processed)


def test_a_full_disk_is_waited_for(
    installation: Installation, processed: Processed, small_disk_of_the_running: SmallDisk
) -> None:
    """Unattended: the sensor tries again after five minutes."""
    installation.deliver(processed.drop)
    wait_for(lambda: [status for _, status in installation.runs_since()] == ["FAILURE"], "failed run", WITHIN_S)
    ((run, _),) = installation.runs_since()
    report = installation.failure_report(run)
    assert "No space left on device; free some space" in report
    assert "Do what the error says." in report
    small_disk_of_the_running.make_room()
    assert installation.wait_until_processed() == ["FAILURE", "SUCCESS"]
    assert_as_without_fault(installation, processed)
