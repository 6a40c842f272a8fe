"""Runs the same jobs that the UI shows, in this process, on the same Dagster instance."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from deer_reid_pipeline.defs.partitions import image_drop_partitions
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.shipped import shipped

SHIPPED_BEFORE = frozenset(
    {
        "b3be902cb2347c8423331180cf86f289f8ba68b5ad41bb9e0533ddee22db2b5c",
        "8f4ccbd38f3bb961c3b720532451be580b1d376db6b873f16ed1b8f0f2ae2383",
        "a6615777ba181ef1499a02d42960cd5af06e5efce6e21c938b10bb01082dcff1",
    }
)
"""sha256 of each `dagster.yaml` that an older version shipped."""

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


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended; `error` is the first failed step's message."""

    run_id: str
    success: bool
    error: str | None


def prepare_instance(settings: Settings, dagster_url: str) -> None:
    """Point this process and its children at the installation's Dagster instance.

    Writes `dagster.yaml` into DAGSTER_HOME when there is none or when it is one that an older version put there; one
    that a person changed is left alone.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists() or hashlib.sha256(target.read_bytes()).hexdigest() in SHIPPED_BEFORE:
        part = home / f".dagster.yaml-{os.getpid()}"
        shutil.copyfile(shipped("dagster.yaml"), part)
        part.replace(target)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DEER_REID_DAGSTER_DATABASE_URL"] = dagster_url
    os.environ["DEER_REID_HOME"] = str(settings.home)


def run_job(
    job_name: str,
    *,
    partition_key: str | None = None,
    config: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> RunOutcome:
    """Run a job to its end in this process; it appears in the UI like any other run."""
    from deer_reid_pipeline.definitions import defs

    with dg.DagsterInstance.get() as instance:
        close_dead_runs(instance)
        job = defs.resolve_job_def(job_name)
        if partition_key is not None and job.partitions_def == image_drop_partitions:
            instance.add_dynamic_partitions(str(image_drop_partitions.name), [partition_key])
        run_id = str(uuid.uuid4())
        result = job.execute_in_process(
            run_id=run_id,
            instance=instance,
            partition_key=partition_key,
            run_config={
                **(config or {}),
                "loggers": {"console": {"config": {"log_level": "INFO" if verbose else "CRITICAL"}}},
            },
            tags={WORKER_TAG: worker_tag(run_id, worker_identity())},
            raise_on_error=False,
        )
    if any(_was_interrupted(event) for event in result.all_events if event.is_step_failure):
        raise KeyboardInterrupt
    return RunOutcome(result.run_id, result.success, None if result.success else _first_error(result))


def _was_interrupted(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error
    return error is not None and "DagsterExecutionInterruptedError" in str(error.cls_name)


def _first_error(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and str(error.cls_name).startswith("Dagster") and error.cause is not None:
                error = error.cause
            if error is not None:
                name, _, text = error.message.strip().partition(": ")
                return text.strip() if name.endswith("Error") and text else error.message.strip()
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            return f"check {check.check_name} of {check.asset_key.to_user_string()} failed"
    return "the run failed; its log is in the UI (`deer-reid serve`)"


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


def dagster_command(*arguments: str) -> list[str]:
    """A `dagster` command line that works where no `dagster` is on PATH."""
    import sys

    return [sys.executable, "-m", "dagster", *arguments]


def check_port_is_free(host: str, port: int) -> None:
    """Raise a clear error when the UI's address is taken.

    Raises:
        DeerReidError: another program listens there, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DeerReidError(f"{host}:{port} cannot be used ({error.strerror}); give another with --port") from error


def check_home_is_writable(home: Path) -> None:
    """Raise a clear error when the home cannot be written to.

    Raises:
        DeerReidError: the folder cannot be made or written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".write-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DeerReidError(f"the home {home} cannot be written to: {error.strerror}; set DEER_REID_HOME") from error
