"""What every command needs: its common options, the JSON line, and an open installation.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deer_reid_pipeline.errors import DeerReidError
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


def ready_site(console: Console, *, may_begin: bool = False) -> Site:
    """Open the installation, and bring its schema to this version.

    Args:
        may_begin: make the database of a new home. Only what fills one does; a mistyped home is then an error.

    Raises:
        DeerReidError: the home has no database, and none may be made.
    """
    from deer_reid_pipeline.defs.instance import prepare_instance
    from deer_reid_pipeline.settings import load_settings
    from deer_reid_pipeline.steps.site import Site
    from deer_reid_pipeline.store.database import connect
    from deer_reid_pipeline.store.migrate import current, head, upgrade

    settings = load_settings()
    new = settings.database_url is None and not (settings.home / "postgres").exists()
    if new and not may_begin:
        raise DeerReidError(_nothing_in(settings.home))
    check_home_is_writable(settings.home)
    if new:
        console.say(f"Making a database under {settings.home} (once) ...")
    database = connect(settings)
    if current(database.url) != head():
        console.say("Bringing the database to this version's schema ...")
        upgrade(database.url)
    prepare_instance(settings, database.dagster_url)
    database.check_revision()
    return Site(settings, database)


def _nothing_in(home: Path) -> str:
    others = sorted(str(found.parent) for found in home.glob("*/postgres"))
    there = f" There is one in {', '.join(others)}." if others else ""
    return (
        f"there is nothing in the home {home} yet: begin it with 'deer-reid process FOLDER', or set DEER_REID_HOME to "
        f"the home that is meant.{there}"
    )


def check_port_is_free(host: str, port: int) -> None:
    """Raise a clear error when the UI's address is taken.

    Raises:
        DeerReidError: another program listens there, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DeerReidError(f"{host}:{port} cannot be used ({error.strerror}); give another with --port") from error


def check_home_is_writable(home: Path) -> None:
    """Raise a clear error when the home cannot be written to.

    Raises:
        DeerReidError: the folder cannot be made or written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".write-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DeerReidError(f"the home {home} cannot be written to: {error.strerror}; set DEER_REID_HOME") from error
