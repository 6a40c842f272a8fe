"""`monitor`, `review` and `cameras`: watching what the live matcher does, and what people say of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deer_reid_pipeline.commands.common import Json, Verbose, emit, ready_site
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.terminal import MOST_LINES, Console

if TYPE_CHECKING:
    from datetime import date

review_app = typer.Typer(
    name="review", help="What people say of pairs of pictures.", no_args_is_help=True, rich_markup_mode=None
)
cameras_app = typer.Typer(name="cameras", help="Where the cameras stand.", no_args_is_help=True, rich_markup_mode=None)


def monitor(
    day: Annotated[str | None, typer.Option(help="UTC day of deciding, YYYY-MM-DD; default: today.")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Look at one day's matches: which are implausible, which to review, and how often the matcher is wrong."""
    from deer_reid_pipeline.defs.in_process import run_job
    from deer_reid_pipeline.steps.monitoring import today
    from deer_reid_pipeline.store.reports import MONITORING, newest_report

    wanted = today() if day is None else _day(day)
    console = Console(as_json)
    site = ready_site(console)
    outcome = run_job("fp_monitoring_job", partition_key=wanted.isoformat(), verbose=verbose)
    if not outcome.success:
        raise DeerReidError(f"{wanted} was not looked at: {outcome.error}")
    with site.database.session() as session:
        row = newest_report(session, MONITORING, day=wanted)
        if row is None:
            raise DeerReidError(f"the run of {wanted} stored no report; its log is in the UI (`deer-reid serve`)")
        summary, folder = dict(row.summary), site.settings.home / str(row.folder)
    console.say(f"Matches of {wanted}: {summary['matches']} matched by the machine.")
    console.say(f"{summary['verdict']}: {summary['text']}")
    flags = [f"Implausible: {flag['text']}" for flag in summary["flags"]]
    _say_first(console, flags)
    console.say(f"{len(summary['to_review'])} matches wait for a person: `deer-reid review export FILE.csv`")
    console.say(f"Report: {folder / 'monitoring.html'}")
    emit(as_json, {**summary, "report": str(folder / "monitoring.html")})


@review_app.command("import")
def import_reviews_command(
    file: Annotated[Path, typer.Argument(help="CSV with left, right, verdict, reviewer, reviewedAt.")],
    as_json: Json = False,
) -> None:
    """Read verdicts (same, different, unsure) on pairs of pictures. Bad rows are named, the others are stored."""
    from deer_reid_pipeline.steps.reviews import import_reviews

    console = Console(as_json)
    result = import_reviews(ready_site(console), file)
    _say_first(console, [f"Warning: line {line}: {reason}" for line, reason in result.refused])
    console.say(
        f"{result.imported} reviews imported, {result.known} known before, {result.blank} rows without a verdict, "
        f"{len(result.refused)} rows not used."
    )
    emit(
        as_json,
        {
            "imported": result.imported,
            "known": result.known,
            "blank": result.blank,
            "refused": [{"line": line, "reason": reason} for line, reason in result.refused],
        },
    )


@review_app.command("export")
def export_reviews_command(
    file: Annotated[Path, typer.Argument(help="CSV to write: one row a pair, with an empty verdict to fill in.")],
    as_json: Json = False,
) -> None:
    """Write the pairs to look at next: flagged matches, and those drawn to tell the share of false ones."""
    from deer_reid_pipeline.exports import write_reviews
    from deer_reid_pipeline.steps.reviews import EXPORT_COLUMNS, keep_verdicts, reviews_to_fill_in

    keep_verdicts(file)
    console = Console(as_json)
    rows = reviews_to_fill_in(ready_site(console))
    write_reviews(file, EXPORT_COLUMNS, rows)
    console.say(f"{len(rows)} pairs to look at: {file}")
    if not rows:
        console.say("Nothing waits. `deer-reid monitor` looks at the day's matches first.")
    emit(as_json, {"rows": len(rows), "output": str(file)})


@review_app.command("uncertain")
def uncertain_command(
    file: Annotated[Path, typer.Argument(help="CSV to write; the page with the pictures stands beside it as .html.")],
    drop: Annotated[str | None, typer.Option(help="Of this drop only, by the name that `process` ends with.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many encounters; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Write the encounters that were left uncertain, each beside the individuals that it resembles.

    The likeliest come first. Fill in the verdicts, then `review import`: an encounter that is said to be the same as a
    named animal counts as that animal when the matcher is trained, tuned and judged.
    """
    from deer_reid_pipeline.exports import page_beside, write_page, write_reviews
    from deer_reid_pipeline.steps.reviews import keep_verdicts
    from deer_reid_pipeline.steps.uncertain import (
        UNCERTAIN_COLUMNS,
        uncertain_encounters,
        uncertain_page,
        uncertain_to_fill_in,
    )

    keep_verdicts(file)
    console = Console(as_json)
    site = ready_site(console)
    waiting = uncertain_encounters(site, drop)
    chosen = waiting[:limit]
    rows = uncertain_to_fill_in(site, chosen)
    page = page_beside(file)
    write_reviews(file, UNCERTAIN_COLUMNS, rows)
    write_page(page, uncertain_page(site, chosen, file.name, len(waiting)))
    console.say(f"{len(chosen)} of {len(waiting)} uncertain encounters, {len(rows)} pairs to look at: {file}")
    console.say(f"Their pictures: {page}")
    if not waiting:
        console.say("Nothing waits: no encounter is uncertain that resembles somebody it was not compared with.")
    emit(
        as_json,
        {
            "encounters": len(chosen),
            "waiting": len(waiting),
            "rows": len(rows),
            "output": str(file),
            "page": str(page),
        },
    )


@review_app.command("list")
def list_reviews_command(as_json: Json = False) -> None:
    """Show the pairs to look at next."""
    from deer_reid_pipeline.steps.reviews import reviews_to_fill_in

    console = Console(as_json)
    rows = reviews_to_fill_in(ready_site(console))
    _say_first(console, [f"{row['day']} {row['individualID']}: {row['why']}" for row in rows])
    console.say(f"{len(rows)} pairs wait for a person: `deer-reid review export FILE.csv` writes them to be filled in")
    emit(as_json, {"rows": rows})


@cameras_app.command("import")
def import_cameras_command(
    file: Annotated[Path, typer.Argument(help="CSV with deploymentID, latitude, longitude; locationName if known.")],
    as_json: Json = False,
) -> None:
    """Store where the cameras stand, so that impossible journeys are noticed. Positions never leave the database."""
    from deer_reid_pipeline.steps.cameras import import_cameras

    console = Console(as_json)
    result = import_cameras(ready_site(console), file)
    _say_first(console, [f"Warning: line {line}: {reason}" for line, reason in result.refused])
    console.say(f"{result.cameras} cameras have a position, {len(result.refused)} rows not used.")
    emit(
        as_json,
        {
            "cameras": result.cameras,
            "refused": [{"line": line, "reason": reason} for line, reason in result.refused],
        },
    )


def _day(text: str) -> date:
    from datetime import date

    from deer_reid_pipeline.defs.monitoring.partitions import FIRST_DAY
    from deer_reid_pipeline.steps.monitoring import today

    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise DeerReidError(f"--day {text!a} is not a day: write it like {today()}") from error
    if not date.fromisoformat(FIRST_DAY) <= day <= today():
        raise DeerReidError(f"--day {day} is outside {FIRST_DAY} to {today()} (days are UTC)")
    return day


def _say_first(console: Console, lines: Sequence[str]) -> None:
    for line in lines[:MOST_LINES]:
        console.say(line)
    if len(lines) > MOST_LINES:
        console.say(f"... and {len(lines) - MOST_LINES} more")
