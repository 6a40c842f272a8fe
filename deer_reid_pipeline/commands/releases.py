"""`deer-reid release`: what is live, what waits, and how another release becomes live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deer_reid_pipeline.commands.common import Json, emit, ready_site
from deer_reid_pipeline.errors import ReleaseError
from deer_reid_pipeline.terminal import Console, Progress, plain

if TYPE_CHECKING:
    from deer_reid_pipeline.steps.releases import Change, Event, ReleaseInfo
    from deer_reid_pipeline.steps.site import Site

app = typer.Typer(
    name="release",
    help="What matching uses, what waits to be used, and how that changes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MOST_EVENTS = 20


@app.command("status")
def show_status(as_json: Json = False) -> None:
    """Show the live release, the one that a rollback returns to, the candidates, and the history."""
    from deer_reid_pipeline.steps.releases import status

    console = Console(as_json)
    found = status(ready_site(console))
    console.say(_line("live", found.live) if found.live else "live: none yet (the first drop makes one)")
    console.say(_line("rollback to", found.previous) if found.previous else "rollback to: nothing earlier")
    for info in found.candidates:
        console.say(_line("candidate", info))
    for event in found.history[:MOST_EVENTS]:
        console.say(_event_line(event))
    if len(found.history) > MOST_EVENTS:
        console.say(f"... and {len(found.history) - MOST_EVENTS} earlier (--json shows all)")
    emit(
        as_json,
        {
            "live": found.live.as_dict() if found.live else None,
            "previous": found.previous.as_dict() if found.previous else None,
            "candidates": [info.as_dict() for info in found.candidates],
            "history": [event.as_dict() for event in found.history],
        },
    )


@app.command()
def promote(
    release: Annotated[
        int | None, typer.Argument(help="Number of the release; default: the candidate, where only one waits.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Against the gate: without a report that says PASS. Needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")] = "",
    backup: Annotated[
        bool, typer.Option("--backup/--no-backup", help="Dump the database into the home's 'backups' first.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Make a release live, if its newest validation report says PASS against the one that is."""
    from deer_reid_pipeline.steps import releases

    console = Console(as_json)
    site = ready_site(console)
    number = _only_candidate(site) if release is None else release
    done = releases.promote(site, number, force=force, reason=reason, backup=backup)
    if done.backup is not None:
        console.say(f"The database was saved to {done.backup} ({done.backup_seconds:.1f} s).")
    _finish(site, console, done, as_json)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; goes into the log.")],
    as_json: Json = False,
) -> None:
    """Return to the release that was live before; the next rollback goes one further back."""
    from deer_reid_pipeline.steps import releases

    console = Console(as_json)
    site = ready_site(console)
    _finish(site, console, releases.rollback(site, reason=reason), as_json)


def _finish(site: Site, console: Console, done: Change, as_json: bool) -> None:
    """Say what is live, then let the columns of `deer` follow where the transaction did not show them all."""
    from deer_reid_pipeline.steps.policies import asked_for_as
    from deer_reid_pipeline.steps.profiles import show_live_columns

    before = f" instead of release {done.previous}" if done.previous is not None else ""
    console.say(
        f"Release {done.release} ({done.recipe}) is live{before} ({done.seconds:.2f} s)."
        + (" It was forced against the gate." if done.forced else "")
    )
    later = 0
    if not done.columns_complete:
        with Progress(console):
            later = show_live_columns(site, console.say)
    if done.individuals_lacking:
        name = asked_for_as(done.recipe)
        console.say(
            f"Warning: {done.individuals_lacking} individuals lack profiles under {done.recipe} or have them of fewer "
            f"pictures. The next drop embeds those that it does not know at all; deer-reid reembed --recipe {name} "
            "brings all up to date."
        )
    emit(as_json, {**done.as_dict(), "columns_shown": done.columns_shown + later})


def _only_candidate(site: Site) -> int:
    from deer_reid_pipeline.steps.releases import status

    waiting = [info.release for info in status(site).candidates]
    if len(waiting) != 1:
        named = ", ".join(map(str, waiting[:10])) or "none"
        raise ReleaseError(f"say which release: {len(waiting)} candidates wait ({named}); deer-reid tune makes one")
    return waiting[0]


def _line(what: str, info: ReleaseInfo) -> str:
    from deer_reid_pipeline.reid.matching import cuts_in_words

    judged = []
    if info.promoted_at is not None:
        when = f" on {info.trusted_at:%Y-%m-%d %H:%M}" if info.trusted_at is not None else ""
        judged.append(f"identities last judged{when}: {info.trusted}" if info.trusted else "identities never judged")
    if info.report is not None:
        judged.append(f"report {info.report} on whether it may become live: {info.verdict}")
    elif info.promoted_at is None:
        judged.append("not judged yet")
    lacking = f", {info.individuals_lacking} individuals lack profiles" if info.individuals_lacking else ""
    name = f" {info.name!r}" if info.name else ""
    return plain(
        f"{what}: release {info.release}{name}, {info.recipe}, {cuts_in_words(info.matched_from, info.new_below)}, "
        f"{', '.join(judged)}{lacking} ({info.reason})"
    )


def _event_line(event: Event) -> str:
    before = f" instead of {event.previous}" if event.previous is not None else ""
    verdict = f": {event.verdict}" if event.verdict is not None else ""
    on = f", report {event.report}{verdict}" if event.report is not None else ""
    forced = ", FORCED" if event.forced else ""
    who = f" by {event.actor}" if event.actor else ""
    when = f"{event.at:%Y-%m-%d %H:%M:%S}"
    return plain(f"  {when} {event.action} release {event.release}{before}{forced}{on}{who}: {event.reason}")
