"""`deer-reid backup` and `deer-reid restore`: an installation as one folder, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deer_reid_pipeline.commands.common import Json, check_home_is_writable, emit
from deer_reid_pipeline.errors import BackupError, Interrupted
from deer_reid_pipeline.terminal import Console, Progress

STOPPED = "stopped: nothing is deleted; run the command again, with --replace where it says that something is in use"


def backup(
    folder: Annotated[Path, typer.Argument(help="Folder to make, best on another disk.")],
    as_json: Json = False,
) -> None:
    """Save both databases, crops, models, reports and trainings to a new folder. Weights and pictures stay out."""
    from deer_reid_pipeline.settings import load_settings
    from deer_reid_pipeline.steps.backup import back_up_site
    from deer_reid_pipeline.store.database import connect

    started = time.perf_counter()
    console = Console(as_json)
    settings = load_settings()
    if settings.database_url is None and not (settings.home / "postgres").exists():
        raise BackupError(f"there is nothing to back up in {settings.home}: set DEER_REID_HOME to the home")
    with Progress(console):
        made = back_up_site(settings, connect(settings), folder)
    seconds = time.perf_counter() - started
    megabytes = made.manifest.bytes / 2**20
    console.say(f"{len(made.manifest.files)} files, {megabytes:.1f} MiB, are in {made.folder} ({seconds:.1f} s).")
    console.say("It holds the cameras' coordinates: keep it where only its owner reads.")
    emit(
        as_json,
        {
            "backup": str(made.folder),
            "files": len(made.manifest.files),
            "bytes": made.manifest.bytes,
            "revision": made.manifest.revision,
            "made_at": made.manifest.made_at.isoformat(),
            "seconds": round(seconds, 3),
        },
    )


def restore(
    folder: Annotated[Path, typer.Argument(help="Folder that deer-reid backup made.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Move aside what home and databases hold now; nothing is deleted."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring a backup back into an empty home, after checking every file of it."""
    from deer_reid_pipeline.defs.workers import close_restored_runs
    from deer_reid_pipeline.settings import load_settings
    from deer_reid_pipeline.steps.restore import restore_site
    from deer_reid_pipeline.store.database import connect
    from deer_reid_pipeline.store.migrate import head

    started = time.perf_counter()
    console = Console(as_json)
    settings = load_settings()
    check_home_is_writable(settings.home)
    try:
        with Progress(console):
            done = restore_site(settings, folder, replace=replace)
    except KeyboardInterrupt as error:
        raise Interrupted(STOPPED) from error
    seconds = time.perf_counter() - started
    manifest = done.manifest
    console.say(
        f"{settings.home} is as it was at {manifest.made_at:%Y-%m-%d %H:%M} UTC: {len(manifest.files)} files, "
        f"{manifest.bytes / 2**20:.1f} MiB ({seconds:.1f} s)."
    )
    if done.moved_to is not None:
        console.say(f"What was there before is in {done.moved_to}.")
    for name in done.kept_databases:
        console.say(f"The database before is kept as {name}.")
    if done.instance_left:
        console.say(f"Warning: {settings.dagster_home / 'dagster.yaml'} differs from the backup's and was left alone.")
    closed = close_restored_runs(settings, connect(settings).dagster_url) if manifest.holds_runs else 0
    if closed is None:
        console.say(
            f"Warning: {settings.dagster_home / 'dagster.yaml'} names another database than the one that was restored, "
            "so runs that were at work when the backup was made are left as they were."
        )
    elif closed:
        console.say(f"Runs that were at work when the backup was made, and are reported as failed now: {closed}.")
    if manifest.revision != head():
        console.say(f"Its schema is {manifest.revision}: deer-reid init brings it to {head()}.")
    console.say("Next: deer-reid doctor, which says what weights are missing.")
    emit(
        as_json,
        {
            "home": str(settings.home),
            "backup": str(folder.absolute()),
            "files": len(manifest.files),
            "bytes": manifest.bytes,
            "revision": manifest.revision,
            "made_at": manifest.made_at.isoformat(),
            "moved_to": None if done.moved_to is None else str(done.moved_to),
            "kept_databases": list(done.kept_databases),
            "closed_runs": closed,
            "seconds": round(seconds, 3),
        },
    )
