"""Ends a run's worker after its grace, in a process of its own: `python -m deer_reid_pipeline.launcher.closing`.

Terminating is asked for in the web server, which must not wait and may itself end. So what follows SIGTERM is done
here: wait, kill what is left, free the lease, and call the run cancelled where its worker could not say so itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from deer_reid_pipeline.launcher import processes
from deer_reid_pipeline.launcher.leases import LeaseBook
from deer_reid_pipeline.launcher.records import WorkerRecord

if TYPE_CHECKING:
    from deer_reid_pipeline.launcher.dagster_private import InstanceRef


def start_closing(record: WorkerRecord, grace_seconds: int, book: LeaseBook, instance_ref: InstanceRef) -> None:
    """Begin, and return at once. The record names a living worker of this machine."""
    from deer_reid_pipeline.launcher.dagster_private import serialize_value

    order = {
        "record": asdict(record),
        "grace_seconds": grace_seconds,
        "folder": str(book.folder),
        "instance": serialize_value(instance_ref),
    }
    environment = {name: value for name, value in os.environ.items() if name != processes.RUN_VARIABLE}
    with book.log_file(record.run_id).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deer_reid_pipeline.launcher.closing"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps(order).encode())


def close(record: WorkerRecord, grace_seconds: float, book: LeaseBook) -> int:
    """Wait for the worker up to the grace, then kill its session and free its lease; returns how many were killed.

    Raises:
        LauncherError: something survives SIGKILL, and the lease stays.
    """
    assert record.pid is not None
    assert record.start_ticks is not None
    deadline = time.monotonic() + grace_seconds
    while processes.is_alive(record.pid, record.start_ticks) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = processes.kill_all(record.pid, record.start_ticks, record.run_id)
    book.forget(record.run_id)
    return killed


def _report(run_id: str, killed: int, instance_ref: str) -> None:
    import dagster as dg

    from deer_reid_pipeline.launcher.dagster_private import DagsterInstance, InstanceRef, deserialize_value

    with DagsterInstance.from_ref(deserialize_value(instance_ref, InstanceRef)) as instance:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(
                run, f"The run's worker did not stop by itself; {killed} processes were killed."
            )


def main() -> None:
    order = json.load(sys.stdin)
    record = WorkerRecord(**order["record"])
    killed = close(record, order["grace_seconds"], LeaseBook(Path(order["folder"])))
    _report(record.run_id, killed, order["instance"])


if __name__ == "__main__":
    main()
