"""Who may start or stop a home's server, who uses it, and who keeps it up: three file locks in the home.

The kernel frees them when their holder dies, even after kill -9, so no record of clients can go stale. It never looks
at the server itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from filelock import FileLock, Timeout

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.embedded.place import Place


@contextlib.contextmanager
def locked(place: Place, timeout: float) -> Iterator[None]:
    """One process of a home at a time starts or stops its server; the kernel frees a dead holder's lock."""
    lock = FileLock(place.control / "start.lock", timeout=timeout)
    try:
        with lock:
            yield
    except Timeout as error:
        raise DatabaseError(
            f"another process has been starting or stopping the database of {place.home} for {timeout:.0f} s "
            f"(log {place.log_file}); wait for it, or end it, then try again"
        ) from error


def hold_clients_lock(place: Place) -> int:
    """Become a client: the descriptor holds the shared lock until it is closed."""
    return _hold(place, "clients.lock")


def has_clients(place: Place) -> bool:
    """Whether any process (or a forked child of one) is a client."""
    return _is_held(place, "clients.lock")


def hold_keeper_lock(place: Place) -> int:
    """Become a keeper, who alone starts a dead server again: the descriptor holds the lock until it is closed."""
    return _hold(place, "keeper.lock")


def has_keeper(place: Place) -> bool:
    """Whether a living process keeps the server up."""
    return _is_held(place, "keeper.lock")


def _open(place: Place, name: str) -> int:
    return os.open(place.control / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _hold(place: Place, name: str) -> int:
    descriptor = _open(place, name)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _is_held(place: Place, name: str) -> bool:
    descriptor = _open(place, name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
