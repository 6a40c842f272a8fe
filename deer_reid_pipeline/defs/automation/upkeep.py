"""What holds for assets of several groups: how old they may get, which follow others, what a lost connection does.

An asset that only changes when there is something new is still made once a week (`steps.nightly`), so that an overdue
one means that the night does not run.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from deer_reid_pipeline.defs.automation.faults import retry_when_the_database_went_away
from deer_reid_pipeline.defs.automation.nights import cron
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.nightly import AT_LEAST_EVERY

NIGHTLY = (
    "deer_profiles",
    "similarity_distribution",
    "validation_report",
    "assignment_report",
    "false_positive_report",
)
"""Assets that the night brings up to date."""

WARN_AFTER = AT_LEAST_EVERY + timedelta(days=1)
OVERDUE_AFTER = AT_LEAST_EVERY + timedelta(days=2)
MORNING = timedelta(hours=5)
"""After the night's start: when assets that follow others are made."""

FOLLOWERS = ("assignment_report", "ab_report")
"""Cheap assets that are counted again when what they count has changed, by whichever run."""


def kept_up(assets: Sequence[object], settings: Settings) -> list[dg.AssetsDefinition]:
    """The assets with their freshness policies, automation conditions and what a lost connection does."""
    policy = dg.FreshnessPolicy.time_window(fail_window=OVERDUE_AFTER, warn_window=WARN_AFTER)
    condition = follow_once_a_day(settings)

    def with_policies(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in NIGHTLY:
            spec = dg.apply_freshness_policy(spec, policy)
        return spec.replace_attributes(automation_condition=condition) if name in FOLLOWERS else spec

    given = [item for item in assets if isinstance(item, dg.AssetsDefinition)]
    return [item.with_hooks({retry_when_the_database_went_away}) for item in dg.map_asset_specs(with_policies, given)]


def follow_once_a_day(settings: Settings) -> dg.AutomationCondition[Any]:
    """In the morning, when something that the asset is made from was updated since it was last made or requested."""
    morning: dg.AutomationCondition[Any] = dg.AutomationCondition.cron_tick_passed(
        cron(settings.night_start, MORNING), settings.timezone
    )
    return (
        morning & dg.AutomationCondition.any_deps_updated().since_last_handled() & ~dg.AutomationCondition.in_progress()
    ).with_label("in the morning, when what it is made from was updated")


morning_automation_sensor = dg.AutomationConditionSensorDefinition(
    "morning_automation_sensor",
    target=dg.AssetSelection.assets(*FOLLOWERS),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    description="Every morning: count again what changed since it was last counted.",
)
