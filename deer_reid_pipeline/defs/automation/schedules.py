"""The night's schedules. Each asks the store whether there is anything to do, and says why not where there is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from deer_reid_pipeline.defs.automation import nights
from deer_reid_pipeline.defs.automation.pruning import prunable, prune_history_job
from deer_reid_pipeline.defs.jobs import reembedding_job, tuning_job, validation_job
from deer_reid_pipeline.defs.monitoring.assets import fp_monitoring_job
from deer_reid_pipeline.defs.performance.assets import benchmark_job
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.defs.workers import close_dead_runs
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps import nightly
from deer_reid_pipeline.steps.nightly import Decision
from deer_reid_pipeline.steps.site import Site

Decide = Callable[[Site, dg.DagsterInstance, datetime], Decision]


@dataclass(frozen=True)
class NightWork:
    """One kind of nightly work.

    Attributes:
        after: when it begins, after the night's start. Runs wait for each other all the same, see dagster.yaml.
        decide: whether there is anything to do, from the open installation, Dagster's instance and the tick's time.
        weekday: 0 (Sunday) to 6, or * for every day.
    """

    name: str
    job: Any
    after: timedelta
    decide: Decide
    description: str
    weekday: str = "*"


WORK = (
    NightWork(
        "reembedding_schedule",
        reembedding_job,
        timedelta(),
        lambda site, instance, now: nightly.reembedding(site, now, nights.last_done(instance, reembedding_job.name)),
        "Every night: embed what lacks vectors under the live recipe, and bring profiles up to date.",
    ),
    NightWork(
        "fp_monitoring_schedule",
        fp_monitoring_job,
        timedelta(hours=1),
        lambda site, instance, now: nightly.monitoring(site, now, nights.last_made(instance, "false_positive_report")),
        "Every night: report the finished days with machine matches that have no report.",
    ),
    NightWork(
        "validation_schedule",
        validation_job,
        timedelta(hours=1, minutes=30),
        lambda site, instance, now: nightly.validation(site, now, nights.last_made(instance, "validation_report")),
        "Every night: judge what is live, when what it is judged on changed.",
    ),
    NightWork(
        "tuning_schedule",
        tuning_job,
        timedelta(hours=3),
        lambda site, _instance, _now: nightly.tuning(site),
        "Every night: fit thresholds and weights, when what they are fitted to changed. Live only on a PASS.",
    ),
    NightWork(
        "benchmark_schedule",
        benchmark_job,
        timedelta(hours=4, minutes=30),
        lambda site, instance, now: nightly.benchmark(
            site, now, nights.last_made(instance, "benchmark_report"), nights.working(instance, now)
        ),
        "Every Sunday: measure speed and memory on this machine, when nothing else runs.",
        nights.SUNDAY,
    ),
    NightWork(
        "pruning_schedule",
        prune_history_job,
        timedelta(hours=6),
        lambda site, instance, now: prunable(site, instance, now),
        "Every Sunday: delete logs of old runs and files of old reports that nothing rests on.",
        nights.SUNDAY,
    ),
)


def night_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules of a site, in its time zone; they run unless someone switches them off."""
    return [_schedule(work, settings.night_start, settings.timezone) for work in WORK]


def _schedule(work: NightWork, night_start: str, timezone: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=work.name,
        job=work.job,
        cron_schedule=nights.cron(night_start, work.after, work.weekday),
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=work.description,
    )
    def evaluate(context: dg.ScheduleEvaluationContext, site: SiteResource) -> dg.SkipReason | Sequence[dg.RunRequest]:
        instance, due = context.instance, context.scheduled_execution_time
        night = nights.night_of(due, timezone)
        close_dead_runs(instance, from_code_server=True)
        with nights.opened(site) as found:
            decision = work.decide(found, instance, due)
        if not decision.needed:
            return dg.SkipReason(decision.reason)
        context.log.info(decision.reason)
        busy: list[str] = []
        requests = []
        partitions: list[str | None] = [day.isoformat() for day in decision.days]
        for partition in partitions or [None]:
            other = nights.taken(instance, work.job.name, night, due, partition)
            if other is None:
                requests.append(_request(night, partition, decision.reason))
            else:
                busy.append(other)
        return requests or dg.SkipReason("; ".join(busy))

    return evaluate


def _request(night: str, partition: str | None, reason: str) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=night if partition is None else f"{night}/{partition}",
        partition_key=partition,
        tags={nights.NIGHT_TAG: night, nights.REASON_TAG: reason[: nights.LONGEST_TAG]},
    )
