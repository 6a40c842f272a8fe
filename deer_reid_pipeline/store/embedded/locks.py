"""Who may start or stop a home's server, and who uses it: two file locks in the home.

The kernel frees both when their holder dies, even after kill -9, so no record of clients can go stale. It never looks
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
    descriptor = os.open(place.control / "clients.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def has_clients(place: Place) -> bool:
    """Whether any process (or a forked child of one) holds the shared lock."""
    descriptor = os.open(place.control / "clients.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
