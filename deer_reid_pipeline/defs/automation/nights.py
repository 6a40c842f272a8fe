"""When in the night each kind of work begins, and how a run is tied to its night.

A night is named by the local date of the tick, so that a clock set an hour forward or back, a restarted daemon or a
moved night neither doubles nor loses one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.errors import DatabaseError, DeerReidError
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import lost_connection

NIGHT_TAG = "deer_reid/night"
"""On every run that the night requests: its date. dagster.yaml lets one run with this tag run at a time."""

REASON_TAG = "deer_reid/reason"
"""Why a run of the night was requested, in words."""

LONGEST_TAG = 200

SCHEDULED_TAG = "dagster/scheduled_execution_time"
PARTITION_TAG = "dagster/partition"
SUNDAY = "0"

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def cron(night_start: str, after: timedelta, weekday: str = "*") -> str:
    """Cron expression of a time after the night's start, every day or on one day of the week.

    Args:
        night_start: HH:MM.
        weekday: 0 is Sunday. A time past midnight belongs to the day that it falls on.
    """
    hour, minute = (int(part) for part in night_start.split(":"))
    at = (hour * 60 + minute + int(after.total_seconds() // 60)) % (24 * 60)
    return f"{at % 60} {at // 60} * * {weekday}"


def night_of(due: datetime, timezone: str) -> str:
    """The night that a tick belongs to: the local date on which it is due."""
    return due.astimezone(ZoneInfo(timezone)).date().isoformat()


def taken(
    instance: dg.DagsterInstance, job: str, night: str, due: datetime, partition: str | None = None
) -> str | None:
    """Why a tick requests no run although there is something to do; None where it may.

    Another run of the job (and partition) is not finished, or another tick of the same night has requested one. A tick
    that is repeated because the daemon died during it finds its own run by the run key: Dagster sees to that.
    """
    tags = {PARTITION_TAG: partition} if partition else {}
    own = due.astimezone(UTC).isoformat()
    of = f" of {partition}" if partition else ""
    for run in instance.get_runs(dg.RunsFilter(job_name=job, tags=tags, statuses=UNFINISHED)):
        if run.tags.get(SCHEDULED_TAG) != own:
            return f"run {run.run_id[:8]}{of} is not finished yet"
    for run in instance.get_runs(dg.RunsFilter(job_name=job, tags={**tags, NIGHT_TAG: night})):
        if run.tags.get(SCHEDULED_TAG) != own:
            return f"run {run.run_id[:8]}{of} was requested in the night of {night} already"
    return None


def working(instance: dg.DagsterInstance, due: datetime) -> str | None:
    """A run of any job that waits or works, other than this tick's own, in words; None where there is none."""
    own = due.astimezone(UTC).isoformat()
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        if run.tags.get(SCHEDULED_TAG) != own:
            return f"run {run.run_id[:8]} of {run.job_name} is not finished"
    return None


def last_made(instance: dg.DagsterInstance, asset: str) -> datetime | None:
    """When an asset was last materialized; None: never."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    return None if event is None else datetime.fromtimestamp(event.timestamp, UTC)


def last_done(instance: dg.DagsterInstance, job: str) -> datetime | None:
    """When a run of a job last ended well; None: none did that is kept."""
    done = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
    ended = [record.end_time for record in instance.get_run_records(done, limit=1)]
    return datetime.fromtimestamp(ended[0], UTC) if ended and ended[0] is not None else None


@contextmanager
def opened(site: SiteResource) -> Iterator[Site]:
    """The installation for the length of one tick.

    Raises:
        DeerReidError: it cannot be opened, or its server went away; one line, without what caused it, so that the
            tick shows that line.
    """
    found: Site | None = None
    try:
        found = site.site
        yield found
    except DeerReidError as error:
        raise type(error)(str(error)) from None
    except Exception as error:
        said = lost_connection(error)
        if said is None:
            raise
        raise DatabaseError(f"the database went away: {said}; the tick is repeated") from None
    finally:
        if found is not None:
            found.database.close()  # a tick's connections would stay open in the code server
