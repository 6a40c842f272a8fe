"""Real processes: zombies, reused ids, sessions, and who is killed and who is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deer_reid_pipeline.launcher import processes
from deer_reid_pipeline_tests.launcher.conftest import wait_for

LEADER = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
DAEMON = (
    "import subprocess, sys, time; "
    "print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True); time.sleep(600)"
)


@pytest.fixture
def spawned() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are killed after the test."""
    made: list[subprocess.Popen[str]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()


def worker(spawned: list[subprocess.Popen[str]], code: str, run_id: str = "mine") -> processes.Process:
    """A leader of a session of its own whose environment names the run."""
    environment = {**os.environ, processes.RUN_VARIABLE: run_id}
    process = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    spawned.append(process)
    found = processes.look_up(process.pid)
    assert found is not None
    return found


def session(leader: processes.Process) -> list[processes.Process]:
    return processes.members(leader.pid, leader.start_ticks, "mine")


def test_a_zombie_is_dead_though_it_can_be_signalled(spawned: list[subprocess.Popen[str]]) -> None:
    leader = worker(spawned, "pass")
    wait_for(lambda: not processes.is_alive(leader.pid, leader.start_ticks), "end")
    os.kill(leader.pid, 0)
    zombie = processes.look_up(leader.pid)
    assert zombie is not None
    assert zombie.state == "Z"
    assert not processes.ask_to_stop(leader.pid, leader.start_ticks)


def test_a_later_owner_of_the_id_is_neither_alive_nor_signalled(spawned: list[subprocess.Popen[str]]) -> None:
    owner = worker(spawned, LEADER)
    before = owner.start_ticks - 1
    assert not processes.is_alive(owner.pid, before)
    assert not processes.ask_to_stop(owner.pid, before)
    assert processes.kill_all(owner.pid, before, "mine") == 0
    assert processes.is_alive(owner.pid, owner.start_ticks)


def test_children_of_a_killed_leader_are_found_and_killed(spawned: list[subprocess.Popen[str]]) -> None:
    leader = worker(spawned, LEADER)
    wait_for(lambda: len(session(leader)) == 2, "child")
    spawned[0].kill()
    spawned[0].wait()
    (child,) = session(leader)
    assert child.pid != leader.pid
    assert processes.kill_all(leader.pid, leader.start_ticks, "mine") == 1
    assert not processes.is_alive(child.pid, child.start_ticks)


def test_a_session_that_does_not_name_the_run_is_left_alone(spawned: list[subprocess.Popen[str]]) -> None:
    leader = worker(spawned, LEADER, run_id="theirs")
    wait_for(lambda: len(processes.members(leader.pid, leader.start_ticks, "theirs")) == 2, "child")
    spawned[0].kill()
    spawned[0].wait()
    assert processes.kill_all(leader.pid, leader.start_ticks, "mine") == 0
    assert processes.kill_all(leader.pid, leader.start_ticks, "theirs") == 1


def test_a_server_that_a_run_started_in_a_session_of_its_own_survives_it(
    spawned: list[subprocess.Popen[str]],
) -> None:
    """As the embedded database server does, which every process of the home uses."""
    leader = worker(spawned, DAEMON)
    assert spawned[0].stdout is not None
    server = processes.look_up(int(spawned[0].stdout.readline()))
    assert server is not None
    assert processes.kill_all(leader.pid, leader.start_ticks, "mine") == 1
    assert processes.is_alive(server.pid, server.start_ticks)
    os.kill(server.pid, 9)


def test_a_worker_whose_id_was_never_recorded_is_found_by_its_run(spawned: list[subprocess.Popen[str]]) -> None:
    environment = {**os.environ, processes.RUN_VARIABLE: "run-77"}
    arguments = [sys.executable, "-c", "import time; time.sleep(600)", "api", "execute_run", "{run-77}"]
    spawned.append(subprocess.Popen(arguments, env=environment, start_new_session=True, text=True))
    found = wait_for(lambda: processes.find_leader("run-77"), "worker")
    assert found.pid == spawned[0].pid
    assert processes.find_leader("run-7") is None
