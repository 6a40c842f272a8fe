"""`image_drop_sensor`: new drops of the watched folder become runs."""

import time
from collections.abc import Sequence

import dagster as dg

from deer_reid_pipeline.defs.jobs import process_drop_job
from deer_reid_pipeline.defs.partitions import image_drop_partitions
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.defs.workers import close_dead_runs
from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.watch_runs import DropRun, RunState, attempt_of
from deer_reid_pipeline.steps.watching import read_cursor, watch_once

INTERVAL_S = 30
FOLDER_TAG = "deer_reid/folder"
"""On every run that this sensor requests: the folder's name."""

NOT_WATCHING = (
    "No folder is watched: set DEER_REID_WATCH, in the environment or in .env, to the folder whose sub-folders are "
    "drops, and start the code server again."
)

_ENDED = {
    dg.DagsterRunStatus.SUCCESS: RunState.SUCCEEDED,
    dg.DagsterRunStatus.FAILURE: RunState.FAILED,
    dg.DagsterRunStatus.CANCELED: RunState.CANCELLED,
}
_MOST_RUNS = 400
"""Of a drop, the newest: the most attempts that can be set, with the runs that Dagster itself starts again."""


@dg.sensor(
    name="image_drop_sensor",
    job=process_drop_job,
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Processes each sub-folder of DEER_REID_WATCH once it has arrived. A skipped tick says what it waits "
    "for.",
)
def image_drop_sensor(context: dg.SensorEvaluationContext, site: SiteResource) -> dg.SensorResult:
    """Requests one run of `process_drop_job` for every sealed drop that is not processed yet."""
    settings = load_settings()
    if settings.watch is None:
        return dg.SensorResult(skip_reason=NOT_WATCHING, cursor=context.cursor)
    cursor, complaint = read_cursor(context.cursor)
    if complaint is not None:
        context.log.warning(complaint)
    instance = context.instance
    close_dead_runs(instance, from_code_server=True)
    opened = site.site
    try:
        tick = watch_once(opened, settings.watch, cursor, _now(), lambda key: _runs_of(instance, key))
    except DropError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
    finally:
        opened.database.close()
    context.log.info(tick.message)
    told = tick.message if complaint is None else f"{complaint} {tick.message}"
    if not tick.requests:
        return dg.SensorResult(skip_reason=told, cursor=tick.cursor.to_text())
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(run_key=request.run_key, partition_key=request.key, tags={FOLDER_TAG: request.folder})
            for request in tick.requests
        ],
        dynamic_partitions_requests=[image_drop_partitions.build_add_request([each.key for each in tick.requests])],
        cursor=tick.cursor.to_text(),
    )


def _now() -> float:
    """Seconds since the epoch; a function of its own so that a test can let a fortnight pass."""
    return time.time()


def _runs_of(instance: dg.DagsterInstance, key: str) -> Sequence[DropRun]:
    """Runs of a partition of `image_drops`, newest first."""
    records = instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": key}), limit=_MOST_RUNS)
    return [
        DropRun(
            _ENDED.get(record.dagster_run.status, RunState.GOING),
            record.end_time,
            attempt_of(record.dagster_run.tags.get("dagster/run_key")),
        )
        for record in records
    ]
