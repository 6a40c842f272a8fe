"""Which process runs a run, and the end of runs whose process is gone."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import psutil

from deer_reid_pipeline.defs.instance import prepare_instance
from deer_reid_pipeline.settings import Settings

WORKER_TAG = "deer_reid/worker"
"""RUN_ID@HOST/PID_NAMESPACE:PID:START; the run's own id, because a retry copies the tags of the run before it."""

CODE_SERVER_TAG = ".dagster/grpc_info"
"""Dagster's own: the address of the code server that started a run, as JSON."""

AT_WORK = dg.RunsFilter(
    statuses=[
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
)
"""Runs that have a process, or are about to get one."""


def worker_tag(run_id: str, identity: str) -> str:
    """The value of `WORKER_TAG` that says which process runs a run."""
    return f"{run_id}@{identity}"


def worker_identity(pid: int | None = None) -> str:
    """host/PID namespace:pid:start of this process (or that one), which no later process shares."""
    pid = os.getpid() if pid is None else pid
    return f"{socket.gethostname()}/{_pid_namespace()}:{pid}:{_start_of(pid)}"


def _pid_namespace() -> str:
    """In which process ids mean what they mean here, until the machine starts again; empty where no system tells."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process started: the boot and its clock ticks since then where the system tells, else wall-clock time.

    Ticks do not move when the clock is set. None when there is no such process, or only its zombie.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    except OSError:
        pass
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def close_dead_runs(instance: dg.DagsterInstance, *, from_code_server: bool = False) -> int:
    """Report runs whose process was killed as failed, so that they do not look alive for ever.

    Args:
        from_code_server: this is the code server (sensors and schedules are evaluated there). Runs of a container that
            was behind its address before are then closed too.
    """
    closed = 0
    for run in instance.get_runs(AT_WORK):
        owner, _, identity = run.tags.get(WORKER_TAG, "").partition("@")
        if owner == run.run_id and (_is_dead(identity) or (from_code_server and _was_replaced(identity, run.tags))):
            instance.report_run_failed(run, "The process of this run was killed. Running again goes on where it was.")
            closed += 1
    return closed


def close_restored_runs(settings: Settings, dagster_url: str) -> int | None:
    """Report every run at work as failed: a database that was just restored knows only processes that ended elsewhere.

    Returns:
        how many there were; None where dagster.yaml names another database, whose runs are left alone.
    """
    prepare_instance(settings, dagster_url)
    with dg.DagsterInstance.get() as instance:
        if getattr(instance.run_storage, "postgres_url", None) != dagster_url:
            return None
        runs = instance.get_runs(AT_WORK)
        for run in runs:
            instance.report_run_failed(
                run,
                "This run was at work when the backup was made, and no process of it came back. Running again goes on "
                "where it was.",
            )
    return len(runs)


def _is_dead(identity: str) -> bool:
    place, _, rest = identity.partition(":")
    pid, _, started = rest.partition(":")
    return _is_here(place, started) and pid.isdigit() and _start_of(int(pid)) != started


def _is_here(place: str, started: str) -> bool:
    """Whether process ids mean the same there: it has this host's name, or is this host under an earlier name."""
    host, _, namespace = place.partition("/")
    boot = str(_start_of(os.getpid())).partition("/")[0]
    renamed = bool(namespace) and namespace == _pid_namespace() and started.partition("/")[0] == boot
    return host == socket.gethostname() or renamed


def _was_replaced(identity: str, tags: Mapping[str, str]) -> bool:
    """Whether a run was a process of another container, in whose place this code server is: it ended with that one."""
    told = json.loads(tags.get(CODE_SERVER_TAG, "{}"))
    ours = (os.environ.get("DEER_REID_CODE"), os.environ.get("DEER_REID_CODE_PORT"))
    place, _, rest = identity.partition(":")
    return (told.get("host"), str(told.get("port"))) == ours and not _is_here(place, rest.partition(":")[2])
