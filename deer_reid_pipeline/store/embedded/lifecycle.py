"""Starting and stopping the server process, crash recovery and what a killed server left included.

`pg_ctl` gives the server a session of its own, so no signal to a client or to its process group reaches it. Callers
hold the start lock. It never decides whether a server is needed, and never touches a process that is not this home's.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from pathlib import Path

import psutil

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.embedded.address import SOCKET_NAME, make_socket_dir
from deer_reid_pipeline.store.embedded.buffers import LEAST_MB, buffers_mb
from deer_reid_pipeline.store.embedded.data_folder import check_version, initialise
from deer_reid_pipeline.store.embedded.liveness import alive, lost_socket, postmaster_pid, probe, server_processes
from deer_reid_pipeline.store.embedded.messages import one_line, server_failure
from deer_reid_pipeline.store.embedded.os_user import give
from deer_reid_pipeline.store.embedded.place import Place
from deer_reid_pipeline.store.embedded.programs import START_TIMEOUT, STOP_TIMEOUT, run_program

log = logging.getLogger(__name__)

LAUNCH_ATTEMPTS = 3
MAX_LOG_BYTES = 10 * 1024 * 1024

SERVER_SETTINGS = """\
# Written by deer-reid at each start of the server; changes belong in postgresql.conf below the include.
listen_addresses = ''
port = 5432
unix_socket_directories = '{socket_dir}'
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = {buffers_mb}MB
maintenance_work_mem = 128MB
fsync = on
full_page_writes = on
# Small tables; and parallel workers need more /dev/shm than a default container has.
max_parallel_workers_per_gather = 0
max_parallel_maintenance_workers = 0
io_method = sync
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
lc_messages = 'C'
"""


def bring_up(place: Place, socket_dir: Path) -> None:
    """Bring the server up and wait until it answers. The caller holds the lock."""
    if not place.initialised:
        initialise(place)
    check_version(place)
    begun = time.monotonic()
    said = begun
    launches = 0
    log_start = place.log_file.stat().st_size if place.log_file.exists() else 0
    while True:
        state = probe(socket_dir)
        if state == "ready":
            return
        now = time.monotonic()
        if now - begun > START_TIMEOUT:
            raise server_failure(place.log_file, f"did not answer within {START_TIMEOUT:.0f} s", log_start)
        running = postmaster_pid(place.data) is not None
        if state == "down" and running and lost_socket(place, socket_dir):
            log.warning("the socket in %s was removed: restarting the embedded PostgreSQL", socket_dir)
            shut_down(place)
            running = False
        if state == "down" and not running:
            if launches == LAUNCH_ATTEMPTS:
                raise server_failure(place.log_file, "does not start", log_start)
            time.sleep(launches)  # what is left of a killed server may need a moment to go
            launches += 1
            log_start = _launch(place, socket_dir, again=launches > 1)
            continue
        if now - said > 10:
            said = now
            log.warning(
                "waiting for the embedded PostgreSQL (after a hard stop it recovers first): %.0f s, log %s",
                now - begun,
                place.log_file,
            )
        time.sleep(0.1)


def _launch(place: Place, socket_dir: Path, *, again: bool) -> int:
    """One try to start the server; returns the log's size before it. The caller sees whether it worked.

    Args:
        again: the try before it failed; this one asks for the least memory.
    """
    _clear_remains(place, socket_dir)
    make_socket_dir(place, socket_dir)
    try:
        if place.log_file.exists() and place.log_file.stat().st_size > MAX_LOG_BYTES:
            place.log_file.replace(place.log_file.with_suffix(".log.1"))
        place.log_file.touch(mode=0o640)
        give(place.log_file, place.user)
        conf = place.data / "deer_reid.conf"
        buffers = LEAST_MB if again else buffers_mb(place.data)
        conf.write_text(SERVER_SETTINGS.format(socket_dir=socket_dir, buffers_mb=buffers), encoding="utf-8")
        give(conf, place.user)
    except OSError as error:
        raise DatabaseError(
            f"the embedded database in {place.data} cannot be started: {error.strerror or error} "
            f"({error.filename}); make room or correct the permissions (log {place.log_file})"
        ) from error
    size = place.log_file.stat().st_size
    arguments = ["-w", "-t", "30", "-s", "-l", str(place.log_file), "-D", str(place.data), "start"]
    code, output = run_program("pg_ctl", arguments, place.user, timeout=60)
    if code != 0:
        log.warning("pg_ctl start: %s (log %s)", one_line(output), place.log_file)
    return size


def _clear_remains(place: Place, socket_dir: Path) -> None:
    """Remove what a killed server left: children that outlive it, then its lock files.

    PostgreSQL itself refuses to start when the recorded process id is in use by anybody, a zombie included.
    """
    remains = server_processes(place)
    for signum, patience in ((None, 5.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if not remains:
            break
        if signum is not None:
            for process in remains:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signum)
        _, remains = psutil.wait_procs(remains, timeout=patience)
        remains = [process for process in remains if alive(process)]
    for path in (place.data / "postmaster.pid", socket_dir / SOCKET_NAME, socket_dir / f"{SOCKET_NAME}.lock"):
        path.unlink(missing_ok=True)


def shut_down(place: Place) -> None:
    """Clean stop. The caller holds the lock and has seen that nobody else uses the server."""
    if postmaster_pid(place.data) is None:
        return
    for mode in ("fast", "immediate"):  # immediate loses nothing: the next start recovers from the log
        arguments = ["-w", "-s", "-t", str(STOP_TIMEOUT), "-m", mode, "-D", str(place.data), "stop"]
        code, output = run_program("pg_ctl", arguments, place.user, timeout=STOP_TIMEOUT + 10)
        if code == 0 or postmaster_pid(place.data) is None:
            return
        log.warning("pg_ctl stop -m %s: %s (log %s)", mode, one_line(output), place.log_file)
    raise DatabaseError(f"the embedded PostgreSQL could not be stopped; see {place.log_file}")
