"""Runs the same jobs that the UI shows, in this process, on the same Dagster instance."""

from __future__ import annotations

import os
import shutil
import socket
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

WORKER_TAG = "deer_reid/worker"


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended; `error` is the first failed step's message."""

    run_id: str
    success: bool
    error: str | None


def prepare_instance(settings: Settings, dagster_url: str) -> None:
    """Point this process and its children at the installation's Dagster instance.

    Writes `dagster.yaml` into DAGSTER_HOME when there is none; one that a person changed is left alone.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists():
        shutil.copyfile(shipped("dagster.yaml"), target)
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
        if partition_key is not None:
            instance.add_dynamic_partitions(str(image_drop_partitions.name), [partition_key])
        job = defs.resolve_job_def(job_name)
        result = job.execute_in_process(
            instance=instance,
            partition_key=partition_key,
            run_config={
                **(config or {}),
                "loggers": {"console": {"config": {"log_level": "INFO" if verbose else "CRITICAL"}}},
            },
            tags={WORKER_TAG: worker_identity()},
            raise_on_error=False,
        )
    return RunOutcome(result.run_id, result.success, None if result.success else _first_error(result))


def _first_error(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None:
                name, _, text = error.message.strip().partition(": ")
                return text.strip() if name.endswith("Error") and text else error.message.strip()
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            return f"check {check.check_name} of {check.asset_key.to_user_string()} failed"
    return "the run failed; its log is in the UI (`deer-reid serve`)"


def worker_identity() -> str:
    """host:pid:start-time of this process, which no later process shares."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def close_dead_runs(instance: dg.DagsterInstance) -> int:
    """Report runs of this host whose process was killed as failed, so that they do not look alive for ever."""
    closed = 0
    running = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.CANCELING,
        ]
    )
    for run in instance.get_runs(running):
        identity = run.tags.get(WORKER_TAG)
        if identity is not None and _is_dead(identity):
            instance.report_run_failed(run, "The process of this run was killed. Running again goes on where it was.")
            closed += 1
    return closed


def _is_dead(identity: str) -> bool:
    host, _, rest = identity.partition(":")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        process = psutil.Process(int(pid))
        alive = process.status() != psutil.STATUS_ZOMBIE and f"{process.create_time():.2f}" == started
    except psutil.NoSuchProcess:
        return True
    return not alive


def dagster_command(*arguments: str) -> list[str]:
    """A `dagster` command line that works where no `dagster` is on PATH."""
    import sys

    return [sys.executable, "-m", "dagster", *arguments]


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
