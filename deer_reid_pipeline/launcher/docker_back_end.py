"""Runs with a card in Docker containers: dagster-docker's launcher with a device request. Needs the extra `docker`."""

from __future__ import annotations

import dagster as dg
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext

from deer_reid_pipeline.launcher.records import record_of
from deer_reid_pipeline.launcher.worker_environment import card_variables


class GpuDockerRunLauncher(DockerRunLauncher):
    """`DockerRunLauncher` whose containers see the one card of the run's record, by uuid."""

    def get_container_context(self, dagster_run: dg.DagsterRun) -> DockerContainerContext:
        """The container's settings; a run without a card gets none."""
        context = super().get_container_context(dagster_run)
        record = record_of(dagster_run)
        if record is None or not record.device:
            return context
        request = {"Driver": "nvidia", "DeviceIDs": [record.device], "Capabilities": [["gpu"]]}
        return context.merge(
            DockerContainerContext(
                env_vars=[f"{name}={value}" for name, value in card_variables(record).items()],
                container_kwargs={"device_requests": [request]},
            )
        )

    def uses_card(self, run_id: str) -> bool:
        """Whether a container of the run is there that can hold memory, whichever Dagster instance started it.

        Raises whatever Docker's client raises where Docker cannot be reached.
        """
        wanted = {"label": f"dagster/run_id={run_id}", "status": ["running", "paused", "restarting"]}
        return bool(self._get_client(DockerContainerContext()).containers.list(filters=wanted))
