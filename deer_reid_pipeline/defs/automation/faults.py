"""Runs that fail because the database went away are started again; runs that fail for any other reason are not.

dagster.yaml retries runs whose worker died, and no run whose step failed. A step that fails because its connection was
lost marks its run as an exception to the latter before the run ends.
"""

import dagster as dg

from deer_reid_pipeline.store.database import lost_connection

RETRY_STEP_FAILURES_TAG = "dagster/retry_on_asset_or_op_failure"
"""Dagster's own: on a run, it overrides what dagster.yaml says."""

FAULT_TAG = "deer_reid/fault"
LOST_CONNECTION = "database connection lost"


@dg.failure_hook(name="retry_when_the_database_went_away")
def retry_when_the_database_went_away(context: dg.HookContext) -> None:
    """Let Dagster start the run again, from the failed step, when its database connection was lost."""
    error = context.op_exception
    said = None if error is None else lost_connection(error)
    if said is None:
        return
    context.log.warning(f"the database connection was lost ({said}): the run may be started again by itself")
    context.instance.add_run_tags(context.run_id, {RETRY_STEP_FAILURES_TAG: "true", FAULT_TAG: LOST_CONNECTION})
