"""What `deer-reid serve` runs: code server, web server and daemon, on the installation's database.

The same processes as on a server (docker-compose.yml, deploy/systemd), where a service manager looks after them.
Dagster's own `dagster dev` ends as a whole when one of them does, with exit code 0.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg

from deer_reid_pipeline.defs.supervisor import Say, Service, Supervisor
from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import lost_connection
from deer_reid_pipeline.store.embedded import EmbeddedServer

CODE_SERVER, WEB_SERVER, DAEMON = "code server", "web server", "daemon"
DATABASE_EVERY_S = 5.0
LONGEST_FOLDER = 70
"""Characters of a temporary folder in which a socket still has a usable address."""

AHEAD_S = 60.0
"""A tick that is stamped later than as long from now is of a clock that was set back since."""


def serve(site: Site, host: str, port: int, say: Say) -> None:
    """Keep the UI, the daemon and the embedded database up until Ctrl-C or SIGTERM."""
    short = len(tempfile.gettempdir()) < LONGEST_FOLDER
    with tempfile.TemporaryDirectory(prefix="deer-reid-serve-", dir=None if short else "/tmp") as folder:
        site.database.close()  # this process only looks on
        environment = environment_of(site.settings, site.database.url, host, port)
        supervisor = Supervisor(services(Path(folder), host, port), environment, say)
        supervisor.run(DatabaseUpkeep(site.database.server, say), _future_ticks_forgotten)


def environment_of(settings: Settings, database_url: str, host: str, port: int) -> dict[str, str]:
    """What the services get: the external database, if there is one, and where people open the UI."""
    found = {**os.environ, "PYTHONWARNINGS": "ignore"}
    found.pop("DATABASE_URL", None)
    if settings.database_url is not None:
        found["DATABASE_URL"] = database_url
    if "ui_url" not in settings.model_fields_set:
        found["DEER_REID_UI_URL"] = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return found


def services(folder: Path, host: str, port: int) -> list[Service]:
    """The three of them; they find each other by a socket in a folder of their own."""
    address, workspace = folder / "code", folder / "workspace.yaml"
    workspace.write_text(
        f"load_from:\n  - grpc_server:\n      socket: {str(address)!r}\n      location_name: deer_reid_pipeline\n",
        encoding="utf-8",
    )

    def code_server_answers() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(address)) == 0

    code = ["api", "grpc", "--socket", str(address), "--module-name", "deer_reid_pipeline.definitions"]
    web = ["--host", host, "--port", str(port), "--workspace", str(workspace), "--live-data-poll-rate", "2000"]
    daemon = Path(sys.executable).with_name("dagster-daemon")
    return [
        Service(
            CODE_SERVER,
            dagster_command(*code, "--use-python-environment-entry-point", "--log-level", "warning"),
        ),
        Service(WEB_SERVER, [sys.executable, "-m", "deer_reid_pipeline.defs.web_server", *web], code_server_answers),
        # Its loops wait for a time of day, so they stand still for as long as the clock was set back.
        Service(DAEMON, [str(daemon), "run", "--workspace", str(workspace)], code_server_answers, after_clock=True),
    ]


class DatabaseUpkeep:
    """Called often: starts the embedded server again where it died."""

    def __init__(self, server: EmbeddedServer | None, say: Say) -> None:
        self.server, self.say = server, say
        self._next_s = 0.0

    def __call__(self) -> None:
        if self.server is None or time.monotonic() < self._next_s:
            return
        try:
            self.server.ensure_running()
        except (DatabaseError, OSError) as error:
            self.say(f"The database does not start: {error}. It is tried again.")
        self._next_s = time.monotonic() + DATABASE_EVERY_S


def _future_ticks_forgotten() -> bool:
    """Whether it is done; the database may be away just now."""
    try:
        with dg.DagsterInstance.get() as instance:
            forget_future_ticks(instance)
    except Exception as error:
        if not isinstance(error, DatabaseError) and lost_connection(error) is None:
            raise
        return False
    return True


def forget_future_ticks(instance: dg.DagsterInstance) -> int:
    """Let sensors look again that looked last at a time that is still to come; returns how many there were.

    Dagster counts a sensor's pause from its last tick, so after a clock was set back it would not look for as long.
    """
    found = 0
    for state in instance.all_instigator_state():
        data: Any = state.instigator_data
        if max(getattr(data, name, None) or 0.0 for name in _STAMPS) > time.time() + AHEAD_S:
            instance.update_instigator_state(state.with_data(data._replace(**dict.fromkeys(_STAMPS))))
            found += 1
    return found


_STAMPS = ("last_tick_timestamp", "last_tick_start_timestamp", "last_tick_success_timestamp")


def dagster_command(*arguments: str) -> list[str]:
    """A `dagster` command line that works where no `dagster` is on PATH."""
    return [sys.executable, "-m", "dagster", *arguments]
