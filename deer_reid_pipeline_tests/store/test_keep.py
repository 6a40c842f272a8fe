"""The process that keeps the embedded server up for a service manager."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg2
import pytest

from deer_reid_pipeline.store.embedded import embedded_status, hold, start_embedded
from deer_reid_pipeline.store.embedded.locks import locked
from deer_reid_pipeline.store.embedded.place import find_place
from deer_reid_pipeline_tests.launcher.conftest import wait_for
from deer_reid_pipeline_tests.store.clients import kill_server


def started_by_keeper(home: Path) -> bool:
    """Whether the running server has the environment of the keeper."""
    pid = embedded_status(home).pid
    return pid is not None and "NOTIFY_SOCKET" in psutil.Process(pid).environ()


def test_it_tells_when_the_server_answers_keeps_it_up_and_stops_it(
    make_home: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home()
    address = home / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(300)
        keeper = subprocess.Popen(
            [sys.executable, "-m", "deer_reid_pipeline.store.embedded.keep"],
            env={**os.environ, "DEER_REID_HOME": str(home), "NOTIFY_SOCKET": str(address)},
            start_new_session=True,
        )
        try:
            assert manager.recv(64) == b"READY=1"
            client = start_embedded(home)
            psycopg2.connect(client.url("postgres")).close()
            client.stop()
            assert embedded_status(home).state == "running", "a client that left stopped the server"
            killed = embedded_status(home).pid
            assert killed is not None
            kill_server(killed, children=True)
            again = start_embedded(home)
            assert again.pid is not None
            assert again.pid != killed
            assert started_by_keeper(home), "the server ends with whichever service found it dead"
            again.stop()
            with locked(find_place(home), 60):  # which it then does not hold
                keeper.send_signal(signal.SIGSTOP)
                wait_for(lambda: psutil.Process(keeper.pid).status() == psutil.STATUS_STOPPED, "stopped keeper")
            monkeypatch.setattr(hold, "KEEPER_TIMEOUT_S", 1.0)
            kill_server(again.pid, children=True)
            again.ensure_running()
            assert not started_by_keeper(home), "a keeper that hangs keeps the server down"
            again.stop()
            keeper.send_signal(signal.SIGCONT)
            assert embedded_status(home).state == "running"
            keeper.send_signal(signal.SIGINT)
            assert keeper.wait(timeout=120) == 0
            assert manager.recv(64) == b"STOPPING=1"
        finally:
            keeper.kill()
            keeper.wait(timeout=60)
    assert embedded_status(home).state == "stopped"


def test_there_is_nothing_to_keep_beside_an_external_database(make_home: Callable[[], Path]) -> None:
    home = make_home()
    done = subprocess.run(
        [sys.executable, "-m", "deer_reid_pipeline.store.embedded.keep"],
        env={**os.environ, "DEER_REID_HOME": str(home), "DATABASE_URL": "postgresql://deer@db.example/herd"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: DATABASE_URL is set")
    assert list(home.iterdir()) == []
