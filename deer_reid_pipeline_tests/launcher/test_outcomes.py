"""What becomes of runs that get no card, of records that lie, and of runs on other machines; nothing is started."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from deer_reid_pipeline.launcher import processes
from deer_reid_pipeline.launcher.errors import LauncherError
from deer_reid_pipeline.launcher.leases import LeaseBook
from deer_reid_pipeline.launcher.records import PLACEMENT_TAG, WorkerRecord, record_of
from deer_reid_pipeline.launcher.run_launcher import GpuRunLauncher
from deer_reid_pipeline_tests.launcher.conftest import wait_for
from deer_reid_pipeline_tests.launcher.dagster_testing import (
    RECORDING,
    dagster_instance,
    events_of,
    make_run,
    reread,
    start,
    under_way,
)
from deer_reid_pipeline_tests.launcher.recording_launcher import RecordingLauncher


@contextmanager
def opened(tmp_path: Path, **config: Any) -> Iterator[tuple[dg.DagsterInstance, GpuRunLauncher, RecordingLauncher]]:
    """An instance, its launcher, and the delegate, which starts nothing."""
    with dagster_instance(tmp_path, delegate={**RECORDING, "config": {}}, **config) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, GpuRunLauncher)
        delegate = launcher._cpu.launcher  # type: ignore[attr-defined]
        assert isinstance(delegate, RecordingLauncher)
        yield instance, launcher, delegate


def recorded(instance: dg.DagsterInstance, run: dg.DagsterRun, **changes: Any) -> dg.DagsterRun:
    """A started run with a record of this very process, with changes."""
    here, me = processes.this_machine(), processes.look_up(os.getpid())
    assert me is not None
    record = WorkerRecord(
        run.run_id, "process", here.host, here.boot_id, here.pid_namespace, pid=me.pid, start_ticks=me.start_ticks
    )
    instance.add_run_tags(run.run_id, replace(record, **changes).as_tag())
    return under_way(instance, run)


def test_without_a_driver_a_run_goes_to_the_delegate_and_says_why(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path, when_unavailable="cpu") as (instance, _, delegate):
        run = start(instance, make_run(instance, "gpu_job"))
        assert [launched.run_id for launched in delegate.launched] == [run.run_id]
        reason = run.tags[PLACEMENT_TAG]
        assert reason.startswith("cpu: pool gpu, but no card: the NVIDIA driver does not answer")
        assert any(f"Placement: {reason}" in message for message in events_of(instance, run))
        record = record_of(run)
        assert record is not None
        assert record.back_end == "delegate"
        assert LeaseBook(tmp_path / "state").all() == []


def test_without_a_driver_a_run_fails_and_says_why(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path, when_unavailable="fail") as (instance, _, delegate):
        run = make_run(instance, "gpu_job")
        with pytest.raises(LauncherError, match="driver does not answer"):
            start(instance, run)
        after = reread(instance, run)
        assert after.status is Status.FAILURE
        assert after.tags[PLACEMENT_TAG].startswith("failed: pool gpu, but no card: the NVIDIA driver")
        assert delegate.launched == []


def test_without_a_driver_a_run_waits_no_longer_than_it_may(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path, when_unavailable="wait", wait_seconds=2) as (instance, _, _delegate):
        run = make_run(instance, "gpu_job")
        with pytest.raises(LauncherError, match="none within 2 s; the NVIDIA driver"):
            start(instance, run)
        assert reread(instance, run).tags[PLACEMENT_TAG].startswith("failed: pool gpu, but no card: none within 2 s")
        assert any("waiting up to 2 s" in message for message in events_of(instance, run))


def test_a_run_that_waits_can_be_cancelled(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path, when_unavailable="wait", wait_seconds=60) as (instance, launcher, _):
        run = make_run(instance, "gpu_job")
        waiting = threading.Thread(target=start, args=(instance, run))
        waiting.start()
        wait_for(lambda: record_of(reread(instance, run)), "record of the wait")
        assert launcher.terminate(run.run_id)
        waiting.join(timeout=60)
        assert not waiting.is_alive()
        assert reread(instance, run).status is Status.CANCELED


def test_a_run_waits_until_there_is_room(cards: Callable[..., None], tmp_path: Path) -> None:
    """The cards are full, then one empties, and the run gets it."""
    cards(lambda devices: [device["memory"].update(free=0) for device in devices])
    with opened(tmp_path, when_unavailable="wait", wait_seconds=60, vram_mb=4000) as (instance, launcher, _):
        placed: list[str] = []
        launcher._gpu.launch = lambda context, record, held: placed.append(record.device)  # type: ignore[method-assign]
        run = make_run(instance, "gpu_job")
        waiting = threading.Thread(target=start, args=(instance, run))
        waiting.start()
        wait_for(lambda: record_of(reread(instance, run)), "record of the wait")
        cards(lambda devices: devices[0]["memory"].update(free=8000 * 2**20))
        waiting.join(timeout=60)
        assert placed == ["GPU-5f6a1d0e-2b1c-4c83-9a5e-0d7b9c1e0a11"]


def test_the_budget_of_the_environment_is_used(
    cards: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEER_REID_VRAM_MB", "20000")
    with opened(tmp_path, when_unavailable="cpu") as (instance, _, _delegate):
        run = start(instance, make_run(instance, "gpu_job"))
        assert "the run needs 20000 MiB" in run.tags[PLACEMENT_TAG]


def test_an_explicit_tag_wins_over_the_pool(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path, when_unavailable="cpu") as (instance, _, _delegate):
        plain = start(instance, make_run(instance, "gpu_job", {"deer_reid/gpu": "false"}))
        assert plain.tags[PLACEMENT_TAG] == "cpu: tag deer_reid/gpu=false"
        asked = start(instance, make_run(instance, "cpu_job", {"deer_reid/gpu": "true"}))
        assert asked.tags[PLACEMENT_TAG].startswith("cpu: tag deer_reid/gpu=true, but no card")
        with pytest.raises(LauncherError, match="write true or false"):
            start(instance, make_run(instance, "cpu_job", {"deer_reid/gpu": "yes"}))


def test_a_reused_id_is_a_dead_worker_and_its_owner_lives(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path) as (instance, launcher, _):
        run = recorded(instance, make_run(instance, "gpu_job"), start_ticks=1)
        assert launcher.check_run_worker_health(run).status.value == "FAILED"
        assert not launcher.terminate(run.run_id)
        assert any("had already ended" in message for message in events_of(instance, run))


def test_a_zombie_is_a_dead_worker(no_driver: None, tmp_path: Path) -> None:
    process = subprocess.Popen(["true"], start_new_session=True)
    found = processes.look_up(process.pid)
    assert found is not None
    wait_for(lambda: not processes.is_alive(found.pid, found.start_ticks), "zombie")
    with opened(tmp_path) as (instance, launcher, _):
        run = recorded(instance, make_run(instance, "gpu_job"), pid=found.pid, start_ticks=found.start_ticks)
        assert launcher.check_run_worker_health(run).status.value == "FAILED"
    process.wait()


def test_a_record_that_a_retry_copied_is_not_believed(no_driver: None, tmp_path: Path) -> None:
    """The first run's worker lives: the retry must neither be called running by it nor end it."""
    with opened(tmp_path) as (instance, launcher, delegate):
        first = recorded(instance, make_run(instance, "gpu_job"))
        retry = make_run(instance, "gpu_job", first.tags)
        assert record_of(first) is not None
        assert record_of(reread(instance, retry)) is None
        assert "did not start it" in str(launcher.check_run_worker_health(retry))
        launcher.terminate(retry.run_id)
        assert delegate.terminated == [retry.run_id]
        assert reread(instance, first).status is Status.STARTED


def test_a_run_of_the_command_line_is_left_to_itself(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path) as (instance, launcher, _):
        assert launcher.check_run_worker_health(make_run(instance, "gpu_job")).status.value == "RUNNING"


def test_on_another_host_a_run_is_neither_judged_nor_ended(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path) as (instance, launcher, _):
        run = recorded(instance, make_run(instance, "gpu_job"), host="elsewhere")
        with pytest.raises(LauncherError, match="runs on host elsewhere"):
            launcher.check_run_worker_health(run)
        assert launcher.terminate(run.run_id) is False
        assert any("its worker runs on host elsewhere" in message for message in events_of(instance, run))
        assert reread(instance, run).status is Status.STARTED


def test_after_a_restart_of_the_machine_a_worker_is_gone(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path) as (instance, launcher, _):
        run = recorded(instance, make_run(instance, "gpu_job"), boot_id="earlier")
        result = launcher.check_run_worker_health(run)
        assert result.status.value == "FAILED"
        assert "restarted" in (result.msg or "")


def test_in_another_container_the_lock_tells_whether_a_worker_lives(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path) as (instance, launcher, _):
        run = recorded(instance, make_run(instance, "gpu_job"), pid_namespace="pid:[1]")
        book = LeaseBook(tmp_path / "state")
        with pytest.raises(LauncherError, match="state_dir is not shared"):
            launcher.check_run_worker_health(run)
        assert launcher.terminate(run.run_id) is False
        held = book.hold(run.run_id)
        assert launcher.check_run_worker_health(run).status.value == "RUNNING"
        os.close(held)
        assert launcher.check_run_worker_health(run).status.value == "FAILED"


def test_a_run_is_never_resumed(no_driver: None, tmp_path: Path) -> None:
    with opened(tmp_path) as (instance, launcher, _):
        assert launcher.supports_resume_run is False
        run = recorded(instance, make_run(instance, "gpu_job"))
        with pytest.raises(LauncherError, match="its steps could run twice"):
            instance.resume_run(run.run_id, None, 1)  # type: ignore[arg-type]


def test_numbers_out_of_range_name_their_field(no_driver: None, tmp_path: Path) -> None:
    with (
        dagster_instance(tmp_path, wait_seconds=0) as instance,
        pytest.raises(LauncherError, match=r"wait_seconds .* 1 is the least"),
    ):
        _ = instance.run_launcher
