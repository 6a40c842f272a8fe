"""`run_failure_sensor`: a report of every run that failed, and a message where a site wants one."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from deer_reid_pipeline.defs.automation.nights import NIGHT_TAG, PARTITION_TAG
from deer_reid_pipeline.defs.ingest.sensor import FOLDER_TAG
from deer_reid_pipeline.defs.step_errors import cause_of, is_interruption
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.failure_report import WAS_STOPPED, FailedRun, FailedStep, post_failure, write_failure

WILL_RETRY_TAG = "dagster/will_retry"
EVERY_S = 30


@dg.run_failure_sensor(
    name="run_failure_sensor",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=EVERY_S,
    description="Writes a report of every failed run to reports/failures, and posts it to DEER_REID_FAILURE_WEBHOOK.",
)
def run_failure_sensor(context: dg.RunFailureSensorContext) -> None:
    """Tell people of one failed run. A message that cannot be sent is logged; a report that cannot be written fails."""
    settings = load_settings()
    run = failed_run(context, settings.ui_url)
    try:
        path = write_failure(settings.home, run)
        context.log.info(f"{run.what} failed: {path}")
    finally:
        wrong = post_failure(settings.failure_webhook, run) if settings.failure_webhook else None
        if wrong is not None:
            context.log.warning(f"DEER_REID_FAILURE_WEBHOOK: {wrong}; the report on this machine has it all")


def failed_run(context: dg.RunFailureSensorContext, ui_url: str) -> FailedRun:
    """What is known of the run: its steps' errors, or what Dagster said where no step failed."""
    run = context.dagster_run
    record = context.instance.get_run_record_by_id(run.run_id)
    ended = None if record is None else record.end_time
    tags = run.tags if record is None else record.dagster_run.tags
    return FailedRun(
        run_id=run.run_id,
        job=run.job_name,
        at=datetime.now(UTC) if ended is None else datetime.fromtimestamp(ended, UTC),
        said=_one_line(_said(context)),
        steps=tuple(_steps(context)),
        retried=tags.get(WILL_RETRY_TAG) == "true",
        nightly=NIGHT_TAG in tags,
        link=f"{ui_url.rstrip('/')}/runs/{run.run_id}",
        partition=tags.get(PARTITION_TAG),
        watched=FOLDER_TAG in tags,
    )


def _said(context: dg.RunFailureSensorContext) -> str:
    """What Dagster said of the run; where that is only that something else ended it, what it said of why before."""
    said = context.failure_event.message or "the run failed without saying why"
    if _FROM_OUTSIDE in said:
        for entry in context.instance.all_logs(context.dagster_run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            event = entry.dagster_event
            told = (event.message if event is not None else None) or ""
            if _PROCESS in told:
                said = told[told.index(_PROCESS) :]
            elif event is not None and _CUT_OFF in told and event.engine_event_data.error is not None:
                error = event.engine_event_data.error
                while error.cause is not None:
                    error = error.cause
                said = f"The run was cut off: {error.message}"
    return said


_FROM_OUTSIDE = "from outside the execution context"
_PROCESS = "Run execution process"
_CUT_OFF = "An exception was thrown during execution"
"""Words of Dagster's: another process reports the run as failed; how its own ended; what stopped it between steps."""


def _steps(context: dg.RunFailureSensorContext) -> Iterator[FailedStep]:
    for event in context.get_step_failure_events():
        error = cause_of(event)
        if is_interruption(error):
            yield FailedStep(str(event.step_key), WAS_STOPPED, True, stopped=True)
            continue
        if error is None:
            yield FailedStep(str(event.step_key), _one_line(event.message or "no error was stored"), False)
            continue
        name, _, text = error.message.strip().partition(": ")
        deliberate = name.rpartition(".")[2] in _deliberate() or str(error.cls_name) == _BLOCKED
        yield FailedStep(
            str(event.step_key),
            _one_line(text if deliberate and text else error.message),
            deliberate,
            "".join(error.stack),
        )


_BLOCKED = "DagsterAssetCheckFailedError"
"""A blocking check did not pass: its text names the check."""


def _deliberate() -> set[str]:
    """Names of the errors that the product raises on purpose."""
    found, todo = set(), [DeerReidError]
    while todo:
        kind = todo.pop()
        found.add(kind.__name__)
        todo += kind.__subclasses__()
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())[:1000]
