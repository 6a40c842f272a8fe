"""What the launcher writes on a run: two tags. They, the leases and the locks are all the state that there is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

WORKER_TAG = "deer_reid/run_worker"
PLACEMENT_TAG = "deer_reid/placement"

WAITING = "waiting"
DELEGATE = "delegate"


@dataclass(frozen=True)
class WorkerRecord:
    """Who runs a run, as JSON in the tag `deer_reid/run_worker`.

    Attributes:
        back_end: process, docker, kubernetes, ray, delegate, or waiting while the placing process waits for room.
        pid, start_ticks: the worker, or while waiting the process that places it; None before it has started.
        device: uuid of its card; empty for none, or where the cluster chooses.
        budget_mb: MiB; None where the worker decides.
    """

    run_id: str
    back_end: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int | None = None
    start_ticks: int | None = None
    device: str = ""
    budget_mb: int | None = None

    def as_tag(self) -> dict[str, str]:
        return {WORKER_TAG: json.dumps(asdict(self))}


def record_of(run: dg.DagsterRun) -> WorkerRecord | None:
    """The record of a run; None where it has none, or one that a retry copied from another run."""
    try:
        data = json.loads(run.tags[WORKER_TAG])
        record = WorkerRecord(**{name.name: data[name.name] for name in fields(WorkerRecord)})
    except (KeyError, ValueError, TypeError):
        return None
    return record if record.run_id == run.run_id else None
