"""Worker processes as the kernel tells of them (`/proc`, Linux): who lives, who belongs to a run, and how a run ends.

A process id alone proves nothing: it may belong to a zombie, or by now to somebody else. A process is known by its id
and its start, in clock ticks since the boot. A worker leads a session of its own, so what it starts (step processes,
data loaders) is found by that session; what gives itself another session, such as a database server, is not the run's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline.launcher.errors import LauncherError

RUN_VARIABLE = "DEER_REID_RUN_ID"
"""In the environment of a run's worker and of all that it starts: proof of whom a process works for."""

_PROC = Path("/proc")
_KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Process:
    """One line of `/proc/PID/stat`.

    Attributes:
        state: R, S, D, T, ..., Z for a zombie, X for dead.
        session: id of its session, which is that of the process that leads it.
        start_ticks: when it started, in clock ticks since the boot.
    """

    pid: int
    state: str
    group: int
    session: int
    start_ticks: int

    @property
    def lives(self) -> bool:
        return self.state not in ("Z", "X", "x")


@dataclass(frozen=True)
class Machine:
    """Where a process id means something: host name, boot and process-id namespace."""

    host: str
    boot_id: str
    pid_namespace: str


def this_machine() -> Machine:
    """The place of this process.

    Raises:
        LauncherError: the system has no `/proc`, as on macOS.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return Machine(socket.gethostname(), boot, str((_PROC / "self/ns/pid").readlink()))
    except OSError as error:
        raise LauncherError(
            f"run workers are watched through /proc, which cannot be read here ({error.strerror}); "
            "use another back end or Dagster's own launcher in dagster.yaml"
        ) from error


def look_up(pid: int) -> Process | None:
    """The process with this id now, a zombie included; None where there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return Process(pid, fields[0], int(fields[2]), int(fields[3]), int(fields[19]))


def is_alive(pid: int, start_ticks: int) -> bool:
    """Whether the very process that was recorded still runs; neither a zombie nor a later owner of the id counts."""
    found = look_up(pid)
    return found is not None and found.lives and found.start_ticks == start_ticks


def find_leader(run_id: str) -> Process | None:
    """The living worker of a run whose id was never recorded, as after a kill between its start and the record."""
    for found in _all():
        if found.lives and found.pid == found.session and _works_for(found.pid, run_id):
            command = _read(found.pid, "cmdline")
            if b"execute_run" in command and run_id.encode() in command:
                return found
    return None


def members(pid: int, start_ticks: int, run_id: str) -> list[Process]:
    """Living processes of the session that a worker leads or led, itself included.

    Where the leader is gone, a member counts only if its environment names the run: the session is ours for certain.
    """
    leader = look_up(pid)
    if leader is not None and leader.start_ticks != start_ticks:
        return []  # the kernel gives an id away only after the whole session has ended
    inside = [found for found in _all() if found.session == pid and found.lives]
    proven = leader is not None or any(_works_for(found.pid, run_id) for found in inside)
    return inside if proven else []


def ask_to_stop(pid: int, start_ticks: int) -> bool:
    """SIGTERM to the leader alone; False where it has ended."""
    return _signal(pid, start_ticks, signal.SIGTERM)


def kill_all(pid: int, start_ticks: int, run_id: str) -> int:
    """Kill a worker and everything of its session, and wait until all of it is gone; returns how many were alive.

    Raises:
        LauncherError: something survives SIGKILL (it hangs in the kernel, as in a broken driver).
    """
    first = left = members(pid, start_ticks, run_id)
    known = {(found.pid, found.start_ticks): found for found in first}
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while left:
        if any(found.group == pid for found in left):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for found in left:
            _signal(found.pid, found.start_ticks, signal.SIGKILL)
        if time.monotonic() > deadline:
            stuck = ", ".join(f"{found.pid} (state {found.state})" for found in left)
            raise LauncherError(f"processes of run {run_id} survive SIGKILL: {stuck}; its card stays leased")
        time.sleep(0.02)
        # One that is dying has no environment any more by which it could be told again.
        known |= {(found.pid, found.start_ticks): found for found in members(pid, start_ticks, run_id)}
        left = [found for found in known.values() if is_alive(found.pid, found.start_ticks)]
    return len(first)


def _signal(pid: int, start_ticks: int, number: signal.Signals) -> bool:
    """Signal exactly the recorded process: the descriptor holds it while its start is compared."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_alive(pid, start_ticks):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def _all() -> list[Process]:
    found = (look_up(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None]


def _works_for(pid: int, run_id: str) -> bool:
    return f"{RUN_VARIABLE}={run_id}".encode() in _read(pid, "environ").split(b"\0")


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""
