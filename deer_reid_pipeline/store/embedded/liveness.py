"""What counts as alive: a server that answers on its socket.

Recorded process ids are only a hint, since after a crash the same number may belong to anybody. It observes; it never
starts, stops or removes anything.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import psycopg2

from deer_reid_pipeline.store.embedded.address import SOCKET_NAME, SUPERUSER
from deer_reid_pipeline.store.embedded.place import Place


def probe(socket_dir: Path | None) -> str:
    """ready: answers queries; busy: somebody is there but not ready (recovery, shutdown); down: nobody."""
    if socket_dir is None or not (socket_dir / SOCKET_NAME).exists():
        return "down"
    try:
        connection = psycopg2.connect(
            host=str(socket_dir), port=5432, user=SUPERUSER, dbname="postgres", connect_timeout=5
        )
    except psycopg2.OperationalError as error:
        text = str(error)
        if "too many clients" in text or "reserved for" in text:
            return "ready"
        gone = ("No such file", "refused", "Permission denied")
        return "down" if any(words in text for words in gone) else "busy"
    connection.close()
    return "ready"


def lost_socket(place: Place, socket_dir: Path) -> bool:
    """Whether a ready server's socket is gone: temporary folders get cleaned."""
    recorded = recorded_lines(place.data)
    return len(recorded) > 7 and recorded[7] == "ready" and not (socket_dir / SOCKET_NAME).exists()


def recorded_lines(data: Path) -> list[str]:
    """Lines of postmaster.pid: pid, data folder, start time, port, socket folder, host, memory, status."""
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return []


def postmaster_pid(data: Path) -> int | None:
    """The recorded process id if it is a living PostgreSQL server of this data folder."""
    lines = recorded_lines(data)
    if not lines or not lines[0].lstrip("-").isdigit():
        return None
    try:
        process = psutil.Process(abs(int(lines[0])))
        command = process.cmdline()
    except (psutil.Error, ValueError):
        return None
    ours = alive(process) and bool(command) and "postgres" in Path(command[0]).name and str(data) in command
    return process.pid if ours else None


def alive(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def server_processes(place: Place) -> list[psutil.Process]:
    """Living PostgreSQL processes whose working folder is the data folder (the server and its children)."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and Path(process.cwd()) == place.data and alive(process):
                found.append(process)
    return found
