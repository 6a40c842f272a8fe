"""What the daemon did, read from Dagster's own storage: runs, ticks and freshness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
import pytest

from deer_reid_pipeline_tests.e2e.runs import Home

OPEN = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


@dataclass(frozen=True)
class SeenRun:
    """A run: times are those of the site's clock, None where it did not come to that."""

    run_id: str
    job: str
    status: str
    partition: str | None
    run_key: str | None
    folder: str | None
    night: str | None
    reason: str | None
    created: datetime
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class SeenTick:
    """A tick of a sensor or schedule: when it was due, how it ended, why it requested nothing."""

    at: datetime
    status: str
    skipped: str | None
    runs: Sequence[str]
    error: str | None


class Seen:
    """Looks into the Dagster instance of a running installation."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def runs(self, job: str | None = None) -> list[SeenRun]:
        """All runs (of a job), oldest first."""
        found = self._instance.get_run_records(dg.RunsFilter(job_name=job), ascending=True)
        return [
            SeenRun(
                run_id=record.dagster_run.run_id,
                job=record.dagster_run.job_name,
                status=record.dagster_run.status.value,
                partition=record.dagster_run.tags.get("dagster/partition"),
                run_key=record.dagster_run.tags.get("dagster/run_key"),
                folder=record.dagster_run.tags.get("deer_reid/folder"),
                night=record.dagster_run.tags.get("deer_reid/night"),
                reason=record.dagster_run.tags.get("deer_reid/reason"),
                created=record.create_timestamp.replace(tzinfo=UTC),
                started=_moment(record.start_time),
                ended=_moment(record.end_time),
            )
            for record in found
        ]

    def open_runs(self) -> set[str]:
        """Statuses of the runs that have not ended."""
        return {run.status.value for run in self._instance.get_runs(dg.RunsFilter(statuses=list(OPEN)))}

    def ticks(self, name: str, after: datetime | None = None) -> list[SeenTick]:
        """Ticks that have ended, oldest first."""
        found: list[SeenTick] = []
        for state in self._instance.all_instigator_state():
            if state.name != name:
                continue
            for tick in self._instance.get_ticks(
                state.instigator_origin_id, state.selector_id, after=after.timestamp() if after else None
            ):
                if tick.status.value != "STARTED":
                    said = tick.error.message if tick.error is not None else None
                    at = datetime.fromtimestamp(tick.timestamp, UTC)
                    found.append(SeenTick(at, tick.status.value, tick.skip_reason, tuple(tick.run_ids), said))
        return sorted(found, key=lambda tick: tick.at)

    def freshness(self, *assets: str) -> dict[str, str]:
        """PASS, WARN, FAIL or UNKNOWN of each asset, as the daemon recorded it; absent where it recorded nothing."""
        keys = [dg.AssetKey(asset) for asset in assets]
        found = self._instance.get_freshness_state_records(keys)
        return {key.to_user_string(): str(record.freshness_state.value) for key, record in found.items()}


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


@contextmanager
def seen_at(home: Home) -> Iterator[Seen]:
    """The instance of a home, opened in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.environment().items():
            if name.startswith(("DEER_REID_", "DAGSTER_")):
                patch.setenv(name, value)
        for name in ("DATABASE_URL", "DEER_REID_DAGSTER_DATABASE_URL"):
            patch.delenv(name, raising=False)
        with dg.DagsterInstance.from_config(str(home.folder / "dagster")) as instance:
            yield Seen(instance)
