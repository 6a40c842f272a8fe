"""The processes of an installation by a clock of their own: database, code server and daemon, as on a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.deploy.proxy import free_port
from deer_reid_pipeline_tests.e2e.runs import Home
from deer_reid_pipeline_tests.fortnight.clock import SiteClock

READY_WITHIN_S = 600
DAGSTER = [sys.executable, "-m", "dagster"]


class Services:
    """The running processes of a home.

    The code server is the one without a proxy of its own (`dagster api grpc`): that of `dagster code-server` ends
    itself when the clock is set forward by more than the time between two signs of life.
    """

    def __init__(self, home: Home, clock: SiteClock, folder: Path) -> None:
        self.home, self.clock, self.folder = home, clock, folder
        self.port = free_port()
        home.settings |= {
            **clock.environment(),
            "DAGSTER_HOME": str(home.folder / "dagster"),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            "DEER_REID_CODE": "127.0.0.1",
            "DEER_REID_CODE_PORT": str(self.port),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all, each when the one before answers."""
        self._spawn("database", [sys.executable, "-m", "deer_reid_pipeline.store.embedded.keep"])
        done = self._run([str(Path(sys.executable).with_name("deer-reid")), "init"])
        assert done.returncode == 0, done.stderr
        ((now,),) = self.home.query("SELECT now()")
        assert abs((now - self.clock.now()).total_seconds()) < 60, "the database goes by another clock"
        module = ["--module-name", "deer_reid_pipeline.definitions", "--use-python-environment-entry-point"]
        self._spawn("code", [*DAGSTER, "api", "grpc", "--host", "127.0.0.1", "--port", str(self.port), *module])
        deadline = time.monotonic() + READY_WITHIN_S
        while self._run([*DAGSTER, "api", "grpc-health-check", "--port", str(self.port)]).returncode != 0:
            self.check()
            assert time.monotonic() < deadline, self.log_of("code")
            time.sleep(1)
        workspace = str(REPO / "deploy" / "workspace.yaml")
        self._spawn("daemon", [sys.executable, "-m", "dagster._daemon", "run", "--workspace", workspace])

    def check(self) -> None:
        """Fails when one of them ended."""
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended:\n{self.log_of(name)}"

    def log_of(self, name: str, characters: int = 4000) -> str:
        """The end of what a process said."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-characters:]

    def stop(self) -> None:
        """End all, the last first, with everything that they started."""
        for name, process in reversed(self._processes.items()):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            if name != "database":
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait(timeout=60)

    def _spawn(self, name: str, words: list[str]) -> None:
        self._processes[name] = self.home.keep_running(words, self.folder / f"{name}.log")

    def _run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env=self.home.environment(),
            cwd=self.home.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=READY_WITHIN_S,
        )


@contextmanager
def running_services(home: Home, clock: SiteClock, folder: Path) -> Iterator[Services]:
    """All of them, ended whatever happens."""
    services = Services(home, clock, folder)
    with ExitStack() as ends:
        ends.callback(home.stop)
        ends.callback(services.stop)
        services.start()
        yield services
