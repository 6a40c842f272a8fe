"""Every private name of Dagster that the tests of automation use, and what is built from them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.freshness_evaluator import FRESHNESS_EVALUATORS_BY_POLICY_TYPE
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
