"""Processes that are kept up: killed ones come back, and nothing outlives the supervisor, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.launcher.conftest import wait_for

SERVICE = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
note = pathlib.Path(sys.argv[1])
note.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
note.with_suffix(".part").replace(note)
time.sleep(600)
"""
SUPERVISOR = """
import os, sys
from deer_reid_pipeline.defs.supervisor import Service, Supervisor
service = Service("thing", sys.argv[1:])
Supervisor([service], os.environ, lambda line: print(line, flush=True)).run(lambda: None, lambda: True)
"""


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where the service writes its process id and that of what it started."""
    return tmp_path / "note"


@contextlib.contextmanager
def keeping_up(note: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that keeps a service up, which notes its process id; both are ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, *command], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        for pid in pids(note):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)


@pytest.fixture
def supervisor(note: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that keeps one service up."""
    with keeping_up(note, sys.executable, "-c", SERVICE, str(note)) as process:
        yield process


def pids(note: Path) -> list[int]:
    return [int(word) for word in note.read_text().split()] if note.exists() else []


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_killed_service_comes_back_and_all_end_together(supervisor: subprocess.Popen[str], note: Path) -> None:
    first = wait_for(lambda: pids(note), "service")
    os.kill(first[0], signal.SIGKILL)
    second = wait_for(lambda: pids(note) if pids(note) != first else None, "service in its place")
    assert not gone(first[1]), "what a killed code server had started goes on"
    supervisor.terminate()
    said, _ = supervisor.communicate(timeout=90)
    assert supervisor.returncode == 0
    assert all(gone(pid) for pid in (*first, *second))
    assert said.splitlines() == [
        "The thing ended (killed by SIGKILL). It is started again.",
        "Stopping. Runs that are cut off go on at the next start.",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_service_ends_with_a_supervisor_that_is_killed(supervisor: subprocess.Popen[str], note: Path) -> None:
    service, _ = wait_for(lambda: pids(note), "service")
    supervisor.kill()
    wait_for(lambda: gone(service), "end of the service")


def test_a_service_that_cannot_be_started_is_tried_again(tmp_path: Path, note: Path) -> None:
    program, part = tmp_path / "program", tmp_path / "part"
    with keeping_up(note, str(program)) as supervisor:
        assert supervisor.stdout is not None
        told = supervisor.stdout.readline()
        assert told == f"The thing cannot be started ([Errno 2] No such file or directory: '{program}'). " + (
            "It is tried again.\n"
        )
        part.write_text(f"#!/bin/sh\necho $$ > {note}\nexec sleep 600\n", encoding="ascii")
        part.chmod(0o700)
        part.replace(program)
        (service,) = wait_for(lambda: pids(note), "service")
        supervisor.terminate()
        assert supervisor.wait(timeout=90) == 0
        assert gone(service)
