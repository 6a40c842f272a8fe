"""Runs with a card as Ray jobs: dagster-ray's launcher with `num_gpus`. Needs the extra `ray`.

Ray chooses the card. A fraction of a card is Ray's bookkeeping: nothing keeps a run from using more of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_ray.core.run_launcher import RayRunLauncher

from deer_reid_pipeline.launcher.dagster_private import (
    CheckRunHealthResult,
    ConfigurableClassData,
    WorkerStatus,
)
from deer_reid_pipeline.launcher.records import record_of

CONFIG_TAG = "dagster-ray/config"


class GpuRayRunLauncher(RayRunLauncher):
    """`RayRunLauncher` whose jobs ask for `num_gpus` cards, which may be a fraction."""

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """The fields of `RayRunLauncher` (under `ray`) and `num_gpus`."""
        return {
            **RayRunLauncher.config_type(),
            "num_gpus": dg.Field(float, default_value=1.0, description="Cards of a run; may be a fraction."),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GpuRayRunLauncher:
        """Connects to nothing yet; `num_gpus` under `ray` gives way to the one beside it."""
        return cls(inst_data=inst_data, **{**config_value["ray"], "num_gpus": config_value["num_gpus"]})

    def _launch_ray_job(self, submission_id: str, entrypoint: str, run: dg.DagsterRun) -> None:
        super()._launch_ray_job(submission_id, entrypoint, run.with_tags(self._with_budget(run)))

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """As `RayRunLauncher`; a job that the cluster says it does not have is gone, not unknown."""
        result = super().check_run_worker_health(run)
        if result.status is WorkerStatus.UNKNOWN and "status code 404" in (result.msg or ""):
            return CheckRunHealthResult(WorkerStatus.FAILED, f"Ray knows no job of run {run.run_id}")
        return result

    def _with_budget(self, run: dg.DagsterRun) -> dict[str, str]:
        """The run's tags with its budget in the job's environment; the run itself keeps its own."""
        record = record_of(run)
        if record is None or record.budget_mb is None:
            return dict(run.tags)
        config = json.loads(run.tags.get(CONFIG_TAG, "{}"))
        job = config.get("runtime_env") or self.runtime_env or {}
        variables = {**job.get("env_vars", {}), "DEER_REID_VRAM_MB": str(record.budget_mb)}
        return {**run.tags, CONFIG_TAG: json.dumps({**config, "runtime_env": {**job, "env_vars": variables}})}
