"""Runs the same jobs that the UI shows, in this process, on the same Dagster instance."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from deer_reid_pipeline.defs.partitions import image_drop_partitions
from deer_reid_pipeline.defs.step_errors import cause_of, is_interruption
from deer_reid_pipeline.defs.workers import WORKER_TAG, close_dead_runs, worker_identity, worker_tag


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended; `error` is the first failed step's message."""

    run_id: str
    success: bool
    error: str | None


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
    if any(is_interruption(event.step_failure_data.error) for event in result.all_events if event.is_step_failure):
        raise KeyboardInterrupt
    return RunOutcome(result.run_id, result.success, None if result.success else _first_error(result))


def _first_error(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            error = cause_of(event)
            if error is not None:
                name, _, text = error.message.strip().partition(": ")
                return text.strip() if name.endswith("Error") and text else error.message.strip()
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            return f"check {check.check_name} of {check.asset_key.to_user_string()} failed"
    return "the run failed; its log is in the UI (`deer-reid serve`)"
