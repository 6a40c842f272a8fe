"""A night's work, run by the same Dagster job that the UI shows, in a home that is removed afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from deer_reid_pipeline.defs.in_process import RunOutcome, run_job
from deer_reid_pipeline.defs.instance import prepare_instance
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.benchmark.machine import other_work
from deer_reid_pipeline.steps.benchmark.night import Processed, draw_night, night_of, own_home, write_night
from deer_reid_pipeline.steps.benchmark.scratch import scratch_folder
from deer_reid_pipeline.steps.benchmark.subject import built_in_name
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import connect
from deer_reid_pipeline.store.migrate import upgrade

SEALING = "seal the drop"


def run_night(
    site: Site,
    pictures: int,
    size: tuple[int, int],
    recipe: str,
    say: Callable[[str], None],
    verbose: bool = False,
) -> dict[str, Any]:
    """Draw pictures, process them in a home of their own, and write the report into the real one; returns its figures.

    Whatever happens, the other home is removed, its database server included.

    Args:
        pictures: at least so many.
        recipe: name or id; a fine-tuned one is measured by the built-in one that it was made from.

    Raises:
        DeerReidError: the recipe lacks its weights, or the report cannot be written. A job that fails is reported.
    """
    load, made_at = other_work(), datetime.now(UTC)
    built_in = built_in_name(site, recipe)
    with scratch_folder(site.settings.home, "night") as folder, own_home(site.settings, folder, built_in):
        say(f"drawing {pictures} pictures of {size[0]} x {size[1]} pixels in {folder}")
        start = time.perf_counter()
        drawn = draw_night(folder / "herd", pictures, size)
        drawing = time.perf_counter() - start
        settings = load_settings()
        database = connect(settings)
        try:
            upgrade(database.url)
            prepare_instance(settings, database.dagster_url)
            own = Site(settings, database)
            matcher = own.matcher()
            say(f"processing {drawn.pictures} pictures: {matcher.describe()}")
            processed = _process(own, drawn.folder, verbose)
            say("measuring floor and plain loop on some of the pictures")
            night = night_of(
                own,
                processed,
                made_at=made_at,
                asked=pictures,
                drawn=drawn,
                size=size,
                drawing=drawing,
                load=load,
            )
        finally:
            database.close()
    return write_night(site.settings.home, night)


def _process(site: Site, folder: Any, verbose: bool) -> Processed:
    start = time.perf_counter()
    report(SEALING, 0, 1)
    drop = register_drop(site, folder, site.settings.detector)
    sealed = time.perf_counter() - start
    report(SEALING, 1, 1)
    outcome = run_job("process_drop_job", partition_key=drop.key, verbose=verbose)
    seconds = time.perf_counter() - start
    return Processed(drop.key, outcome.error, seconds, {SEALING: sealed, **_step_seconds(outcome)})


def _step_seconds(outcome: RunOutcome) -> dict[str, float]:
    """Step -> seconds, in the order in which they began."""
    with dg.DagsterInstance.get() as instance:
        stats = [item for item in instance.get_run_step_stats(outcome.run_id) if item.start_time and item.end_time]
    return {
        item.step_key: (item.end_time or 0.0) - (item.start_time or 0.0)
        for item in sorted(stats, key=lambda item: item.start_time or 0.0)
    }
