"""What every back end can do, and the one that hands a run to another launcher of Dagster.

Dagster's monitor calls a run failed when a health check says "unknown" or "not found", even for a moment. So a back end
that cannot be reached raises, which leaves the run alone until the next check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import dagster as dg

from deer_reid_pipeline.launcher.dagster_private import (
    CheckRunHealthResult,
    DagsterInstance,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from deer_reid_pipeline.launcher.errors import LauncherError
from deer_reid_pipeline.launcher.leases import Lease
from deer_reid_pipeline.launcher.records import WorkerRecord


class BackEnd(Protocol):
    """Starts, watches and ends the workers of runs."""

    name: str
    chooses_cards: bool
    """Whether a cluster behind it chooses the card, so that none is leased here."""

    def launch(self, context: LaunchRunContext, record: WorkerRecord, held: int) -> None:
        """Start the worker. `held` is the descriptor of the run's lock, which the caller closes afterwards."""

    def terminate(self, run: dg.DagsterRun, record: WorkerRecord | None) -> bool:
        """Begin to end the worker; False where that cannot be done from here."""

    def health(self, run: dg.DagsterRun, record: WorkerRecord) -> CheckRunHealthResult:
        """RUNNING, SUCCESS, or FAILED once nothing of the run is left alive; raises where it cannot tell."""

    def debug_info(self, run: dg.DagsterRun, record: WorkerRecord, logs: bool) -> str | None:
        """What a person wants to read about a worker that is gone."""

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is still used; also true where that cannot be told."""

    def join(self, timeout: int) -> None:
        """Wait for the workers that this process started."""

    def dispose(self) -> None:
        """Forget what this process started, and end none of it."""


class DelegatedBackEnd:
    """Another launcher of Dagster as a back end.

    Args:
        chooses_cards: as in `BackEnd`.
        uses_card: whether the worker of a run id still uses its card, where cards are leased here; may raise.
    """

    def __init__(
        self,
        name: str,
        launcher: RunLauncher[DagsterInstance],
        *,
        chooses_cards: bool = False,
        uses_card: Callable[[str], bool] | None = None,
    ) -> None:
        self.name = name
        self.launcher = launcher
        self.chooses_cards = chooses_cards
        self._uses_card = uses_card

    def launch(self, context: LaunchRunContext, record: WorkerRecord, held: int) -> None:
        self.launcher.launch_run(context)

    def terminate(self, run: dg.DagsterRun, record: WorkerRecord | None) -> bool:
        return bool(self.launcher.terminate(run.run_id))

    def health(self, run: dg.DagsterRun, record: WorkerRecord) -> CheckRunHealthResult:
        if not self.launcher.supports_check_run_worker_health:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"{type(self.launcher).__name__} tells nothing of it")
        result = self.launcher.check_run_worker_health(run)
        if result.status is WorkerStatus.UNKNOWN:
            raise LauncherError(f"{self.name} cannot say how run {run.run_id} is: {result.msg}; it is asked again")
        return result

    def debug_info(self, run: dg.DagsterRun, record: WorkerRecord, logs: bool) -> str | None:
        return self.launcher.get_run_worker_debug_info(run, include_container_logs=logs)

    def holds(self, lease: Lease) -> bool:
        if self._uses_card is None:
            return True
        try:
            return self._uses_card(lease.run_id)
        except Exception:  # whatever its client raises: a worker that cannot be reached may still use its card
            return True

    def join(self, timeout: int) -> None:
        self.launcher.join(timeout)

    def dispose(self) -> None:
        self.launcher.dispose()
