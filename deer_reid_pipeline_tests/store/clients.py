"""Client processes of an embedded server, for tests that kill them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from deer_reid_pipeline_tests.conftest import REPO

CLIENT = """
import sys
from pathlib import Path
from deer_reid_pipeline.store.embedded import start_embedded
server = start_embedded(Path(sys.argv[1]))
print(server.pid, flush=True)
"""


class Client:
    """Another Python process, with a process group of its own, that starts or joins a home's server."""

    def __init__(self, home: Path, then: str = "sys.stdin.readline()") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT + then, str(home)],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def server_pid(self) -> int:
        """Waits until the client uses the server."""
        return int(self.line())

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the client process died"
        return line

    def leave(self) -> None:
        """Let the client come to its end, and wait for it."""
        self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0

    def signal_group(self, signum: signal.Signals) -> None:
        """What a terminal does on Ctrl-C, or a supervisor that means it."""
        os.killpg(self.process.pid, signum)
        self.process.communicate(timeout=60)


@contextlib.contextmanager
def client(home: Path, then: str = "sys.stdin.readline()") -> Iterator[Client]:
    made = Client(home, then)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_server(pid: int, *, children: bool) -> None:
    """kill -9 the server, with or without its children, and wait until it is dead."""
    server = psutil.Process(pid)
    victims = [server, *(server.children(recursive=True) if children else [])]
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + 10
    while any(alive(process.pid) for process in victims):
        assert time.monotonic() < deadline
        time.sleep(0.02)
