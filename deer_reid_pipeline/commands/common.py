"""What every command needs: its common options, the JSON line, and an open installation.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deer_reid_pipeline.terminal import Console

if TYPE_CHECKING:
    from deer_reid_pipeline.steps.site import Site

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line and nothing else.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of every step.")]

RESUME = "Nothing is lost: running the command again goes on where it was"


class RecipeName(StrEnum):
    """The built-in recipes."""

    original = "original"
    reference = "reference"
    lite = "lite"
    mobile = "mobile"


def emit(as_json: bool, value: dict[str, Any]) -> None:
    """Print the result as one JSON object where it was asked for."""
    if as_json:
        sys.stdout.write(json.dumps(value, ensure_ascii=True, default=str) + "\n")
        sys.stdout.flush()


def ready_site(console: Console) -> Site:
    """Open the installation, making its database and schema where they are missing."""
    from deer_reid_pipeline.defs.in_process import check_home_is_writable, prepare_instance
    from deer_reid_pipeline.settings import load_settings
    from deer_reid_pipeline.steps.site import Site
    from deer_reid_pipeline.store.database import connect
    from deer_reid_pipeline.store.migrate import current, head, upgrade

    settings = load_settings()
    check_home_is_writable(settings.home)
    if settings.database_url is None and not (settings.home / "postgres").exists():
        console.say(f"Making a database under {settings.home} (once) ...")
    database = connect(settings)
    if current(database.url) != head():
        console.say("Bringing the database to this version's schema ...")
        upgrade(database.url)
    prepare_instance(settings, database.dagster_url)
    database.check_revision()
    return Site(settings, database)
