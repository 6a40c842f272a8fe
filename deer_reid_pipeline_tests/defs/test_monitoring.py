"""`false_positive_report` as Dagster runs it: a missed day is filled by its partition, and what its checks say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import dagster as dg

from deer_reid_pipeline.defs.monitoring.assets import false_positive_report, fp_monitoring_job
from deer_reid_pipeline.defs.monitoring.partitions import daily_partitions
from deer_reid_pipeline.steps.monitoring import today
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.monitored import DAY, ordinary_herd
from deer_reid_pipeline_tests.steps.test_monitoring import plant


def materialize(site: Site, instance: dg.DagsterInstance, day: date) -> dg.ExecuteInProcessResult:
    GivenSite.given = site
    job = dg.Definitions(
        assets=[false_positive_report], jobs=[fp_monitoring_job], resources={"site": GivenSite()}
    ).resolve_job_def("fp_monitoring_job")
    return job.execute_in_process(instance=instance, partition_key=day.isoformat())


def checks(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, dg.AssetCheckSeverity]]:
    return {e.check_name: (e.passed, e.severity) for e in result.get_asset_check_evaluations()}


def test_a_missed_day_is_filled_by_its_partition(site: Site, instance: dg.DagsterInstance) -> None:
    plant(ordinary_herd(site))
    later = materialize(site, instance, DAY + timedelta(days=1))
    assert query(site, "SELECT count(*) FROM monitor_flags") == [(0,)]
    result = materialize(site, instance, DAY)
    assert later.success
    assert result.success
    assert query(site, "SELECT day, count(*) FROM monitor_flags GROUP BY 1") == [(DAY, 5)]
    assert query(site, "SELECT run_id FROM reports WHERE day = :day", day=DAY) == [(result.run_id,)]
    assert instance.get_materialized_partitions(dg.AssetKey("false_positive_report")) == {
        DAY.isoformat(),
        (DAY + timedelta(days=1)).isoformat(),
    }
    (made,) = result.get_asset_materialization_events()
    metadata = made.materialization.metadata
    assert metadata["dagster/row_count"].value == 5
    assert "40 km apart" in str(metadata["flags"].value)
    assert str(metadata["similarities"].value).startswith("![similarities](data:image/png;base64,")
    assert all(c.type and c.description for c in metadata["dagster/column_schema"].value.columns)  # type: ignore[union-attr]
    said = {e.check_name: e.description or "" for e in result.get_asset_check_evaluations()}
    assert said["no_implausible_matches"].startswith("5 implausible: ")
    assert any(line.split(" | ")[1].rstrip(" |") in said["no_implausible_matches"] for line in flag_lines(metadata))
    assert checks(result) == {
        "no_implausible_matches": (False, dg.AssetCheckSeverity.WARN),
        "reviewed_false_match_rate_within_bound": (False, dg.AssetCheckSeverity.WARN),  # not known
    }


def flag_lines(metadata: Mapping[str, dg.MetadataValue]) -> list[str]:
    return str(metadata["flags"].value).splitlines()[2:]


def test_reviewed_days_pass_or_fail(site: Site, instance: dg.DagsterInstance) -> None:
    ordinary_herd(site, matches=5)
    materialize(site, instance, DAY)
    said = (
        "INSERT INTO reviews (detection_a, detection_b, verdict, reviewer, reviewed_at, source) "
        "SELECT least(detection_a, detection_b), greatest(detection_a, detection_b), '{}', 'R1', '{}', 'r' "
        "FROM monitor_samples RETURNING 1"
    )
    query(site, said.format("same", "2026-03-15"))
    assert checks(materialize(site, instance, DAY)) == {
        "no_implausible_matches": (True, dg.AssetCheckSeverity.WARN),
        "reviewed_false_match_rate_within_bound": (True, dg.AssetCheckSeverity.ERROR),
    }
    query(site, said.format("different", "2026-03-16"))
    failed = materialize(site, instance, DAY)
    assert failed.success  # a report that says no is a good report
    assert checks(failed)["reviewed_false_match_rate_within_bound"] == (False, dg.AssetCheckSeverity.ERROR)


def test_every_day_up_to_the_present_one_is_a_partition() -> None:
    keys = daily_partitions.get_partition_keys()
    assert (keys[0], keys[-1]) == ("2024-01-01", today().isoformat())
