"""The services of the compose file as processes of this machine: the same commands, in the same order, on free ports.

What a container gives them is given otherwise: names of hosts become 127.0.0.1, ports become free ones, and the paths
of the image become those of the checkout. PostgreSQL is a server of its own with a password, from the wheel's programs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg2

from deer_reid_pipeline.store.embedded import os_user
from deer_reid_pipeline.store.embedded.programs import run_program
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.deploy.compose_file import filled, in_starting_order, services
from deer_reid_pipeline_tests.deploy.proxy import free_port, wait_until_open
from deer_reid_pipeline_tests.store.clients import kill_server

DATABASE_PASSWORD = "p@ss:w/rd#1"
"""With characters that would break an address."""

HEALTHY_WITHIN_S = 600


class Stack:
    """The running services behind the proxy.

    Attributes:
        started: names of the services in the order in which they were up.
    """

    def __init__(self, folder: Path, home: Path, drops: Path) -> None:
        self.folder = folder
        self.drops = drops
        self.ports = {name: free_port() for name in ("db", "code", "webserver")}
        self.started: list[str] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        values = {"POSTGRES_PASSWORD": DATABASE_PASSWORD}
        asked = services()["code"]["environment"].items()
        given = {name: filled(str(value), values) for name, value in asked if value is not None}
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environment = {
            **kept,
            **given,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DATABASE_URL": given["DATABASE_URL"].replace("@db:5432", f"@127.0.0.1:{self.ports['db']}"),
            "DEER_REID_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            "DEER_REID_CODE": "127.0.0.1",
            "DEER_REID_CODE_PORT": str(self.ports["code"]),
            "DEER_REID_WATCH": str(drops),
            "DEER_REID_OFFLINE": "true",
            "DEER_REID_DEVICE": "cpu",
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }

    def command(self, words: list[str]) -> list[str]:
        """A command of the compose file as it is on this machine."""
        here = {
            "0.0.0.0": "127.0.0.1",
            "4000": str(self.ports["code"]),
            "3000": str(self.ports["webserver"]),
            "/etc/deer-reid/workspace.yaml": str(REPO / "deploy" / "workspace.yaml"),
        }
        return [here.get(word, word).replace(":3000/", f":{self.ports['webserver']}/") for word in words]

    def run(self, words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(words),
            env=self.environment,
            cwd=self.folder,  # not the checkout, whose .env would be read
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def log_of(self, name: str) -> str:
        """The end of what a service said."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]

    def start(self, name: str) -> None:
        """Start a service and wait until its own health check says yes, or until it ended well.

        Raises:
            AssertionError: it did not.
        """
        one = services()[name]
        if "healthcheck" not in one:
            done = self.run(one["command"], HEALTHY_WITHIN_S)
            assert done.returncode == 0, f"{name}: {done.stderr}"
        else:
            with (self.folder / f"{name}.log").open("wb") as log:
                self.processes[name] = subprocess.Popen(
                    self.command(one["command"]),
                    env=self.environment,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._wait_until_healthy(name)
        self.started.append(name)

    def _wait_until_healthy(self, name: str) -> None:
        check, *words = services()[name]["healthcheck"]["test"]
        assert check == "CMD"
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while time.monotonic() < deadline:
            alive = self.processes[name].poll() is None
            assert alive, f"{name} ended:\n{self.log_of(name)}"
            if self.run(words, 300).returncode == 0:
                return
            time.sleep(1)
        raise AssertionError(f"{name} is not healthy:\n{self.log_of(name)}")

    def stop(self) -> None:
        """End all services, the last first."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in reversed(self.processes.values()):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it left of its group
            process.wait(timeout=60)


@contextmanager
def running_stack(database: Path, home: Path, drops: Path, folder: Path) -> Iterator[Stack]:
    """All services of the compose file up to the web server."""
    stack = Stack(folder, home, drops)
    with ExitStack() as ends:
        for name in in_starting_order():
            if name == "proxy":
                break
            if name == "db":
                ends.enter_context(running_postgres(database, stack.ports["db"]))
                stack.started.append(name)
                ends.callback(stack.stop)
            else:
                stack.start(name)
        yield stack


class PostgresServer:
    """A server with a password on 127.0.0.1, and an empty database: what the image of the service `db` makes."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port, self._data = port, folder / "data"
        self._user = os_user.service_user(self._data)
        word = folder / "password"
        word.write_text(DATABASE_PASSWORD, encoding="ascii")
        self._data.mkdir()
        for path in (word, self._data):
            os_user.give(path, self._user)
        make = ["--auth=scram-sha-256", f"--pwfile={word}", "--username=deer_reid", "--encoding=UTF8"]
        code, said = run_program("initdb", [*make, "-D", str(self._data)], self._user, timeout=300)
        assert code == 0, said

    @property
    def url(self) -> str:
        """Address of the database, with the password."""
        return f"postgresql://deer_reid:{quote(DATABASE_PASSWORD, safe='')}@127.0.0.1:{self.port}/deer_reid"

    def start(self) -> None:
        """Start it, after a kill too, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        start = ["start", "-w", "-D", str(self._data), "-l", str(self._data / "server.log"), "-o", options]
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while True:  # what is left of a killed server may need a moment to go
            code, said = run_program("pg_ctl", start, self._user, timeout=300)
            if code == 0:
                break
            assert time.monotonic() < deadline, said
            time.sleep(1)
        wait_until_open(self.port)

    def create_database(self) -> None:
        connection = psycopg2.connect(f"{self.url.rpartition('/')[0]}/postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE deer_reid")
        connection.close()

    def kill(self) -> None:
        """kill -9 of the server and of every process that serves a client."""
        kill_server(int((self._data / "postmaster.pid").read_text().split()[0]), children=True)

    def stop(self) -> None:
        """End it in order; open sessions are cut off."""
        run_program("pg_ctl", ["stop", "-m", "fast", "-D", str(self._data)], self._user, timeout=120)


@contextmanager
def running_postgres(folder: Path, port: int) -> Iterator[PostgresServer]:
    """One that is up, and down at the end."""
    server = PostgresServer(folder, port)
    server.start()
    try:
        server.create_database()
        yield server
    finally:
        server.stop()
