"""The command line: parse, call, print.

With `--json` the last line of standard output is one object and nothing else goes there. Errors are one line on
standard error and a non-zero exit.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from deer_reid_pipeline import __version__
from deer_reid_pipeline.commands.ab import app as ab_app
from deer_reid_pipeline.commands.backup import backup, restore
from deer_reid_pipeline.commands.benchmark import benchmark
from deer_reid_pipeline.commands.common import RESUME, Json, RecipeName, Verbose, check_port_is_free, emit, ready_site
from deer_reid_pipeline.commands.evaluation import tune, validate
from deer_reid_pipeline.commands.handover import export, import_package_command
from deer_reid_pipeline.commands.monitoring import cameras_app, monitor, review_app
from deer_reid_pipeline.commands.releases import app as release_app
from deer_reid_pipeline.commands.search import app as search_app
from deer_reid_pipeline.commands.training import train
from deer_reid_pipeline.errors import DeerReidError, Interrupted
from deer_reid_pipeline.terminal import Console, Progress, plain

app = typer.Typer(
    name="deer-reid",
    help="Trail-camera pictures in, identified deer out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DetectorOption = Annotated[
    str | None,
    typer.Option(
        "--detector",
        help="Who finds boxes: auto (the drop's own boxes, else an ONNX file in the weights folder, else the whole "
        "frame), none, onnx, megadetector, or the path of a YOLOX .onnx file. One that is named is also asked where "
        "the drop has boxes without identities.",
    ),
]


INTERRUPTED = 130
STOPPED = "stopped; running the command again goes on where it was"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command()
def init(
    fallback: Annotated[
        RecipeName | None,
        typer.Option(help="Recipe for a new home when the chosen one's weights cannot be had."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the home ready: database, migrations, weights, first release. Running it again changes nothing."""
    console = Console(as_json)
    site = ready_site(console, may_begin=True)
    matcher = _matcher(site, fallback, console)
    import dagster as dg

    from deer_reid_pipeline.defs.serving import forget_future_ticks

    with dg.DagsterInstance.get() as instance:
        forget_future_ticks(instance)
    console.say(f"Home {site.settings.home} is ready. {matcher.describe()}")
    emit(
        as_json,
        {
            "home": str(site.settings.home),
            "recipe": matcher.recipe.id,
            "release": matcher.release_id,
            "revision": site.database.revision(),
        },
    )


@app.command()
def process(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of pictures, with detections.json, observations.csv or a Camtrap DP package, or alone."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Write one row a detection to this CSV file.")] = None,
    detector: DetectorOption = None,
    fallback: Annotated[
        RecipeName | None,
        typer.Option(help="Recipe for a new home when the chosen one's weights cannot be had."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Identify the deer in a folder of pictures: stage it, run the Dagster job, print who was seen."""
    from deer_reid_pipeline.defs.in_process import run_job
    from deer_reid_pipeline.steps.drops import register_drop
    from deer_reid_pipeline.steps.summary import describe_drop, is_finished, seen_in_drop, summarize
    from deer_reid_pipeline.vision.detectors import open_detector

    started = time.perf_counter()
    console = Console(as_json)
    site = ready_site(console, may_begin=True)
    matcher = _matcher(site, fallback, console)
    console.say(matcher.describe())
    if detector is not None:
        open_detector(detector, site.settings.weight_search_dirs)  # a wrong name is said before anything is stored
    with Progress(console) as progress:
        drop = register_drop(site, folder, detector or site.settings.detector)
        finished = is_finished(site, drop.key)
        if not finished:
            outcome = run_job("process_drop_job", partition_key=drop.key, verbose=verbose)
            progress.stop()
            if not outcome.success:
                raise DeerReidError(f"drop {drop.key} was not finished: {outcome.error}. {RESUME}")
    about = describe_drop(site, drop.key)
    summary = summarize(site, drop.key)
    seen = seen_in_drop(site, drop.key)
    if output is not None:
        from deer_reid_pipeline.exports import write_results

        write_results(output, [item.row for item in seen])
    console.warnings(about.warnings, about.quarantined)
    console.who_was_seen(seen, summary, matcher, drop.key, time.perf_counter() - started)
    if output is not None:
        console.say(f"One row a detection: {output}")
    if finished:
        console.say(f"Drop {drop.key} was processed before: nothing was added to the database.")
    emit(
        as_json,
        {
            "drop": drop.key,
            "images": summary.images,
            "detections": summary.detections,
            "encounters": summary.encounters,
            "individuals": summary.individuals,
            "matched": summary.matched,
            "new": summary.new,
            "uncertain": summary.uncertain,
            "identified_by_a_person": summary.by_person,
            "matched_by_machine": summary.matched_by_machine,
            "new_by_machine": summary.new_by_machine,
            "quarantined": [{"file": row.file, "reason": row.reason} for row in about.quarantined],
            "warnings": list(about.warnings),
            "already_processed": finished,
            "seconds": round(time.perf_counter() - started, 3),
            "recipe": matcher.recipe.id,
            "release": matcher.release_id,
        },
    )


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. The UI has no login: keep it on this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the UI.")] = 3000,
) -> None:
    """Show the pipeline in Dagster's UI and run its daemon, until Ctrl-C. Whatever ends meanwhile is started again."""
    from deer_reid_pipeline.defs.workers import close_dead_runs

    console = Console(False)
    check_port_is_free(host, port)
    site = ready_site(console, may_begin=True)
    import dagster as dg

    from deer_reid_pipeline.defs.serving import forget_future_ticks
    from deer_reid_pipeline.defs.serving import serve as keep_serving

    with dg.DagsterInstance.get() as instance:
        close_dead_runs(instance)
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        forget_future_ticks(instance)
    console.say(f"Dagster is starting on http://{host}:{port} (about half a minute). Ctrl-C stops it.")
    keep_serving(site, host, port, console.say)


@app.command()
def reembed(
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Embed under this recipe beside the live one, which stays live: original, reference, lite, mobile, "
            "or the name or id of a stored one, such as a fine-tuned one."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--restart", help="Go on where a run stopped, or make every vector again."),
    ] = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Embed every detection and profile that lacks vectors (of the live recipe, or the one named)."""
    from deer_reid_pipeline.defs.in_process import run_job
    from deer_reid_pipeline.reid.similarity import BRANCHES
    from deer_reid_pipeline.steps.checks import check_profiles, vector_counts

    started = time.perf_counter()
    console = Console(as_json)
    site = ready_site(console)
    chosen = site.recipe(recipe) if recipe else site.matcher().recipe
    options = {"recipe": chosen.id if recipe else "", "restart": not resume, "backlog": True}
    with Progress(console):
        outcome = run_job("reembedding_job", config={"ops": {"deer_profiles": {"config": options}}}, verbose=verbose)
    if not outcome.success:
        raise DeerReidError(f"re-embedding was not finished: {outcome.error}. {RESUME}")
    counts = vector_counts(site, chosen.id)
    profiles = check_profiles(site)
    seconds = time.perf_counter() - started
    console.say(
        f"Recipe {chosen.id}: {min(counts.get(branch, 0) for branch in BRANCHES)} detections have all vectors, "
        f"{profiles.individuals} individuals, {seconds:.1f} s."
    )
    emit(
        as_json,
        {
            "recipe": chosen.id,
            "vectors": counts,
            "individuals": profiles.individuals,
            "exemplars": profiles.exemplars,
            "seconds": round(seconds, 3),
        },
    )


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, in any of the drop layouts.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write: one row a detection.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe: original, reference, lite, mobile, or the name or id of one stored in this home; default: "
            "the live one of this home, else DEER_REID_RECIPE."
        ),
    ] = None,
    detector: DetectorOption = None,
    as_json: Json = False,
) -> None:
    """Write the vectors of a folder's detections to a Parquet file; nothing is stored."""
    from deer_reid_pipeline.settings import load_settings
    from deer_reid_pipeline.steps.embed_folder import embed_folder

    started = time.perf_counter()
    console = Console(as_json)
    settings = load_settings()
    if output.suffix.lower() != ".parquet":
        raise DeerReidError(f"{output} gets Parquet: give it a name that ends in .parquet")
    with Progress(console):
        result = embed_folder(settings, folder, output, recipe, detector or settings.detector)
    console.warnings(result.warnings, result.quarantined)
    console.say(f"{result.rows} detections under {result.recipe} written to {output}.")
    emit(
        as_json,
        {
            "rows": result.rows,
            "recipe": result.recipe,
            "output": str(output),
            "quarantined": [{"file": row.file, "reason": row.reason} for row in result.quarantined],
            "warnings": list(result.warnings),
            "seconds": round(time.perf_counter() - started, 3),
        },
    )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check the installation and say what is missing and how to get it."""
    from deer_reid_pipeline.doctor import examine

    console = Console(as_json)
    findings = examine()
    for finding in findings:
        console.finding(finding.ok, finding.what, finding.detail)
    emit(as_json, {"ok": all(f.ok is not False for f in findings), "findings": [f.as_dict() for f in findings]})
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to draw into; new, empty, or an earlier sample.")],
    individuals: Annotated[int, typer.Option(min=1, help="Number of deer.")] = 8,
    encounters: Annotated[int, typer.Option(min=1, help="Number of encounters, of 2 or 3 pictures each.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed draws the same herd.")] = 0,
    known_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the encounters that carry identities.")
    ] = 0.5,
    as_json: Json = False,
) -> None:
    """Draw a synthetic herd with ground truth, to try everything without pictures of your own."""
    from deer_reid_pipeline.progress import report
    from deer_reid_pipeline.sample.herd import draw_herd

    console = Console(as_json)
    with Progress(console):
        herd = draw_herd(
            folder,
            individuals=individuals,
            encounters=encounters,
            seed=seed,
            known_share=known_share,
            progress=lambda done, total: report("drawing", done, total),
        )
    console.say(
        f"{herd.pictures} pictures with {herd.detections} deer of {herd.individuals} individuals in {herd.folder}."
    )
    emit(
        as_json,
        {
            "folder": str(herd.folder),
            "pictures": herd.pictures,
            "detections": herd.detections,
            "individuals": herd.individuals,
            "encounters": herd.encounters,
        },
    )


def _matcher(site: Any, fallback: RecipeName | None, console: Console) -> Any:
    """What matches in this home; a new home whose recipe lacks weights takes the fallback, and says so."""
    from deer_reid_pipeline.errors import WeightsError
    from deer_reid_pipeline.vision.recipe import base_name

    live = site.live_recipe_name()
    if fallback is not None and live is not None and base_name(live) == fallback.value:
        _choose(site, fallback)
    try:
        return site.matcher()
    except WeightsError as error:
        if fallback is None or site.settings.recipe == fallback.value:
            raise
        console.say(
            f"{str(error).rstrip('.')}. Going on with the recipe '{fallback.value}', whose weights are installed."
        )
    _choose(site, fallback)
    return site.matcher()


def _choose(site: Any, recipe: RecipeName) -> None:
    """Use a recipe from here on, also in what the run reads from the environment."""
    site.settings = site.settings.model_copy(update={"recipe": recipe.value})
    os.environ["DEER_REID_RECIPE"] = recipe.value


for command in (export, validate, tune, train, monitor, benchmark, backup, restore):
    app.command()(command)
app.command("import")(import_package_command)
for group in (release_app, review_app, cameras_app, ab_app, search_app):
    app.add_typer(group)


def main() -> NoReturn:
    """Entry point: a deliberate error is one line and exit code 1; Ctrl-C is 130."""
    # Only the product's own warnings are for the reader; libraries keep theirs, which the error line sums up.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(levelname)s %(message)s")
    logging.getLogger("deer_reid_pipeline").setLevel(logging.WARNING)
    run: Callable[..., Any] = app
    try:
        code = run(sys.argv[1:] or ["--help"], standalone_mode=False)
    except Interrupted as error:
        _fail(str(error), INTERRUPTED)
    except DeerReidError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail(STOPPED, INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, as click words it
            _fail(error.format_message(), 2)
        _fail_if_database_left(error)
        raise
    if code == INTERRUPTED:
        _fail(STOPPED, INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail_if_database_left(error: BaseException) -> None:
    from deer_reid_pipeline.store.database import lost_connection

    said = lost_connection(error)
    if said is not None:
        _fail(f"the database stopped answering ({said}). {RESUME}", 1)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"Error: {plain(' '.join(message.split()))}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
