"""Everything that pruning takes from Dagster beyond its public interface, in one place.

Dagster deletes a run with `delete_run`, which is public, but has no public way to page through the evaluations of a
check, or to delete what a run printed.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES

PAGE = 200


def newest_evaluation(instance: dg.DagsterInstance, check: dg.AssetCheckKey, partition: str | None) -> str | None:
    """The run that evaluated a check of this partition (None: of no partition) last; None where none did."""
    cursor = None
    while True:
        records = instance.event_log_storage.get_asset_check_execution_history(
            check, PAGE, cursor, status=set(COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES)
        )
        for record in records:
            if record.partition == partition:
                return str(record.run_id)
        if len(records) < PAGE:
            return None
        cursor = records[-1].id


def delete_printed(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete what the steps of a run printed."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
