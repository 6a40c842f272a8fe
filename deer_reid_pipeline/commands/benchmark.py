"""`benchmark`: how fast this installation is on this machine, and a night's work in a home of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deer_reid_pipeline.commands.common import Json, RecipeName, Verbose, emit, ready_site
from deer_reid_pipeline.errors import DeerReidError, Interrupted
from deer_reid_pipeline.terminal import Console, Progress

if TYPE_CHECKING:
    from deer_reid_pipeline.steps.site import Site

NIGHT_MEGAPIXELS = 1.23
"""1280 x 960 pixels, the size that `deer-reid sample` draws."""

LEFT_NOTHING = (
    "stopped: nothing was reported, the temporary pictures and databases are removed, and this home's data are as they "
    "were; running the command again begins anew"
)


def benchmark(
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe to measure: original, reference, lite, mobile, or the name or id of a stored one; default: "
            "the live one of this home, else DEER_REID_RECIPE."
        ),
    ] = "",
    pictures: Annotated[int, typer.Option(min=1, help="Detections to measure on, evenly spaced over all.")] = 100,
    drawn: Annotated[
        bool, typer.Option("--drawn", help="Measure on drawn pictures, even where the home has its own.")
    ] = False,
    megapixels: Annotated[
        list[float] | None,
        typer.Option(help="Size of drawn pictures; can be given again. Default: 0.2 (512 pixels wide) and 12."),
    ] = None,
    ahead: Annotated[
        int | None,
        typer.Option(min=0, help="Pictures that the engine settles for; 0 takes what was measured here before."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each figure is measured; default: 3.")] = None,
    starts: Annotated[
        bool, typer.Option("--starts/--no-starts", help="Measure how long the first picture waits.")
    ] = True,
    night: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Draw so many pictures (about 2 GB of disk for 5000), and process them in a home of their own, which "
            "is removed afterwards.",
        ),
    ] = None,
    fallback: Annotated[
        RecipeName | None, typer.Option(help="Recipe to measure where the chosen one's weights cannot be had.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure speed and memory on this machine: stages apart, end to end, beside its floor and a plain loop.

    Run it while nothing else runs. The home's pictures and identities stay as they are.
    """
    from deer_reid_pipeline.defs.launchpad import checked
    from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig
    from deer_reid_pipeline.steps.benchmark.subject import name_or_fallback

    started = time.perf_counter()
    console = Console(as_json)
    if night is not None and len(megapixels or []) > 1:
        raise DeerReidError("--night draws pictures of one size: give --megapixels once")
    options: dict[str, Any] = {"pictures": pictures, "drawn": drawn, "starts": starts}
    options |= {"megapixels": megapixels} if megapixels else {}
    options |= {"ahead": ahead} if ahead is not None else {}
    options |= {"rounds": rounds} if rounds is not None else {}
    settings = checked(BenchmarkConfig, options).model_dump(mode="json")
    try:
        site = ready_site(console, may_begin=True)
        name, why = name_or_fallback(site, recipe, fallback.value if fallback else None)
        if why:
            console.say(why)
        if night is not None:
            found = _night(site, night, (megapixels or [NIGHT_MEGAPIXELS])[0], name, console, verbose)
        else:
            found = _benchmark(site, {**settings, "recipe": name}, console, verbose)
    except KeyboardInterrupt as error:
        raise Interrupted(LEFT_NOTHING) from error
    emit(as_json, found | {"total_seconds": round(time.perf_counter() - started, 3)})
    if found.get("failures"):
        raise typer.Exit(1)


def _benchmark(site: Site, settings: dict[str, Any], console: Console, verbose: bool) -> dict[str, Any]:
    from deer_reid_pipeline.defs.in_process import run_job
    from deer_reid_pipeline.steps.benchmark.files import DATA
    from deer_reid_pipeline.steps.benchmark.stored import criteria_lines
    from deer_reid_pipeline.store.reports import BENCHMARK, GPU_MEMORY, report_of_run

    console.say("Measuring. This takes minutes; the first time longer, because ways of computing are compared.")
    config = {
        "ops": {
            "benchmark_report": {"config": settings},
            "gpu_memory_report": {"config": {"recipe": settings["recipe"]}},
        }
    }
    with Progress(console):
        outcome = run_job("benchmark_job", config=config, verbose=verbose)
    if not outcome.success:
        raise DeerReidError(f"not measured: {outcome.error}")
    with site.database.session() as session:
        row, card = (report_of_run(session, kind, outcome.run_id) for kind in (BENCHMARK, GPU_MEMORY))
        if row is None or card is None:
            raise DeerReidError(f"run {outcome.run_id} stored no report; its log is in the UI (`deer-reid serve`)")
        page, memory = Path(str(row.summary["report"])), dict(card.summary)
    # The file keeps the order of the stages, which the database does not.
    found = json.loads((page.parent / DATA).read_text(encoding="utf-8")) | {"report": str(page)}
    console.say(found["in_words"])
    for line in found["warnings"]:
        console.say(f"Note: {line}")
    for stage, each in found["stages"].items():
        console.say(f"  {stage}: {each['milliseconds']:.2f} ms a crop, {each['of_floor']:.0%} of the floor's time")
    console.say("The owner's criteria that concern speed:")
    for line in criteria_lines(found["owner"]):
        console.say(f"  {line}")
    console.say(memory["in_words"])
    console.say(f"Report: {found['report']}")
    return found | {"gpu_memory": memory, "run": outcome.run_id}


def _night(
    site: Site, pictures: int, megapixels: float, recipe: str, console: Console, verbose: bool
) -> dict[str, Any]:
    from deer_reid_pipeline.defs.performance.night import run_night
    from deer_reid_pipeline.steps.benchmark.pictures import size_of
    from deer_reid_pipeline.steps.benchmark.stored import criteria_lines

    with Progress(console):
        found = run_night(site, pictures, size_of(megapixels), recipe, console.say, verbose)
    console.say(found["in_words"])
    for line in found["failures"]:
        console.say(f"Failure: {line}")
    for step, seconds in found["steps"].items():
        console.say(f"  {step}: {seconds:.1f} s, {seconds / found['seconds']:.0%}")
    for line in criteria_lines(found["owner"]):
        console.say(f"  {line}")
    console.say(f"Report: {found['report']}")
    return found
