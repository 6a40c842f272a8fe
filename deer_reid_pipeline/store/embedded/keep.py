"""Keeps the home's embedded server up until it is told to stop: `python -m deer_reid_pipeline.store.embedded.keep`.

For a service manager, under which a server belongs to whichever service started it, and ends with that: while this
process lives, the others leave starting a dead server to it for half a minute.
Tells systemd (NOTIFY_SOCKET) when the server answers.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

from deer_reid_pipeline.errors import DatabaseError, DeerReidError
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.store.embedded.hold import start_embedded

LOOK_EVERY_S = 5.0


def keep() -> None:
    """Start the server, start it again where it dies, and let go of it on SIGTERM or SIGINT.

    Raises:
        DatabaseError: it does not start, or an external one is used.
    """
    settings = load_settings()
    if settings.database_url is not None:
        raise DatabaseError("DATABASE_URL is set, so there is no embedded server to keep: disable this service")
    told_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_stop.set())
    server = start_embedded(settings.home)
    server.keep()
    _notify("READY=1")
    while not told_to_stop.wait(LOOK_EVERY_S):
        server.ensure_running()
    _notify("STOPPING=1")
    server.stop()


def _notify(state: str) -> None:
    """The protocol of sd_notify(3): a datagram to the socket that systemd names, if it does."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode("ascii"), "\0" + address[1:] if address.startswith("@") else address)


if __name__ == "__main__":
    try:
        keep()
    except DeerReidError as error:
        sys.exit(f"Error: {error}")
