"""This process's hold on the server of a home: one object a process and home, given up when the process ends.

The last process to let go stops the server; a forked child becomes a client of its own. It never starts a process
itself: that is `lifecycle`, under the lock taken here.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from pathlib import Path
from urllib.parse import quote

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.embedded.address import SUPERUSER, choose_socket_dir
from deer_reid_pipeline.store.embedded.lifecycle import bring_up, shut_down
from deer_reid_pipeline.store.embedded.liveness import postmaster_pid, probe
from deer_reid_pipeline.store.embedded.locks import (
    has_clients,
    has_keeper,
    hold_clients_lock,
    hold_keeper_lock,
    locked,
)
from deer_reid_pipeline.store.embedded.place import Place, find_place
from deer_reid_pipeline.store.embedded.programs import START_TIMEOUT, STOP_TIMEOUT

log = logging.getLogger(__name__)

KEEPER_TIMEOUT_S = 30.0
"""How long a dead server is left to its keeper, which looks every few seconds."""


class EmbeddedServer:
    """This process's hold on the embedded server of one home; made by `start_embedded`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process = os.getpid()
        self._clients_fd: int | None = None
        self._keeper_fd: int | None = None
        self._socket_dir = choose_socket_dir(place)

    @property
    def home(self) -> Path:
        return self._place.home

    @property
    def pgdata(self) -> Path:
        return self._place.data

    @property
    def log_file(self) -> Path:
        return self._place.log_file

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None if it is not running."""
        return postmaster_pid(self._place.data)

    def url(self, database: str) -> str:
        """SQLAlchemy and libpq URL of a database on this server; the same after every restart."""
        host = quote(str(self._socket_dir), safe="/")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port=5432"

    def ensure_running(self) -> None:
        """Start the server again if it died, or leave that to its keeper; does nothing if it answers.

        Raises:
            DatabaseError: it does not come up; the text names the server log.
        """
        if self._keeper_fd is None:
            self._wait_for_keeper()
        with locked(self._place, START_TIMEOUT + STOP_TIMEOUT):
            if self._process != os.getpid():  # a forked child becomes a client of its own
                if self._clients_fd is not None:
                    os.close(self._clients_fd)
                self._process, self._clients_fd = os.getpid(), None
            if self._clients_fd is None:
                self._clients_fd = hold_clients_lock(self._place)
            bring_up(self._place, self._socket_dir)

    def keep(self) -> None:
        """Be the one who starts the server again where it dies, until `stop`; the others wait for that."""
        self._keeper_fd = hold_keeper_lock(self._place)

    def _wait_for_keeper(self) -> None:
        """Leave a dead server to its keeper for a while: a server belongs to the service that starts it."""
        deadline = time.monotonic() + KEEPER_TIMEOUT_S
        while has_keeper(self._place) and probe(self._socket_dir) != "ready" and time.monotonic() < deadline:
            time.sleep(0.1)

    def stop(self) -> None:
        """Give up this process's hold; the last living client stops the server. Safe to call twice."""
        if self._process != os.getpid() or self._clients_fd is None:
            return
        if self._keeper_fd is not None:
            os.close(self._keeper_fd)
            self._keeper_fd = None
        with locked(self._place, STOP_TIMEOUT):
            os.close(self._clients_fd)
            self._clients_fd = None
            if has_clients(self._place):
                log.debug("embedded PostgreSQL stays up: another process of %s uses it", self.home)
                return
            shut_down(self._place)


_servers: dict[Path, EmbeddedServer] = {}
_servers_lock = threading.Lock()

os.register_at_fork(after_in_child=lambda: _renew_lock())


def _renew_lock() -> None:
    global _servers_lock
    _servers_lock = threading.Lock()


def start_embedded(home: Path) -> EmbeddedServer:
    """The running embedded server of a home, made and started if need be; one object a process and home.

    Raises:
        DatabaseError: one line with the reason, the fix and the server log.
    """
    home = home.expanduser().resolve()
    with _servers_lock:
        server = _servers.get(home)
        if server is None:
            try:
                server = EmbeddedServer(find_place(home))
            except OSError as error:
                raise DatabaseError(
                    f"the embedded database cannot be placed under {home}: {error.strerror or error} "
                    "({}); make the folder writable or set DEER_REID_HOME".format(error.filename or home)
                ) from error
        server.ensure_running()
        _servers[home] = server
        return server


@atexit.register
def _leave_all() -> None:
    for server in list(_servers.values()):
        try:
            server.stop()
        except (DatabaseError, OSError) as error:
            log.warning("the embedded PostgreSQL was left running: %s", error)
