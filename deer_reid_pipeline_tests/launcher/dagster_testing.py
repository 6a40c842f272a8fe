"""Every private name of Dagster that the launcher's tests use, and what is built from them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.test_utils import create_test_daemon_workspace_context, instance_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.sensor import execute_sensor_iteration
from dagster_graphql.schema import create_schema

from deer_reid_pipeline.launcher.run_launcher import GpuRunLauncher

CODE = "deer_reid_pipeline_tests.launcher.code_location"
RECORDING = {"module": "deer_reid_pipeline_tests.launcher.recording_launcher", "class": "RecordingLauncher"}


LAUNCH = """mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) { __typename ... on PythonError { message } }
}"""
BACKFILL = """mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename ... on PythonError { message } }
}"""


def launcher_config(state_dir: Path, **config: Any) -> dict[str, Any]:
    """The `run_launcher` part of dagster.yaml."""
    return {
        "module": GpuRunLauncher.__module__,
        "class": GpuRunLauncher.__name__,
        "config": {"state_dir": str(state_dir), **config},
    }


@contextmanager
def dagster_instance(folder: Path, **config: Any) -> Iterator[dg.DagsterInstance]:
    """An instance with a home of its own under `folder`, on which the launcher is configured."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    with instance_for_test(
        overrides={
            "run_launcher": launcher_config(folder / "state", **config),
            "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
            "run_monitoring": {"enabled": True},
        },
        temp_dir=str(home),
    ) as instance:
        yield instance


def make_run(instance: dg.DagsterInstance, job: str, tags: Mapping[str, str] | None = None) -> dg.DagsterRun:
    """A run of the code location's job, not started."""
    code = ReconstructableRepository.for_module(CODE, "defs", str(Path.cwd())).get_reconstructable_job(job)
    return instance.create_run_for_job(code.get_definition(), tags=tags, job_code_origin=code.get_python_origin())


def start(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    """Have Dagster launch a run, as its coordinator does; returns it with the tags it has then."""
    instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
    return reread(instance, run)


def reread(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def under_way(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    """The run, once its worker has said that it began."""
    begun = dg.DagsterEvent(event_type_value="PIPELINE_START", job_name=run.job_name)
    instance.report_dagster_event(begun, run_id=run.run_id)
    return reread(instance, run)


def events_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """Messages of a run's events, oldest first."""
    return [entry.dagster_event.message or "" for entry in instance.all_logs(run.run_id) if entry.dagster_event]


@contextmanager
def workspace(instance: dg.DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    """The code location behind a real gRPC server."""
    target = ModuleTarget(module_name=CODE, attribute="defs", working_directory=str(Path.cwd()), location_name="code")
    with create_test_daemon_workspace_context(target, instance) as context:
        yield context


class DaemonRounds:
    """What the UI and the daemon do, one round at a time, on a workspace. Each returns the runs that it started."""

    def __init__(self, context: WorkspaceProcessContext) -> None:
        self._context = context
        self.instance = context.instance

    def materialize_in_ui(self, *assets: str) -> list[dg.DagsterRun]:
        """The button "Materialize" on these assets."""
        return self._launch({"pipelineName": "__ASSET_JOB", "assetSelection": [{"path": [name]} for name in assets]})

    def launch_job_in_ui(self, job: str) -> list[dg.DagsterRun]:
        return self._launch({"pipelineName": job})

    def backfill(self, asset: str, partitions: list[str]) -> list[dg.DagsterRun]:
        """A backfill asked for in the UI, and the daemon's rounds on it until it is done."""
        before = self._run_ids()
        answer = self._ask(
            BACKFILL, {"assetSelection": [{"path": [asset]}], "partitionNames": partitions, "fromFailure": False}
        )
        assert answer["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", answer
        for _ in range(3):
            errors = [e for e in execute_backfill_iteration(self._context, logging.getLogger("backfill")) if e]
            assert errors == []
        return self._since(before)

    def tick_sensor(self, name: str) -> list[dg.DagsterRun]:
        """A sensor switched on, and one round of the sensor daemon."""
        before = self._run_ids()
        request = self._context.create_request_context()
        repository = next(iter(request.get_code_location("code").get_repositories().values()))
        sensor = repository.get_sensor(name)
        self.instance.start_sensor(sensor)
        for error in execute_sensor_iteration(self._context, logging.getLogger("sensor"), None, None):
            assert error is None
        self.instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)
        return self._since(before)

    def _launch(self, selector: dict[str, Any]) -> list[dg.DagsterRun]:
        before = self._run_ids()
        place = {"repositoryLocationName": "code", "repositoryName": SINGLETON_REPOSITORY_NAME}
        answer = self._ask(LAUNCH, {"selector": {**place, **selector}, "mode": "default", "runConfigData": {}})
        assert answer["launchPipelineExecution"]["__typename"] == "LaunchRunSuccess", answer
        return self._since(before)

    def _ask(self, query: str, params: dict[str, Any]) -> Any:
        request = self._context.create_request_context()
        asked = create_schema().execute_async(query, context_value=request, variable_values={"params": params})
        answer = asyncio.run(asked)
        assert not answer.errors, answer.errors
        return answer.data

    def _run_ids(self) -> set[str]:
        return {run.run_id for run in self.instance.get_runs()}

    def _since(self, before: set[str]) -> list[dg.DagsterRun]:
        return [run for run in self.instance.get_runs() if run.run_id not in before]
