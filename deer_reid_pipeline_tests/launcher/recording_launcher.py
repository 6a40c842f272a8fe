"""A launcher of Dagster that starts nothing and says what it was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._serdes import ConfigurableClass, ConfigurableClassData


class RecordingLauncher(RunLauncher, ConfigurableClass):
    def __init__(self, inst_data: ConfigurableClassData | None, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._inst_data = inst_data
        self.config = config
        self.launched: list[dg.DagsterRun] = []
        self.terminated: list[str] = []
        self.answer = CheckRunHealthResult(WorkerStatus.RUNNING)
        self.disposed = False

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return {"word": dg.Field(dg.StringSource, default_value="plain")}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> RecordingLauncher:
        return cls(inst_data, config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        assert self._instance is not None
        self.launched.append(context.dagster_run)

    def terminate(self, run_id: str) -> bool:
        self.terminated.append(run_id)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        return self.answer

    def dispose(self) -> None:
        self.disposed = True
