"""Every name that the launcher takes from Dagster's private modules; `test_contract.py` holds them to their shape."""

from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.events import EngineEventData
from dagster._core.instance import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.storage.tags import GLOBAL_CONCURRENCY_TAG
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, deserialize_value, serialize_value

__all__ = [
    "GLOBAL_CONCURRENCY_TAG",
    "CheckRunHealthResult",
    "ConfigurableClass",
    "ConfigurableClassData",
    "DagsterInstance",
    "DagsterLaunchFailedError",
    "EngineEventData",
    "ExecuteRunArgs",
    "InstanceRef",
    "LaunchRunContext",
    "ResumeRunContext",
    "RunLauncher",
    "WorkerStatus",
    "deserialize_value",
    "serialize_value",
]
