"""Runs of killed processes are closed, and only those."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import dagster as dg
import psutil
import pytest

from deer_reid_pipeline.defs.workers import (
    CODE_SERVER_TAG,
    WORKER_TAG,
    close_dead_runs,
    worker_identity,
    worker_tag,
)


@dg.op
def _nothing() -> None: ...


@dg.job
def _some_job() -> None:
    _nothing()


STARTED = dg.DagsterRunStatus.STARTED


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def other_process() -> Iterator[psutil.Process]:
    """A living process that is not ours."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()


def identity(process: psutil.Process) -> str:
    return worker_identity(process.pid)


def run_of(
    instance: dg.DagsterInstance, worker: str | None, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED
) -> str:
    run_id = str(uuid.uuid4())
    tags = {} if worker is None else {WORKER_TAG: worker_tag(run_id, worker)}
    return instance.create_run_for_job(_some_job, run_id=run_id, tags=tags, status=status).run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_run_whose_process_is_gone_is_closed_once_with_the_reason(
    instance: dg.DagsterInstance, other_process: psutil.Process
) -> None:
    run_id = run_of(instance, identity(other_process))
    assert close_dead_runs(instance) == 0
    other_process.kill()
    other_process.wait(10)
    assert close_dead_runs(instance) == 1
    assert status_of(instance, run_id) == dg.DagsterRunStatus.FAILURE
    messages = [entry.message for entry in instance.all_logs(run_id)]
    assert any("was killed" in message for message in messages)
    assert close_dead_runs(instance) == 0


def test_a_killed_process_that_nobody_waited_for_is_dead_too(instance: dg.DagsterInstance) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    run_id = run_of(instance, identity(psutil.Process(child.pid)))
    child.kill()
    deadline = time.monotonic() + 10
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert close_dead_runs(instance) == 1
    assert status_of(instance, run_id) == dg.DagsterRunStatus.FAILURE
    child.wait()


def test_a_process_id_that_somebody_else_has_now_does_not_keep_a_run_alive(
    instance: dg.DagsterInstance, other_process: psutil.Process
) -> None:
    earlier = f"{socket.gethostname()}:{other_process.pid}:{other_process.create_time() - 3600:.2f}"
    run_id = run_of(instance, earlier)
    assert close_dead_runs(instance) == 1
    assert status_of(instance, run_id) == dg.DagsterRunStatus.FAILURE
    assert other_process.is_running()


def test_living_and_foreign_runs_are_left_alone(instance: dg.DagsterInstance, other_process: psutil.Process) -> None:
    dead = 2**22 + 1  # above the largest process id of Linux
    alive = [
        run_of(instance, worker_identity()),
        run_of(instance, identity(other_process)),
        run_of(instance, f"another-host:{dead}:1.00"),
        run_of(instance, None),
        run_of(instance, "not an identity"),
    ]
    assert close_dead_runs(instance) == 0
    assert {status_of(instance, run_id) for run_id in alive} == {STARTED}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has PID namespaces")
def test_a_host_that_got_another_name_knows_its_own_dead_and_living_and_nobody_elses(
    instance: dg.DagsterInstance, other_process: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEER_REID_CODE", "127.0.0.1")
    monkeypatch.setenv("DEER_REID_CODE_PORT", "4000")
    place, _, started = identity(other_process).partition(":")
    run_id, foreign = str(uuid.uuid4()), run_of(instance, f"{place}0:{started}")
    tags = {
        CODE_SERVER_TAG: json.dumps({"host": "127.0.0.1", "port": 4000}),
        WORKER_TAG: worker_tag(run_id, identity(other_process)),
    }
    instance.create_run_for_job(_some_job, run_id=run_id, tags=tags, status=STARTED)
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert close_dead_runs(instance, from_code_server=True) == 0, "its process lives"
    other_process.kill()
    other_process.wait(10)
    assert close_dead_runs(instance) == 1
    assert (status_of(instance, run_id), status_of(instance, foreign)) == (dg.DagsterRunStatus.FAILURE, STARTED)


def test_a_retry_that_copied_the_tag_of_a_dead_run_is_left_alone(instance: dg.DagsterInstance) -> None:
    tags = {WORKER_TAG: worker_tag(str(uuid.uuid4()), f"{socket.gethostname()}:{2**22 + 1}:1.00")}
    run = instance.create_run_for_job(_some_job, tags=tags, status=STARTED)
    assert close_dead_runs(instance) == 0
    assert status_of(instance, run.run_id) == STARTED


def test_runs_of_a_container_that_was_replaced_are_closed_by_the_one_in_its_place(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEER_REID_CODE", "code")
    monkeypatch.setenv("DEER_REID_CODE_PORT", "4000")
    before, ours, elsewhere, command = (str(uuid.uuid4()) for _ in range(4))
    at = {CODE_SERVER_TAG: json.dumps({"host": "code", "port": 4000})}
    other = {CODE_SERVER_TAG: json.dumps({"host": "code-gpu", "port": 4000})}
    for run_id, identity, tags in (
        (before, "0a1b2c3d4e5f:40:boot/1", at),
        (ours, worker_identity(), at),
        (elsewhere, "0a1b2c3d4e5f:40:boot/1", other),
        (command, "0a1b2c3d4e5f:40:boot/1", {}),
    ):
        tags = {**tags, WORKER_TAG: worker_tag(run_id, identity)}
        instance.create_run_for_job(_some_job, run_id=run_id, tags=tags, status=STARTED)
    assert close_dead_runs(instance) == 0, "a command beside the code server cannot know"
    assert close_dead_runs(instance, from_code_server=True) == 1
    assert status_of(instance, before) == dg.DagsterRunStatus.FAILURE
    assert {status_of(instance, run_id) for run_id in (ours, elsewhere, command)} == {STARTED}


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
)
def test_ended_runs_keep_their_status(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> None:
    run_id = run_of(instance, f"{socket.gethostname()}:{2**22 + 1}:1.00", status)
    assert close_dead_runs(instance) == 0
    assert status_of(instance, run_id) == status


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, STARTED])
def test_a_process_killed_at_any_point_of_its_run_leaves_no_run_that_looks_alive(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    run_id = run_of(instance, f"{socket.gethostname()}:{2**22 + 1}:1.00", status)
    assert close_dead_runs(instance) == 1
    assert status_of(instance, run_id) == dg.DagsterRunStatus.FAILURE
