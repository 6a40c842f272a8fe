"""What is deleted in time on a real instance, and everything that has to stay."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from deer_reid_pipeline.defs.automation.pruning import prunable, prune, prune_history_job
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.steps.retention import delete_report_files, old_report_files
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.retention import ReportFolder
from deer_reid_pipeline_tests.defs.automation.dagster_testing import clock
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.sites import query

PARTITIONS = dg.DynamicPartitionsDefinition(name="drops")
DAYS = timedelta(days=1)


@dg.asset(partitions_def=PARTITIONS, check_specs=[dg.AssetCheckSpec("is_whole", asset="by_drop")])
def by_drop(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    print("something printed")
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(check_name="is_whole", passed=True)])


@dg.asset
def whole() -> None: ...


@dg.asset_check(asset=whole)
def whole_is_whole() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.op
def nothing() -> None: ...


@dg.job
def some_job() -> None:
    nothing()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        made.add_dynamic_partitions("drops", ["a", "b"])
        yield made


def make(instance: dg.DagsterInstance, asset: Any, partition: str | None = None) -> str:
    result = dg.materialize([asset], instance=instance, partition_key=partition)
    assert result.success
    return result.run_id


def check(instance: dg.DagsterInstance) -> str:
    job = dg.Definitions(
        assets=[whole],
        asset_checks=[whole_is_whole],
        jobs=[dg.define_asset_job("check_job", selection=dg.AssetSelection.checks(whole_is_whole))],
    ).resolve_job_def("check_job")
    return job.execute_in_process(instance=instance).run_id


def ended(instance: dg.DagsterInstance) -> str:
    return some_job.execute_in_process(instance=instance).run_id


def runs(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def later(days: float = 100) -> datetime:
    """A moment by which everything that was made now is old."""
    return datetime.now(UTC) + days * DAYS


def test_the_newest_of_everything_stays(site: Site, instance: dg.DagsterInstance) -> None:
    replaced = [make(instance, by_drop, "a"), make(instance, whole), check(instance), ended(instance)]
    newest = [make(instance, by_drop, "a"), make(instance, by_drop, "b"), make(instance, whole), check(instance)]
    waits = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.STARTED).run_id
    failed = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.FAILURE).run_id

    before = {key: instance.fetch_materializations(dg.AssetKey(key), limit=1).records[0].run_id for key in ("whole",)}
    tried = prune(instance, site, later(), dry_run=True)
    assert (tried.runs, tried.kept) == (5, 4)
    assert len(runs(instance)) == 10, "a dry run deletes nothing"
    done = prune(instance, site, later())
    assert (done.runs, done.kept) == (5, 4)
    assert runs(instance) == {*newest, waits}
    for run_id in (*replaced, failed):
        assert instance.all_logs(run_id) == []
    assert instance.get_materialized_partitions(dg.AssetKey("by_drop")) == {"a", "b"}
    assert instance.get_latest_materialization_event(dg.AssetKey("whole")).run_id == before["whole"]  # type: ignore[union-attr]
    assert prune(instance, site, later()) == type(done)(0, 4, 0, 0), "a second time finds nothing"


def test_nothing_young_is_deleted(site: Site, instance: dg.DagsterInstance) -> None:
    young = {make(instance, whole), make(instance, whole), ended(instance)}
    assert prune(instance, site, datetime.now(UTC) - DAYS).runs == 0
    assert runs(instance) == young


def test_more_runs_than_a_page(site: Site, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deer_reid_pipeline.defs.automation.pruning.PAGE", 2)
    for _ in range(5):
        instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.CANCELED)
    assert prune(instance, site, later()).runs == 5
    assert runs(instance) == set()


def test_what_a_step_printed_goes_with_its_run(site: Site, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    old, new = make(instance, by_drop, "a"), make(instance, by_drop, "a")
    printed = tmp_path / "storage"
    assert (printed / old).is_dir()
    prune(instance, site, later())
    assert not (printed / old).exists()
    assert (printed / new).is_dir()


def report(site: Site, name: str, kind: str = "validation", *, days: int = 200, candidate: int | None = None) -> int:
    folder = site.settings.home / "reports" / kind / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "page.html").write_text("page")
    row = query(
        site,
        "INSERT INTO reports (kind, candidate_id, summary, folder, run_id, created_at) "
        "VALUES (:kind, :candidate, '{}', :folder, :run, :at) RETURNING id",
        kind=kind,
        candidate=candidate,
        folder=f"reports/{kind}/{name}",
        run=f"run-of-{name}",
        at=datetime.now(UTC) - days * DAYS,
    )
    return int(row[0][0])


def there(site: Site) -> set[str]:
    return {path.parent.name for path in (site.settings.home / "reports").rglob("page.html")}


def test_reports_that_nothing_rests_on_lose_their_files_and_keep_their_figures(
    site: Site, instance: dg.DagsterInstance
) -> None:
    site.matcher()
    made_with, promoted_on = report(site, "made-with"), report(site, "promoted-on")
    report(site, "old")
    report(site, "of-a-candidate", candidate=7)
    report(site, "day", "monitoring")
    report(site, "day", "monitoring", days=1)
    report(site, "newest-of-a-kind", "tuning")
    report(site, "young", days=1)
    query(site, "UPDATE releases SET report_id = :key RETURNING 1", key=made_with)
    query(
        site,
        "INSERT INTO release_events (action, release_id, report_id, reason) VALUES ('promoted', 1, :key, 'test') "
        "RETURNING 1",
        key=promoted_on,
    )
    assert prune(instance, site, datetime.now(UTC) - 90 * DAYS).reports == 1
    assert there(site) == {"made-with", "promoted-on", "of-a-candidate", "day", "newest-of-a-kind", "young"}
    assert query(site, "SELECT count(*), count(folder) FROM reports") == [(8, 7)]
    assert prune(instance, site, datetime.now(UTC) - 90 * DAYS).reports == 0


def test_runs_that_a_release_rests_on_stay(site: Site, instance: dg.DagsterInstance) -> None:
    site.matcher()
    keeps, goes = ended(instance), ended(instance)
    number = report(site, "made-with")
    query(site, "UPDATE reports SET run_id = :run RETURNING 1", run=keeps)
    query(site, "UPDATE releases SET report_id = :key RETURNING 1", key=number)
    assert prune(instance, site, later()).kept == 1
    assert runs(instance) == {keeps}
    assert goes not in runs(instance)


@pytest.mark.parametrize("folder", ["../outside", "crops", "reports", "reports/../crops", "/etc", "reports/link"])
def test_a_folder_outside_the_reports_is_never_deleted(site: Site, folder: str, tmp_path: Path) -> None:
    home = site.settings.home
    (home / "reports").mkdir(exist_ok=True)
    (home / "crops").mkdir(exist_ok=True)
    (home / "crops" / "kept.jpg").write_text("kept")
    (tmp_path / "elsewhere").mkdir()
    (home / "reports" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeerReidError, match="not below reports: nothing was deleted"):
        delete_report_files(site, [ReportFolder(1, "validation", folder)])
    assert (home / "crops" / "kept.jpg").exists()
    assert (tmp_path / "elsewhere").is_dir()


def test_a_killed_deletion_is_finished(site: Site) -> None:
    report(site, "gone")
    report(site, "newer")
    (found,) = old_report_files(site, datetime.now(UTC) - 90 * DAYS)
    (site.settings.home / found.folder / "page.html").unlink()
    (site.settings.home / found.folder).rmdir()
    assert delete_report_files(site, [found]) == 0
    assert old_report_files(site, datetime.now(UTC) - 90 * DAYS) == []


def test_the_schedule_skips_until_something_became_old(site: Site, instance: dg.DagsterInstance) -> None:
    now = datetime.now(UTC)
    ended(instance)
    assert prunable(site, instance, now).reason == "no run or report became older than 90 days since this was done last"
    assert prunable(site, instance, later()).needed


def run_job(instance: dg.DagsterInstance, **config: Any) -> dict[str, Any]:
    """Run the job in the given site; returns what it says of what it did."""
    result = prune_history_job.execute_in_process(
        instance=instance,
        resources={"site": GivenSite()},
        run_config={"ops": {"prune_history": {"config": config}}},
    )
    (event,) = [event for event in result.all_events if event.is_successful_output]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_only_what_was_deleted_counts_as_done(site: Site, instance: dg.DagsterInstance) -> None:
    GivenSite.given = site
    now = datetime.now(UTC)
    with clock(now - 200 * DAYS):
        old = ended(instance)
    assert prunable(site, instance, now).needed
    assert run_job(instance, dry_run=True)["runs_deleted"] == 1
    assert prunable(site, instance, now).needed, "a dry run deleted nothing"
    assert run_job(instance, keep_days=300)["runs_deleted"] == 0
    assert prunable(site, instance, now).needed, "only what is older than 300 days was looked at"
    assert run_job(instance)["runs_deleted"] == 1
    assert old not in runs(instance)
    with clock(now - 200 * DAYS):
        ended(instance)
    assert not prunable(site, instance, now).needed, "what is as old as that had its turn"


def test_the_job_deletes_with_the_settings_of_the_site(site: Site, instance: dg.DagsterInstance) -> None:
    GivenSite.given = site
    report(site, "old")
    report(site, "newer", days=50)
    failures = site.settings.home / "reports" / "failures"
    failures.mkdir()
    for name in ("20200101T000000Z-a.md", f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-b.md"):
        (failures / name).write_text("failed")
    assert run_job(instance, dry_run=True) == {
        "runs_deleted": 0,
        "runs_kept": 0,
        "reports_deleted": 1,
        "failures_deleted": 1,
        "days_kept": 90,
    }
    assert there(site) == {"old", "newer"}
    assert len(list(failures.iterdir())) == 2
    assert run_job(instance, keep_days=300)["reports_deleted"] == 0
    assert run_job(instance)["reports_deleted"] == 1
    assert there(site) == {"newer"}
    assert [path.name[-4:] for path in failures.iterdir()] == ["b.md"]
