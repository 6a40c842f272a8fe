"""Runs with a card as Kubernetes jobs: dagster-k8s's launcher with a GPU limit. Needs the extra `k8s`.

The cluster chooses the card, and a pod without one waits as pending. The limit is put in when the job is described, not
on the run, so that a retry that needs no card does not inherit it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.launcher import K8sRunLauncher

from deer_reid_pipeline.launcher.dagster_private import CheckRunHealthResult, ConfigurableClassData, WorkerStatus
from deer_reid_pipeline.launcher.records import record_of

CONFIG_TAG = "dagster-k8s/config"


class GpuK8sRunLauncher(K8sRunLauncher):
    """`K8sRunLauncher` whose pods get `gpus` of `resource`."""

    gpus = 1
    resource = "nvidia.com/gpu"

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """The fields of `K8sRunLauncher` and two more."""
        return {
            **K8sRunLauncher.config_type(),
            "gpus": dg.Field(dg.IntSource, default_value=1, description="Cards of a pod."),
            "resource": dg.Field(dg.StringSource, default_value=cls.resource, description="Such as nvidia.com/gpu."),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GpuK8sRunLauncher:
        """Load the cluster's configuration, as `K8sRunLauncher` does."""
        own = ("gpus", "resource")
        launcher = cls(inst_data=inst_data, **{name: value for name, value in config_value.items() if name not in own})
        launcher.gpus, launcher.resource = config_value["gpus"], config_value["resource"]
        return launcher

    def get_container_context_for_run(self, dagster_run: dg.DagsterRun) -> K8sContainerContext:
        """The pod's settings: those of the run's own tag `dagster-k8s/config`, and the card."""
        return super().get_container_context_for_run(dagster_run.with_tags(self._with_card(dagster_run)))

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """As `K8sRunLauncher`; a job that the cluster says it does not have is gone, not unknown."""
        result = super().check_run_worker_health(run)
        if result.status is WorkerStatus.UNKNOWN and (result.msg or "").endswith("could not be found"):
            return CheckRunHealthResult(WorkerStatus.FAILED, result.msg)
        return result

    def _with_card(self, run: dg.DagsterRun) -> dict[str, str]:
        config = json.loads(run.tags.get(CONFIG_TAG, "{}"))
        container = config.setdefault("container_config", {})
        container.setdefault("resources", {}).setdefault("limits", {})[self.resource] = str(self.gpus)
        record = record_of(run)
        if record is not None and record.budget_mb is not None:
            named = [entry for entry in container.get("env", []) if entry.get("name") != "DEER_REID_VRAM_MB"]
            container["env"] = [*named, {"name": "DEER_REID_VRAM_MB", "value": str(record.budget_mb)}]
        return {**run.tags, CONFIG_TAG: json.dumps(config)}
