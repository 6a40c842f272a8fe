"""Fourteen nights at once: every tick of the real schedules and automation, as things change by day.

Runs are recorded and not executed; what each leaves in the store and in Dagster's log is written in its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from deer_reid_pipeline.definitions import defs
from deer_reid_pipeline.defs.automation.upkeep import FOLLOWERS, kept_up
from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.steps.monitoring import report_day
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.media import detections_without_vectors
from deer_reid_pipeline.store.reports import TUNING, VALIDATION
from deer_reid_pipeline_tests.defs.automation.dagster_testing import clock, end_well, ticks
from deer_reid_pipeline_tests.defs.automation.test_nights import evaluate, launch, schedules, settings_of
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.labelled_rows import Shot, add_vectors, store_shots
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.monitored import Herd
from deer_reid_pipeline_tests.steps.test_nightly import keep_report, live_recipe, named_later, unnamed
from deer_reid_pipeline_tests.steps.test_validation import herd, looks

BERLIN = ZoneInfo("Europe/Berlin")
BEGIN = datetime(2025, 3, 23, 12, tzinfo=BERLIN)
END = datetime(2025, 4, 6, 12, tzinfo=BERLIN)
AWAY = (datetime(2025, 3, 27, 18, tzinfo=BERLIN), datetime(2025, 3, 29, 18, tzinfo=BERLIN))
"""When the daemon was not running; in its last night but one clocks are set an hour forward."""

MADE_BY = {
    "reembedding_job": ("deer_profiles",),
    "validation_job": ("similarity_distribution", "validation_report", "assignment_report"),
    "tuning_job": ("similarity_distribution", "ensemble_weights", "match_threshold", "embedding_release"),
    "benchmark_job": ("benchmark_report",),
}


class Fortnight:
    """A site, the daemon's clock, and a record of what the nights asked for."""

    def __init__(self, site: Site, instance: dg.DagsterInstance) -> None:
        GivenSite.given = site
        self.site, self.instance = site, instance
        self.schedules = schedules(timezone="Europe/Berlin", night_start="01:00")
        assets = kept_up([*(defs.assets or ())], settings_of(timezone="Europe/Berlin"))
        self.defs = dg.Definitions(assets=assets, resources={"site": GivenSite()})
        self.requested: dict[str, set[tuple[str, str | None]]] = defaultdict(set)
        self.skipped: dict[tuple[str, str], str] = {}
        self.followed: dict[str, set[str]] = defaultdict(set)
        self._cursor: object = None
        self._herd: Herd | None = None

    def run(self, by_day: dict[date, Callable[[Fortnight, datetime], None]]) -> None:
        """Let the time pass: changes at noon, ticks when they are due, automation eight times a day."""
        events: list[tuple[datetime, int, Callable[[datetime], None]]] = []
        for day, change in by_day.items():
            at = datetime(day.year, day.month, day.day, 12, tzinfo=BERLIN)
            events.append((at, 0, lambda at, change=change: change(self, at)))  # type: ignore[misc]
        for name, schedule in self.schedules.items():
            missed = None
            for due in ticks(schedule, BEGIN, END):
                if AWAY[0] <= due < AWAY[1]:
                    missed = due
                else:
                    events.append((due, 1, lambda at, name=name: self.tick(name, at, at)))  # type: ignore[misc]
            if missed is not None:  # a daemon that comes back looks at the newest tick that it missed
                events.append((AWAY[1], 1, lambda at, name=name, due=missed: self.tick(name, due, at)))  # type: ignore[misc]
        at = BEGIN.astimezone(UTC) + timedelta(minutes=5)
        while at < END:
            if not AWAY[0] <= at < AWAY[1]:
                events.append((at, 2, self.follow))
            at += timedelta(hours=3)
        for at, _, happen in sorted(events, key=lambda event: (event[0].astimezone(UTC), event[1])):
            happen(at)

    def tick(self, name: str, due: datetime, at: datetime) -> None:
        """One tick, and what the runs that it requests leave behind."""
        schedule = self.schedules[name]
        data = evaluate(schedule, self.instance, due, GivenSite())
        night = due.astimezone(BERLIN).date().isoformat()
        if data.skip_message:
            self.skipped[night, name] = data.skip_message
        for request in data.run_requests:
            run_id = launch(self.instance, schedule.job_name, request, due)
            self.requested[night].add((schedule.job_name, request.partition_key))
            self.work(schedule.job_name, request.partition_key, at + timedelta(minutes=20))
            end_well(self.instance, run_id, at + timedelta(minutes=20))

    def work(self, job: str, partition: str | None, at: datetime) -> None:
        """What a run of the job would have left."""
        if job == "reembedding_job":
            self.embed()
        elif job == "fp_monitoring_job":
            assert partition is not None
            report_day(self.site, date.fromisoformat(partition))
            self.made("false_positive_report", at, partition)
        elif job in ("validation_job", "tuning_job"):
            keep_report(self.site, VALIDATION if job == "validation_job" else TUNING)
        for asset in MADE_BY.get(job, ()):
            self.made(asset, at)

    def made(self, asset: str, at: datetime, partition: str | None = None) -> None:
        """A materialization in Dagster's log."""
        with clock(at):
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))

    def follow(self, at: datetime) -> None:
        """One evaluation of the automation conditions; what they ask for is made at once."""
        result = dg.evaluate_automation_conditions(
            self.defs,
            self.instance,
            dg.AssetSelection.assets(*FOLLOWERS),
            evaluation_time=at,
            cursor=self._cursor,  # type: ignore[arg-type]
        )
        self._cursor = result.cursor
        for asset in FOLLOWERS:
            if result.get_num_requested(dg.AssetKey(asset)):
                self.followed[at.astimezone(BERLIN).strftime("%m-%d %H")].add(asset)
                self.made(asset, at + timedelta(minutes=1))

    def embed(self) -> None:
        """Vectors for whatever lacks them, and profiles."""
        recipe = self.site.matcher().recipe
        with self.site.database.session() as session:
            lacking = detections_without_vectors(session, recipe.id, BRANCHES)
        shots = [Shot(given="any", key=key) for key in lacking]
        if shots:
            add_vectors(self.site, lacking, recipe.id, looks(shots, signal=0.0, seed=len(self.requested)))
        update_profiles(self.site, recipe)

    def drop(self, at: datetime, *matched: date) -> None:
        """A drop was processed: machine matches on these days, everything embedded."""
        if self._herd is None:
            self._herd = Herd(self.site)
            self._herd.individual("N", "male")
        for day in matched:
            self._herd.meets("N", datetime(day.year, day.month, day.day, 6, tzinfo=UTC), decided=day)
        self.embed()
        self.instance.add_dynamic_partitions("image_drops", [f"drop-{at:%m%d}"])
        self.made("deer_matches", at, f"drop-{at:%m%d}")
        self.made("deer_profiles", at)


def first_drop(night: Fortnight, at: datetime) -> None:
    """Six animals that a person named, and one machine match."""
    shots = herd(individuals=6, encounters=2, seed=1)
    store_shots(night.site, shots, live_recipe(night.site), looks(shots, signal=4.0))
    night.drop(at, at.date())


def killed_drop(night: Fortnight, at: datetime) -> None:
    """A run died: two detections have no vectors."""
    unnamed(night.site, 2)


def matches(night: Fortnight, at: datetime) -> None:
    night.drop(at, at.date())


def naming(night: Fortnight, at: datetime) -> None:
    """A person named more pictures of the animals."""
    shots = named_later()
    store_shots(night.site, shots, live_recipe(night.site), looks(shots, signal=4.0))
    night.drop(at)


def other_release(night: Fortnight, at: datetime) -> None:
    """Another release of the same recipe became live."""
    query(night.site, "UPDATE releases SET live = false RETURNING 1")
    query(
        night.site,
        "INSERT INTO releases (recipe_id, policy, live, reason) SELECT recipe_id, policy, true, 'test' FROM releases "
        "RETURNING 1",
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as made:
        yield made


def test_a_fortnight(site: Site, instance: dg.DagsterInstance) -> None:
    night = Fortnight(site, instance)
    night.run(
        {
            date(2025, 3, 24): first_drop,
            date(2025, 3, 26): killed_drop,
            date(2025, 3, 27): matches,
            date(2025, 3, 28): matches,
            date(2025, 3, 29): matches,
            date(2025, 3, 30): naming,
            date(2025, 3, 31): other_release,
        }
    )
    judged = {("validation_job", None), ("tuning_job", None)}
    assert dict(night.requested) == {
        # Nothing lacks vectors, but no night has gone through the stored rows yet.
        "2025-03-25": {("reembedding_job", None), ("fp_monitoring_job", "2025-03-24"), *judged},
        "2025-03-27": {("reembedding_job", None)},
        # The daemon was away in the nights of the 28th and 29th, and makes up for them when it is back ...
        "2025-03-29": {("fp_monitoring_job", "2025-03-27"), ("fp_monitoring_job", "2025-03-28")},
        # ... and in the night that has no hour from two to three.
        "2025-03-30": {("fp_monitoring_job", "2025-03-29"), ("benchmark_job", None)},
        "2025-03-31": judged,
        "2025-04-01": judged,
        # A week after a night last did it, nothing having changed: drops meanwhile do not count for re-embedding.
        "2025-04-03": {("reembedding_job", None)},
        "2025-04-06": {("fp_monitoring_job", "2025-04-05"), ("benchmark_job", None)},
    }
    assert dict(night.followed) == {
        "03-25 06": {"ab_report"},
        "03-27 06": {"assignment_report"},
        "03-29 18": {"ab_report", "assignment_report"},
        "03-31 07": {"ab_report"},
        "04-03 07": {"assignment_report"},
    }
    names = {name for _, name in night.skipped}
    assert names == set(night.schedules) - {"benchmark_schedule"}, "it was due on both Sundays"
    assert {reason for (day, _), reason in night.skipped.items() if day == "2025-03-24"} == {
        "nothing was processed yet: no release is live"
    }
    assert night.skipped["2025-03-26", "reembedding_schedule"].startswith("every detection and profile has vectors of")
    assert night.skipped["2025-03-26", "fp_monitoring_schedule"] == (
        "the machine matched nothing on 2025-03-25 (UTC), and no earlier day lacks its report"
    )
    assert night.skipped["2025-03-26", "validation_schedule"] == (
        "nothing that release 1 is judged on changed since validation report 2"
    )
    assert night.skipped["2025-03-30", "pruning_schedule"].startswith("no run or report became older than 90 days")
    for name in ("reembedding_schedule", "validation_schedule", "tuning_schedule"):
        nights = {day for day, of in night.skipped if of == name} | {
            day
            for day, runs in night.requested.items()
            if any(job == night.schedules[name].job_name for job, _ in runs)
        }
        expected = {(date(2025, 3, 24) + timedelta(days=n)).isoformat() for n in range(14)} - {"2025-03-28"}
        assert nights == expected, "every night but the one that was made up for has its say"
