"""Runs in real worker processes (`dagster api execute_run`): how they start, end, crash and are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from deer_reid_pipeline.launcher.leases import LeaseBook
from deer_reid_pipeline.launcher.processes import find_leader, look_up
from deer_reid_pipeline.launcher.records import PLACEMENT_TAG, WORKER_TAG, record_of
from deer_reid_pipeline_tests.launcher.code_location import DEED, FOLDER
from deer_reid_pipeline_tests.launcher.conftest import BIG, SMALL, note_in, wait_for
from deer_reid_pipeline_tests.launcher.dagster_testing import (
    dagster_instance,
    events_of,
    make_run,
    reread,
    start,
)

LAUNCH = Path(__file__).with_name("launch_one.py")


@pytest.fixture
def instance(cards: Callable[..., None], tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose runs get 4,000 MiB of a card, and one second to stop."""
    with dagster_instance(
        tmp_path, vram_mb=4000, when_unavailable="fail", gpu={"process": {"terminate_grace_seconds": 2}}
    ) as opened:
        yield opened


def book_of(tmp_path: Path) -> LeaseBook:
    return LeaseBook(tmp_path / "state")


def started(instance: dg.DagsterInstance, tmp_path: Path, deed: str, job: str = "gpu_job") -> dg.DagsterRun:
    """A run whose asset is at its deed."""
    run = start(instance, make_run(instance, job, {FOLDER: str(tmp_path), DEED: deed}))
    note_in(tmp_path)
    return reread(instance, run)


def ended(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    wait_for(lambda: reread(instance, run).is_finished, "end of the run")
    return reread(instance, run)


def is_gone(pid: int) -> bool:
    found = look_up(pid)
    return found is None or not found.lives


def test_a_run_in_the_pool_gets_the_tightest_card_its_budget_and_a_lease(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = started(instance, tmp_path, "sleep")
    note, record = note_in(tmp_path), record_of(run)
    assert note["CUDA_VISIBLE_DEVICES"] == SMALL
    assert (note["CUDA_DEVICE_ORDER"], note["DEER_REID_VRAM_MB"], note["DEER_REID_DEVICE"]) == (
        "PCI_BUS_ID",
        "4000",
        "cuda",
    )
    assert record is not None
    assert (record.pid, record.device, record.budget_mb, record.back_end) == (note["pid"], SMALL, 4000, "process")
    worker = look_up(note["pid"])
    assert worker is not None
    assert worker.session == worker.pid == worker.group
    assert worker.start_ticks == record.start_ticks
    assert str(Path(f"/proc/{worker.pid}/fd/0").readlink()) == "/dev/null"
    assert [(lease.run_id, lease.device, lease.pid) for lease in book_of(tmp_path).all()] == [
        (run.run_id, SMALL, worker.pid)
    ]
    assert run.tags[PLACEMENT_TAG].startswith("gpu: pool gpu; card 1 (NVIDIA GeForce RTX 4060")
    assert any(run.tags[PLACEMENT_TAG] in message for message in events_of(instance, run))
    assert instance.run_launcher.check_run_worker_health(run).status.value == "RUNNING"

    assert instance.run_launcher.terminate(run.run_id)
    assert ended(instance, run).status is Status.CANCELED
    wait_for(lambda: is_gone(worker.pid), "end of the worker")
    wait_for(lambda: not book_of(tmp_path).all(), "end of the lease")
    assert not any("did not stop by itself" in message for message in events_of(instance, run))


def test_a_run_outside_the_pool_sees_no_card(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = start(instance, make_run(instance, "cpu_job", {FOLDER: str(tmp_path)}))
    assert ended(instance, run).status is Status.SUCCESS
    note = note_in(tmp_path)
    assert (note["CUDA_VISIBLE_DEVICES"], note["DEER_REID_DEVICE"]) == ("", "cpu")
    assert run.tags[PLACEMENT_TAG] == "cpu: no step is in pool gpu"
    instance.run_launcher.join(timeout=30)
    assert book_of(tmp_path).all() == []
    assert instance.run_launcher.check_run_worker_health(reread(instance, run)).status.value == "SUCCESS"


def test_a_crash_at_the_start_is_reported_at_once_with_its_log(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(instance, "gpu_job")
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match=r"(?s)ended at once with exit code 1.*PYTHONHOME"):
        instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
    assert reread(instance, run).status is Status.FAILURE
    assert book_of(tmp_path).all() == []


def test_a_worker_whose_record_cannot_be_written_is_killed(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster calls the run failed then, so nothing of it may go on."""
    run, write = make_run(instance, "gpu_job", {DEED: "sleep"}), instance.add_run_tags

    def refuse(run_id: str, tags: Mapping[str, str]) -> None:
        if '"pid": null' not in tags.get(WORKER_TAG, '"pid": null'):
            raise OSError("the storage is away")
        write(run_id, tags)

    monkeypatch.setattr(instance, "add_run_tags", refuse)
    with pytest.raises(OSError, match="the storage is away"):
        start(instance, run)
    assert find_leader(run.run_id) is None
    assert book_of(tmp_path).all() == []


def test_a_crash_before_the_run_begins_is_reported_when_it_happens(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(instance, "gpu_job")
    monkeypatch.setenv("DIE_ON_IMPORT", "1")
    start(instance, run)
    assert ended(instance, run).status is Status.FAILURE
    assert any("ended with exit code 7 before the run began" in message for message in events_of(instance, run))
    assert book_of(tmp_path).all() == []


def test_a_crash_later_is_failed_by_the_health_check(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started(instance, tmp_path, "die")
    (tmp_path / "now").touch()  # the launcher's look at the start is over
    wait_for(lambda: is_gone(note_in(tmp_path)["pid"]), "end of the worker")
    result = instance.run_launcher.check_run_worker_health(reread(instance, run))
    assert result.status.value == "FAILED"
    assert book_of(tmp_path).all() == []
    assert "log" in (instance.run_launcher.get_run_worker_debug_info(run) or "")


def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started(instance, tmp_path, "stubborn")
    before = time.monotonic()
    assert instance.run_launcher.terminate(run.run_id)
    assert time.monotonic() - before < 2.0, "the web server was kept waiting"
    assert reread(instance, run).status is Status.CANCELING
    assert not is_gone(note_in(tmp_path)["pid"])
    assert ended(instance, run).status is Status.CANCELED
    assert is_gone(note_in(tmp_path)["pid"])
    assert book_of(tmp_path).all() == []
    assert any("did not stop by itself" in message for message in events_of(instance, run))


def test_what_a_killed_leader_leaves_is_killed_before_the_run_is_called_failed(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = started(instance, tmp_path, "sleep", job="steps_job")
    record, step = record_of(run), note_in(tmp_path)["pid"]
    assert record is not None
    assert record.pid not in (None, step), "the step runs in a process of its own"
    os.kill(record.pid or 0, signal.SIGKILL)
    wait_for(lambda: is_gone(record.pid or 0), "end of the leader")
    assert not is_gone(step)
    result = instance.run_launcher.check_run_worker_health(reread(instance, run))
    assert result.status.value == "FAILED"
    assert is_gone(step)
    assert book_of(tmp_path).all() == []


def test_another_instance_goes_on_when_the_daemon_is_killed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = make_run(instance, "gpu_job", {FOLDER: str(tmp_path), DEED: "parent"})
    daemon = subprocess.Popen([sys.executable, str(LAUNCH), str(tmp_path / "home"), run.run_id, "stay"])
    note = note_in(tmp_path)
    daemon.kill()
    daemon.wait()
    launcher = instance.run_launcher
    assert launcher.check_run_worker_health(reread(instance, run)).status.value == "RUNNING"
    assert [lease.pid for lease in book_of(tmp_path).all()] == [note["pid"]]
    assert launcher.terminate(run.run_id)
    assert ended(instance, run).status is Status.CANCELED
    wait_for(lambda: is_gone(note["pid"]) and is_gone(note["child"]), "end of the worker and its child")
    wait_for(lambda: not book_of(tmp_path).all(), "end of the lease")


def test_two_processes_that_launch_at_once_do_not_share_a_card_that_has_room_for_one(
    instance: dg.DagsterInstance,
    cards: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards(lambda devices: devices.pop(1))
    monkeypatch.setenv("NVML_SLOW_S", "1.0")
    config = tmp_path / "home" / "dagster.yaml"
    config.write_text(config.read_text().replace("vram_mb: 4000", "vram_mb: 9000"))
    assert "vram_mb: 9000" in config.read_text()
    runs = [make_run(instance, "gpu_job", {FOLDER: str(tmp_path), DEED: "sleep"}) for _ in range(2)]
    at = str(time.time() + 10.0)
    launches = [
        subprocess.Popen([sys.executable, str(LAUNCH), str(tmp_path / "home"), run.run_id, "go", at]) for run in runs
    ]
    assert sorted(launch.wait(timeout=300) for launch in launches) == [0, 1]
    after = [reread(instance, run) for run in runs]
    (placed,) = [run for run in after if run.status is not Status.FAILURE]
    (refused,) = [run for run in after if run.status is Status.FAILURE]
    assert placed.tags[PLACEMENT_TAG].startswith("gpu: pool gpu; card 0")
    assert "the run needs 9000 MiB" in refused.tags[PLACEMENT_TAG]
    assert [lease.run_id for lease in book_of(tmp_path).all()] == [placed.run_id]
    assert instance.run_launcher.terminate(placed.run_id)
    ended(instance, placed)
    assert record_of(placed).device == BIG  # type: ignore[union-attr]
