"""When the night's schedules tick, over days on which clocks are set, and what one tick requests."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from deer_reid_pipeline.definitions import defs
from deer_reid_pipeline.defs.automation import nights
from deer_reid_pipeline.defs.automation.schedules import WORK, NightWork, night_schedules
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.nightly import Decision
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline_tests.defs.automation.dagster_testing import (
    clock,
    end_well,
    serializable_error_info_from_exc_info,
    ticks,
)

REPOSITORY = defs.get_repository_def()
NIGHTLY = [work.name for work in WORK if work.weekday == "*"]


class AnySite(SiteResource):
    """A site for decisions that do not look at it: it can be closed, and nothing else."""

    @property
    def site(self) -> Site:
        return SimpleNamespace(database=SimpleNamespace(close=lambda: None))  # type: ignore[return-value]


class LostSite(SiteResource):
    """A site whose server is away."""

    @property
    def site(self) -> Site:
        try:
            raise OperationalError("SELECT 1", {}, Exception("connection refused"))
        except OperationalError as error:
            raise DatabaseError("the database cannot be used: connection refused; start the server") from error


def settings_of(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)  # type: ignore[call-arg]


def schedules(decide: Any = None, **changes: Any) -> dict[str, dg.ScheduleDefinition]:
    """The site's schedules by name; with `decide` in place of what asks the store."""
    from deer_reid_pipeline.defs.automation import schedules as module

    if decide is None:
        return {item.name: item for item in night_schedules(settings_of(**changes))}
    settings = settings_of(**changes)
    return {
        work.name: module._schedule(
            NightWork(work.name, work.job, work.after, decide, work.description, work.weekday),
            settings.night_start,
            settings.timezone,
        )
        for work in WORK
    }


def always(*days: date) -> Any:
    return lambda site, instance, now: Decision(True, "there is something to do", days)


def evaluate(
    schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance, at: datetime, site: SiteResource | None = None
) -> Any:
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=at,
        resources={"site": site or AnySite()},
        repository_def=REPOSITORY,
    ) as context:
        return schedule.evaluate_tick(context)


@dg.op
def nothing() -> None: ...


def launch(
    instance: dg.DagsterInstance,
    job: str,
    request: dg.RunRequest,
    at: datetime,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS,
) -> str:
    """The run that the daemon makes of a request, without running it."""

    @dg.job(name=job)
    def stub() -> None:
        nothing()

    run_id = str(uuid.uuid4())
    tags = {**request.tags, nights.SCHEDULED_TAG: at.astimezone(UTC).isoformat()}
    instance.create_run_for_job(stub, run_id=run_id, tags=tags, status=status)
    return run_id


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as made:
        yield made


@pytest.mark.parametrize(
    ("zone", "begin", "shift"),
    [
        ("Europe/Berlin", date(2025, 3, 28), timedelta(hours=1)),
        ("Europe/Berlin", date(2025, 10, 24), timedelta(hours=-1)),
        ("America/Chicago", date(2025, 3, 7), timedelta(hours=1)),
        ("America/Chicago", date(2025, 10, 31), timedelta(hours=-1)),
    ],
)
@pytest.mark.parametrize("start", ["01:00", "23:00"])
def test_every_night_happens_once_when_clocks_are_set(
    zone: str, begin: date, shift: timedelta, start: str, instance: dg.DagsterInstance
) -> None:
    found = schedules(always(), timezone=zone, night_start=start)
    first = datetime(begin.year, begin.month, begin.day, tzinfo=ZoneInfo(zone))
    end = first + timedelta(days=5)
    assert (end.utcoffset() or timedelta()) - (first.utcoffset() or timedelta()) == shift
    expected = [(begin + timedelta(days=n)).isoformat() for n in range(5)]
    for name in NIGHTLY:
        requested = []
        for at in ticks(found[name], first, end):
            data = evaluate(found[name], instance, at)
            for request in data.run_requests:
                requested.append(request.run_key)
                launch(instance, found[name].job_name, request, at)
        assert requested == expected, name


def test_the_night_begins_where_a_site_puts_it_and_the_rest_follows() -> None:
    found = schedules(timezone="Europe/Berlin", night_start="22:45")
    assert {name: item.cron_schedule for name, item in found.items()} == {
        "reembedding_schedule": "45 22 * * *",
        "fp_monitoring_schedule": "45 23 * * *",
        "validation_schedule": "15 0 * * *",
        "tuning_schedule": "45 1 * * *",
        "benchmark_schedule": "15 3 * * 0",
        "pruning_schedule": "45 4 * * 0",
    }
    assert {item.execution_timezone for item in found.values()} == {"Europe/Berlin"}


def test_schedules_and_sensors_run_without_being_switched_on() -> None:
    for schedule in REPOSITORY.schedule_defs:
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING, schedule.name
    for sensor in REPOSITORY.sensor_defs:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING, sensor.name
    assert {item.name for item in REPOSITORY.schedule_defs} == {work.name for work in WORK}


AT = datetime(2025, 4, 2, 1, tzinfo=ZoneInfo("Europe/Berlin"))


def test_a_tick_that_the_daemon_repeats_requests_the_same_run(instance: dg.DagsterInstance) -> None:
    schedule = schedules(always(), timezone="Europe/Berlin")["reembedding_schedule"]
    (request,) = evaluate(schedule, instance, AT).run_requests
    assert request.run_key == "2025-04-02"
    assert request.tags[nights.NIGHT_TAG] == "2025-04-02"
    assert request.tags[nights.REASON_TAG] == "there is something to do"
    launch(instance, "reembedding_job", request, AT, dg.DagsterRunStatus.NOT_STARTED)
    (again,) = evaluate(schedule, instance, AT).run_requests
    assert again.run_key == request.run_key, "Dagster finds its own run by the run key, and starts it"


def test_a_moved_night_is_not_doubled_and_a_run_that_goes_on_is_not_joined(instance: dg.DagsterInstance) -> None:
    schedule = schedules(always(), timezone="Europe/Berlin")["reembedding_schedule"]
    (request,) = evaluate(schedule, instance, AT).run_requests
    run_id = launch(instance, "reembedding_job", request, AT)
    later = evaluate(schedule, instance, AT + timedelta(hours=3))
    assert later.run_requests == []
    assert later.skip_message == f"run {run_id[:8]} was requested in the night of 2025-04-02 already"

    (request,) = evaluate(schedule, instance, AT + timedelta(days=1)).run_requests
    long = launch(instance, "reembedding_job", request, AT + timedelta(days=1), dg.DagsterRunStatus.STARTED)
    third = evaluate(schedule, instance, AT + timedelta(days=2))
    assert third.skip_message == f"run {long[:8]} is not finished yet"


def test_each_missed_day_is_a_run_of_its_partition(instance: dg.DagsterInstance) -> None:
    days = (date(2025, 3, 30), date(2025, 4, 1))
    schedule = schedules(always(*days), timezone="Europe/Berlin")["fp_monitoring_schedule"]
    requests = evaluate(schedule, instance, AT).run_requests
    assert [request.partition_key for request in requests] == ["2025-03-30", "2025-04-01"]
    assert [request.run_key for request in requests] == ["2025-04-02/2025-03-30", "2025-04-02/2025-04-01"]
    waits = launch(instance, "fp_monitoring_job", requests[0], AT, dg.DagsterRunStatus.STARTED)
    (left,) = evaluate(schedule, instance, AT + timedelta(days=1)).run_requests
    assert left.partition_key == "2025-04-01"
    launch(instance, "fp_monitoring_job", left, AT + timedelta(days=1), dg.DagsterRunStatus.STARTED)
    both = evaluate(schedule, instance, AT + timedelta(days=2))
    assert f"run {waits[:8]} of 2025-03-30 is not finished yet" in both.skip_message


def test_a_benchmark_waits_for_any_other_run(instance: dg.DagsterInstance) -> None:
    request = dg.RunRequest(tags={})
    run_id = launch(instance, "process_drop_job", request, AT, dg.DagsterRunStatus.STARTED)
    assert nights.working(instance, AT + timedelta(hours=1)) == (
        f"run {run_id[:8]} of process_drop_job is not finished"
    )
    assert nights.working(instance, AT) is None, "its own"


def test_a_job_was_last_done_when_a_run_of_it_ended_well(instance: dg.DagsterInstance) -> None:
    for days, job in enumerate(("reembedding_job", "process_drop_job", "reembedding_job")):
        run_id = launch(instance, job, dg.RunRequest(tags={}), AT)
        end_well(instance, run_id, AT + timedelta(days=days))
        if days == 1:
            assert nights.last_done(instance, "reembedding_job") == AT
    launch(instance, "reembedding_job", dg.RunRequest(tags={}), AT, dg.DagsterRunStatus.FAILURE)
    assert nights.last_done(instance, "reembedding_job") == AT + timedelta(days=2)
    assert nights.last_done(instance, "tuning_job") is None


def test_a_drop_a_day_does_not_put_off_the_weekly_re_embedding(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = launch(instance, "reembedding_job", dg.RunRequest(tags={}), AT)
    end_well(instance, run_id, AT)
    with clock(AT + timedelta(days=6)):
        instance.report_runless_asset_event(dg.AssetMaterialization("deer_profiles"))
    asked: list[datetime | None] = []

    def decide(site: Site, now: datetime, last: datetime | None) -> Decision:
        asked.append(last)
        return Decision(False, "asked")

    monkeypatch.setattr("deer_reid_pipeline.steps.nightly.reembedding", decide)
    evaluate(schedules(timezone="Europe/Berlin")["reembedding_schedule"], instance, AT + timedelta(days=7))
    assert asked == [AT]


def error_of(schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance, site: SiteResource) -> Any:
    """What the tick shows below Dagster's own line."""
    try:
        evaluate(schedule, instance, AT, site)
    except dg.DagsterError:
        return serializable_error_info_from_exc_info(sys.exc_info()).cause
    raise AssertionError("the tick did not fail")


@pytest.mark.parametrize("name", [work.name for work in WORK])
def test_an_unreachable_database_fails_the_tick_with_one_line(name: str, instance: dg.DagsterInstance) -> None:
    schedule = schedules(timezone="Europe/Berlin")[name]
    shown = error_of(schedule, instance, LostSite())
    assert shown.message.strip().endswith("the database cannot be used: connection refused; start the server")
    assert (shown.cause, shown.context) == (None, None), "no page of what caused it"


def test_a_server_that_goes_away_during_the_tick_fails_it_with_one_line(instance: dg.DagsterInstance) -> None:
    def lost(site: Any, instance: Any, now: Any) -> Decision:
        raise OperationalError("SELECT secret", {"key": "value"}, Exception("server closed the connection\nabruptly"))

    schedule = schedules(lost, timezone="Europe/Berlin")["tuning_schedule"]
    shown = error_of(schedule, instance, AnySite())
    assert shown.message.strip().endswith(
        "the database went away: server closed the connection abruptly; the tick is repeated"
    )
    assert (shown.cause, shown.context) == (None, None)
