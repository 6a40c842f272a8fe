"""Every private name of Dagster that the tests of automation use, and what is built from them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.freshness_evaluator import FRESHNESS_EVALUATORS_BY_POLICY_TYPE
from dagster._core.events import DagsterEvent, DagsterEventType, EngineEventData
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
)
from dagster._core.storage.tags import TAGS_TO_MAYBE_OMIT_ON_RETRY
from dagster._core.test_utils import freeze_time
from dagster._core.workspace.context import LoadingContext
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster._utils.schedules import schedule_execution_time_iterator

__all__ = ["freeze_time", "serializable_error_info_from_exc_info"]


def ticks(schedule: dg.ScheduleDefinition, begin: datetime, end: datetime) -> Iterator[datetime]:
    """When the daemon evaluates a schedule between two moments, as it computes that itself; in the schedule's zone."""
    found = schedule_execution_time_iterator(begin.timestamp(), schedule.cron_schedule, schedule.execution_timezone)
    for at in found:
        if at >= end:
            return
        yield at


class _Loading(LoadingContext):
    """What a freshness evaluator reads from."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._loaders: dict[type, object] = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[type, object]:  # type: ignore[override]
        return self._loaders


def freshness(defs: dg.Definitions, instance: dg.DagsterInstance, asset: str, at: datetime) -> str:
    """PASS, WARN, FAIL or UNKNOWN, as the freshness daemon finds it at a moment."""
    node = defs.resolve_asset_graph().get(dg.AssetKey(asset))
    policy = node.freshness_policy_or_from_metadata
    assert policy is not None
    evaluator = FRESHNESS_EVALUATORS_BY_POLICY_TYPE[type(policy)]()
    with freeze_time(at):
        return str(asyncio.run(evaluator.evaluate_freshness(context=_Loading(instance), node=node)).value)


@contextmanager
def clock(at: datetime) -> Iterator[None]:
    """Dagster's clock stands at a moment."""
    with freeze_time(at.astimezone(UTC)):
        yield


def end_well(instance: dg.DagsterInstance, run_id: str, at: datetime) -> None:
    """Store that a run ended well at a moment."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    with clock(at):
        instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_SUCCESS.value, run.job_name), run_id)


def looked_at(instance: dg.DagsterInstance, sensor: str, moment: float, cursor: str) -> None:
    """Store that a sensor looked last at a moment (seconds since the epoch)."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("deer_reid_pipeline"), "__repository__")
    data = SensorInstigatorData(moment, cursor=cursor, last_tick_start_timestamp=moment)
    origin = RemoteInstigatorOrigin(repository, sensor)
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data))


def last_looks(instance: dg.DagsterInstance) -> dict[str, tuple[float | None, float | None, str | None]]:
    """Of every sensor: when its last look ended and began, and its cursor."""
    found = {}
    for state in instance.all_instigator_state():
        data = state.instigator_data
        assert isinstance(data, SensorInstigatorData)
        found[state.instigator_name] = (data.last_tick_timestamp, data.last_tick_start_timestamp, data.cursor)
    return found


def cut_off(instance: dg.DagsterInstance, run: dg.DagsterRun, error: Exception) -> None:
    """Store what a run notes of an error that is not a step's."""
    told = "An exception was thrown during execution that is likely a framework error."
    try:
        raise error
    except Exception:
        data = EngineEventData.engine_error(serializable_error_info_from_exc_info(sys.exc_info()))
    instance.report_engine_event(told, run, data)


def copied_by_a_retry(run: dg.DagsterRun) -> dict[str, str]:
    """The tags of a run that Dagster puts on the run that is started in its place."""
    return {name: value for name, value in run.tags.items() if name not in TAGS_TO_MAYBE_OMIT_ON_RETRY}
