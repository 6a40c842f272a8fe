"""Runs that fail because the database went away are started again; runs that fail for any other reason are not.

dagster.yaml retries runs whose worker died, and no run whose step failed. A step that fails because its connection was
lost marks its run as an exception to the latter before the run ends. The run that is started again carries that mark,
since Dagster copies tags, so a step of it that fails for another reason takes it back.
"""

import dagster as dg

from deer_reid_pipeline.store.database import lost_connection

RETRY_STEP_FAILURES_TAG = "dagster/retry_on_asset_or_op_failure"
"""Dagster's own: on a run, it overrides what dagster.yaml says."""

FAULT_TAG = "deer_reid/fault"
"""RUN_ID: what happened; the run's own id, because a retry copies the tags of the run before it."""

LOST_CONNECTION = "database connection lost"


@dg.failure_hook(name="retry_when_the_database_went_away")
def retry_when_the_database_went_away(context: dg.HookContext) -> None:
    """Let Dagster start the run again, from the failed step, when its database connection was lost, and only then."""
    error = context.op_exception
    said = None if error is None else lost_connection(error)
    if said is not None:
        context.log.warning(f"the database connection was lost ({said}): the run may be started again by itself")
        mark = {RETRY_STEP_FAILURES_TAG: "true", FAULT_TAG: f"{context.run_id}: {LOST_CONNECTION}"}
        context.instance.add_run_tags(context.run_id, mark)
        return
    run = context.instance.get_run_by_id(context.run_id)
    marked = "" if run is None else run.tags.get(FAULT_TAG, "")
    if marked and not marked.startswith(context.run_id):  # another step of this run may have lost its connection
        context.instance.add_run_tags(context.run_id, {RETRY_STEP_FAILURES_TAG: "false"})
