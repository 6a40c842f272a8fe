"""Leases: what a run was promised on a card, as one file a run, so that every process on the machine sees the same.

A run that has just started has allocated nothing yet, so free memory alone would let two runs onto one card. A lease
lives as long as somebody holds the run's file lock: first the process that places the run, then its worker, which
inherits the lock. The kernel frees it when they die, however they die, and tells across containers of one host.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filelock import FileLock, Timeout

from deer_reid_pipeline.launcher.errors import LauncherError

_PLACING_TIMEOUT_S = 60.0
_KEPT_LOGS = 200


@dataclass(frozen=True)
class Lease:
    """A budget on a card for one run. `budget_mb` is in MiB; the process is None until it runs, and in a container."""

    run_id: str
    device: str
    budget_mb: int
    back_end: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int | None = None
    start_ticks: int | None = None


class LeaseBook:
    """The leases, locks and worker logs of one machine, in one folder on a local disk.

    Args:
        folder: made where it is missing. All Dagster instances that share cards must name the same one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._leases, self._held, self._logs = (folder / name for name in ("leases", "held", "logs"))
        try:
            for part in (self._leases, self._held, self._logs):
                part.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LauncherError(
                f"the launcher cannot write to {folder} ({error.strerror}); set state_dir in dagster.yaml"
            ) from error

    @contextlib.contextmanager
    def placing(self) -> Iterator[None]:
        """One process at a time looks at the cards and writes a lease.

        Raises:
            LauncherError: another one has been at it for a minute.
        """
        try:
            with FileLock(self.folder / "placing.lock", timeout=_PLACING_TIMEOUT_S):
                yield
        except Timeout as error:
            raise LauncherError(
                f"another process has been choosing a card for {_PLACING_TIMEOUT_S:.0f} s "
                f"({self.folder / 'placing.lock'}); look at what holds it and start the run again"
            ) from error

    def all(self) -> list[Lease]:
        """Every lease, dead ones included.

        Raises:
            LauncherError: a file is not a lease; nothing is placed beside a promise that cannot be read.
        """
        found = []
        for path in sorted(self._leases.glob("*.json")):
            try:
                data = json.loads(path.read_text(encoding="ascii"))
                found.append(Lease(**{name.name: data[name.name] for name in fields(Lease)}))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise LauncherError(f"the lease {path} cannot be read; remove it if no run uses its card") from error
        return found

    def write(self, lease: Lease) -> None:
        """Put a lease in its place in one step; a reader sees the old one or the new one."""
        target = self._leases / f"{lease.run_id}.json"
        draft = target.with_suffix(f".{os.getpid()}.draft")
        with draft.open("w", encoding="ascii") as file:
            json.dump(asdict(lease), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)

    def free(self, run_id: str) -> None:
        """End a run's lease; nothing happens where there is none."""
        (self._leases / f"{run_id}.json").unlink(missing_ok=True)

    def forget(self, run_id: str) -> None:
        """End a run's lease and its lock, once the run is over; its log stays."""
        self.free(run_id)
        (self._held / run_id).unlink(missing_ok=True)

    def was_held(self, run_id: str) -> bool:
        """Whether this folder knows the run's lock at all, as it does until the run is over."""
        return (self._held / run_id).exists()

    def hold(self, run_id: str) -> int:
        """Take the run's lock: a descriptor that holds it until it is closed here and in every process that got it."""
        descriptor = os.open(self._held / run_id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def is_held(self, run_id: str) -> bool:
        """Whether a placing process or a worker of the run is alive somewhere on this host."""
        try:
            descriptor = os.open(self._held / run_id, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def log_file(self, run_id: str) -> Path:
        """Where the worker of a run writes its output."""
        return self._logs / f"{run_id}.log"

    def prune_logs(self) -> None:
        """Keep the newest logs only."""
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._logs.glob("*.log"), key=lambda log: log.stat().st_mtime)[:-_KEPT_LOGS]:
                path.unlink(missing_ok=True)
