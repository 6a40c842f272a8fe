"""An installation that nobody looks after: a home, a watched folder, and `deer-reid serve`, which the tests damage.

It is asked over SQL and GraphQL, and never helped: nothing here starts its database.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import requests

from deer_reid_pipeline.store.embedded import start_embedded
from deer_reid_pipeline_tests.deploy.proxy import free_port
from deer_reid_pipeline_tests.e2e.gate import gate
from deer_reid_pipeline_tests.e2e.runs import Home, end_serving
from deer_reid_pipeline_tests.launcher.conftest import wait_for

WITHIN_S = 900
"""How long a recovery may take: sensors look every 30 s, and the machine may be slow."""

SERVICES = {"code server": "api grpc", "web server": "defs.web_server", "daemon": "dagster-daemon run"}
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
KEPT = {"alembic_version", "deer_reid_undo", "recipes", "releases", "release_events", "reports"}


@dataclass
class Installation(Home):
    """One home, its watched folder and its `deer-reid serve`.

    Attributes:
        database_url: of an external server, or None.
    """

    drops: Path = Path()
    database_url: str | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    _url: str = ""
    _begun: int = 0

    def __post_init__(self) -> None:
        self.drops = self.folder / "drops"
        self.drops.mkdir()
        self.settings |= {
            "DEER_REID_WATCH": str(self.drops),
            "DEER_REID_BATCH_SIZE": "2",
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        if self.database_url is not None:
            self.settings["DATABASE_URL"] = self.database_url

    @property
    def log(self) -> str:
        """What `serve` and its services said."""
        return (self.folder / "serve.log").read_text(encoding="utf-8", errors="replace")

    def start_serving(self) -> None:
        """Make the home ready where it is not, start `deer-reid serve`, and wait until sensors look."""
        if not self._url:
            assert self.run("init", "--json").code == 0
            if self.database_url is None:
                server = start_embedded(self.folder)
                self._url = server.url("NAME")  # the same after every start
                server.stop()
            else:
                self._url = self.database_url.rpartition("/")[0] + "/NAME"
        self.process = self.start_another(self.port)
        self.wait_for_a_look()

    def start_another(self, port: int, log: str = "serve.log") -> subprocess.Popen[bytes]:
        """A `deer-reid serve` on this home."""
        return self.serve(port, self.folder / log)

    def stop_serving(self) -> None:
        """End it as a service manager does."""
        if self.process is not None:
            end_serving(self.process)
            self.process = None

    def check(self) -> None:
        """Fails when `serve` ended."""
        assert self.process is not None
        assert self.process.poll() is None, self.log[-4000:]

    @contextlib.contextmanager
    def connected(self, database: str = "deer_reid") -> Iterator[Any]:
        """A connection in autocommit, as soon as the server answers."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                connection = psycopg2.connect(self._url.replace("/NAME", f"/{database}"), connect_timeout=10)
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < deadline, f"the database did not come back:\n{self.log[-4000:]}"
                time.sleep(0.2)
        connection.autocommit = True
        try:
            yield connection
        finally:
            connection.close()

    def service(self, name: str) -> psutil.Process:
        """The running process of a service."""

        def found() -> psutil.Process | None:
            self.check()
            assert self.process is not None
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if SERVICES[name] in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                        return child
            return None

        process: psutil.Process = wait_for(found, name, WITHIN_S)
        return process

    def kill(self, name: str) -> None:
        """kill -9 a service, and wait until another process has taken its place."""
        before = self.service(name)
        before.kill()
        wait_for(lambda: self.service(name).pid != before.pid, f"new {name}", WITHIN_S)

    def wait_for_a_look(self) -> None:
        """Wait until the sensor of drops looked once more: code server and daemon work."""
        statement = "SELECT coalesce(max(id), 0) FROM job_ticks WHERE status IN ('SKIPPED', 'SUCCESS')"
        before = self._one(statement)

        def looked() -> bool:
            self.check()
            return self._one(statement) > before

        wait_for(looked, f"tick; {self.log[-3000:]}", WITHIN_S)

    def _one(self, statement: str) -> Any:
        try:
            return self.query(statement, database="dagster")[0][0]
        except psycopg2.Error:  # no tables yet, or a server that is being stopped
            return 0

    def graphql(self, query: str) -> dict[str, Any]:
        """Data of a query, from the web server, once it is up."""

        def asked() -> dict[str, Any] | None:
            self.check()
            with contextlib.suppress(requests.ConnectionError):
                answer = requests.post(f"http://127.0.0.1:{self.port}/graphql", json={"query": query}, timeout=120)
                if answer.status_code == 200:
                    return answer.json()["data"]
            return None

        data: dict[str, Any] = wait_for(asked, "answer of the web server", WITHIN_S)
        return data

    def deliver(self, drop: Path) -> None:
        """Let a drop arrive in the watched folder, whole at once and under its name, which is part of what it is."""
        hidden = self.drops / f".{drop.name}"
        shutil.copytree(drop, hidden)
        (hidden / "_COMPLETE").touch()
        hidden.rename(self.drops / drop.name)

    @contextlib.contextmanager
    def in_the_middle(self, drop: Path) -> Iterator[str]:
        """Deliver a drop; gives its run, held until the block ends, when some of its vectors are stored."""
        with gate(self, "embeddings", 13, WITHIN_S) as wait:
            self.deliver(drop)
            wait(self.check)
            stored = self.query("SELECT count(*) FROM embeddings")[0][0]
            detections = self.query("SELECT count(*) FROM detections")[0][0]
            assert 0 < stored < 3 * detections
            ((run, status),) = self.runs_since()
            assert status == "STARTED"
            yield run

    def runs_since(self) -> list[tuple[str, str]]:
        """Id and status of the runs of drops since everything was forgotten last, oldest first."""
        statement = "SELECT run_id, status FROM runs WHERE id > %s AND pipeline_name = 'process_drop_job' ORDER BY id"
        found = self.query(statement, (self._begun,), "dagster")
        return [(run, status) for run, status in found]

    def worker_of(self, run: str) -> psutil.Process:
        """The process that works on a run, as the run itself notes it."""
        ((tag,),) = self.query(
            "SELECT value FROM run_tags WHERE run_id = %s AND key = 'deer_reid/worker'", (run,), database="dagster"
        )
        return psutil.Process(int(tag.partition("@")[2].split(":")[1]))

    def wait_until_processed(self) -> list[str]:
        """Wait until the newest run ended well and none goes on; gives the statuses of all since `forget`."""

        def processed() -> list[str] | None:
            self.check()
            statuses = [status for _, status in self.runs_since()]
            done = bool(statuses) and statuses[-1] == "SUCCESS" and ENDED.issuperset(statuses)
            return statuses if done else None

        try:
            statuses: list[str] = wait_for(processed, "end of the work", WITHIN_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.runs_since()}\n{self.log[-6000:]}") from error
        return statuses

    def failure_report(self, run: str) -> str:
        """What `run_failure_sensor` wrote of a run, once it has."""

        def written() -> str | None:
            self.check()
            for path in (self.folder / "reports" / "failures").glob(f"*{run}.md"):
                return path.read_text(encoding="utf-8")
            return None

        text: str = wait_for(written, "report of the failed run", WITHIN_S)
        return text

    def forget(self) -> None:
        """Take back all that was processed: the next drop meets a home as new."""
        self._begun = self._one("SELECT coalesce(max(id), 0) FROM runs")
        shutil.rmtree(self.drops)
        self.drops.mkdir()
        tables = [name for (name,) in self.query(TABLES) if name not in KEPT]
        # As a replica, which the trigger that keeps decisions does not hold for.
        self.query(f"SET session_replication_role = replica; TRUNCATE {', '.join(tables)}")
        for name in ("crops", "watch"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
