"""The process that keeps the embedded server up for a service manager."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg2

from deer_reid_pipeline.store.embedded import embedded_status, start_embedded


def test_it_tells_when_the_server_answers_keeps_it_up_and_stops_it(make_home: Callable[[], Path]) -> None:
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
            os.kill(killed, signal.SIGKILL)
            again = start_embedded(home)
            assert again.pid not in (None, killed)
            again.stop()
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
