"""How old nightly assets may get, as Dagster itself finds it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from deer_reid_pipeline.definitions import defs
from deer_reid_pipeline.defs.automation.upkeep import FOLLOWERS, NIGHTLY, OVERDUE_AFTER, morning_automation_sensor
from deer_reid_pipeline.steps.nightly import AT_LEAST_EVERY
from deer_reid_pipeline_tests.defs.automation.dagster_testing import clock, freshness

AT = datetime(2025, 4, 2, 1, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.mark.parametrize("asset", NIGHTLY)
def test_a_quiet_week_is_fresh_and_a_night_that_does_not_run_is_overdue(
    asset: str, instance: dg.DagsterInstance
) -> None:
    assert freshness(defs, instance, asset, AT) == "UNKNOWN"
    with clock(AT):
        instance.report_runless_asset_event(dg.AssetMaterialization(asset))
    after = {days: freshness(defs, instance, asset, AT + timedelta(days=days)) for days in (1, 7, 8.5, 10)}
    assert after == {1: "PASS", 7: "PASS", 8.5: "WARN", 10: "FAIL"}
    assert AT_LEAST_EVERY < OVERDUE_AFTER


def test_conditions_are_where_the_sensor_looks() -> None:
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition is not None
    }
    assert found == set(FOLLOWERS)
    assert morning_automation_sensor.asset_selection is not None
    assert {key.to_user_string() for key in morning_automation_sensor.asset_selection.resolve(graph)} == found
