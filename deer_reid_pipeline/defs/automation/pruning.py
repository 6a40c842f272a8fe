"""What is deleted in time: runs with their event logs, and files of reports. Never the newest of anything.

A run stays while it is not finished, while the newest materialization of an asset and partition or the newest
evaluation of a check is its, and while a release rests on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from deer_reid_pipeline.defs.automation.dagster_private import delete_printed, newest_evaluation
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.steps.failure_report import old_failures
from deer_reid_pipeline.steps.nightly import Decision
from deer_reid_pipeline.steps.retention import delete_report_files, old_report_files
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.retention import runs_behind_releases

JOB = "prune_history_job"
FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
PAGE = 200

PRUNED_TAG = "deer_reid/pruned_before"
"""On a run that deleted: the moment before which it did, in UTC. A dry run has none."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pruned:
    """What was deleted, and old runs that stay because something rests on them.

    Attributes:
        reports: those that lost their files.
        failures: reports of failed runs.
    """

    runs: int
    kept: int
    reports: int
    failures: int


class Newest:
    """Which run made the newest materialization of each asset and partition, and the newest evaluation of each check.

    Asked of the instance as old runs are looked at, and remembered.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._made: dict[tuple[dg.AssetKey, str | None], str | None] = {}
        self._checked: dict[tuple[dg.AssetCheckKey, str | None], str | None] = {}

    def rests_on(self, run_id: str) -> bool:
        """Whether the newest of anything is this run's."""
        for entry in self._instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            event = entry.asset_materialization
            if event is not None and self._materialized(event.asset_key, event.partition) == run_id:
                return True
        for entry in self._instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            check = entry.asset_check_evaluation
            if check is not None and self._evaluated(check.asset_check_key, check.partition) == run_id:
                return True
        return False

    def _materialized(self, asset: dg.AssetKey, partition: str | None) -> str | None:
        key = (asset, partition)
        if key not in self._made:
            of = dg.AssetRecordsFilter(asset, asset_partitions=None if partition is None else [partition])
            found = self._instance.fetch_materializations(of, limit=1).records
            self._made[key] = found[0].run_id if found else None
        return self._made[key]

    def _evaluated(self, check: dg.AssetCheckKey, partition: str | None) -> str | None:
        key = (check, partition)
        if key not in self._checked:
            self._checked[key] = newest_evaluation(self._instance, check, partition)
        return self._checked[key]


def prune(
    instance: dg.DagsterInstance, site: Site, before: datetime, *, dry_run: bool = False, say: Say = lambda line: None
) -> Pruned:
    """Delete finished runs that ended before a moment, and files of reports made before it; not what has to stay.

    A killed run of it goes on where it was.

    Args:
        dry_run: count, and delete nothing.

    Raises:
        DeerReidError: files of a report cannot be deleted.
    """
    with site.database.session() as session:
        released = runs_behind_releases(session)
    newest = Newest(instance)
    deleted = kept = 0
    for run_id in _old_runs(instance, before):
        if run_id in released or newest.rests_on(run_id):
            kept += 1
            continue
        deleted += 1
        if not dry_run:
            delete_printed(instance, run_id)
            instance.delete_run(run_id)
        if deleted % PAGE == 0:
            say(f"{deleted} runs deleted, {kept} kept so far")
    folders = old_report_files(site, before)
    reports = len(folders) if dry_run else delete_report_files(site, folders)
    failures = old_failures(site.settings.home, before)
    if not dry_run:
        for path in failures:
            path.unlink(missing_ok=True)
    return Pruned(deleted, kept, reports, len(failures))


def _old_runs(instance: dg.DagsterInstance, before: datetime) -> list[str]:
    """Finished runs that nothing happened to since a moment, the oldest first.

    All of them before any is deleted: a page begins after a run that has to be there.
    """
    found: list[str] = []
    cursor = None
    while True:
        page = instance.get_run_records(
            dg.RunsFilter(statuses=FINISHED, updated_before=before), limit=PAGE, ascending=True, cursor=cursor
        )
        found += [record.dagster_run.run_id for record in page]
        if len(page) < PAGE:
            return found
        cursor = found[-1]


def prunable(site: Site, instance: dg.DagsterInstance, now: datetime) -> Decision:
    """Whether runs or reports became old enough to be deleted since the last time that this was done."""
    days = site.settings.keep_days
    before = now - timedelta(days=days)
    old = instance.get_run_records(
        dg.RunsFilter(statuses=FINISHED, updated_before=before, updated_after=_pruned_before(instance)), limit=1
    )
    reports = len(old_report_files(site, before))
    if old or reports or old_failures(site.settings.home, before):
        return Decision(True, f"there are runs or reports older than {days} days")
    return Decision(False, f"no run or report became older than {days} days since this was done last")


def _pruned_before(instance: dg.DagsterInstance) -> datetime | None:
    """The latest moment before which all was deleted that need not stay; None: nothing was deleted so far."""
    moments = [value for _, values in instance.get_run_tags([PRUNED_TAG]) for value in values]
    return max(map(datetime.fromisoformat, moments), default=None)


class PruneConfig(dg.Config):
    """How far back is deleted."""

    keep_days: int = Field(default=0, ge=0, description="Days to keep; 0: as DEER_REID_KEEP_DAYS says.")
    dry_run: bool = Field(default=False, description="Say what would be deleted, and delete nothing.")


@dg.op(out=dg.Out(dg.Nothing))
def prune_history(context: dg.OpExecutionContext, config: PruneConfig, site: SiteResource) -> None:
    """Delete logs of old runs and files of old reports that nothing rests on."""
    days = config.keep_days or site.site.settings.keep_days
    before = datetime.now(UTC) - timedelta(days=days)
    done = prune(context.instance, site.site, before, dry_run=config.dry_run, say=context.log.info)
    if not config.dry_run:
        context.instance.add_run_tags(context.run_id, {PRUNED_TAG: before.isoformat()})
    context.log.info(
        f"older than {days} days: {done.runs} runs, the files of {done.reports} reports and {done.failures} reports of "
        f"failed runs {'would be' if config.dry_run else 'were'} deleted; {done.kept} old runs stay, since the newest "
        "of something or a release rests on them"
    )
    context.add_output_metadata(
        {
            "runs_deleted": done.runs,
            "runs_kept": done.kept,
            "reports_deleted": done.reports,
            "failures_deleted": done.failures,
            "days_kept": days,
        }
    )


@dg.job(name=JOB, description="Delete logs of old runs and files of old reports that nothing rests on.")
def prune_history_job() -> None:
    """One step."""
    prune_history()
