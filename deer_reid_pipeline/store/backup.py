"""A pg_dump of the whole database into a file. It only reads; restoring is pg_restore's, by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sqlalchemy import URL, make_url

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import postgres_binaries

BACKUP_TIMEOUT_S = 6 * 3600


def back_up(database: Database, target: Path) -> Path:
    """Dump the database to a file in pg_dump's custom format; the file is there only once it is whole.

    Raises:
        DatabaseError: no pg_dump is here, it is too old for the server, or the file cannot be written.
    """
    programs = _programs(embedded=database.server is not None)
    if not programs:
        raise DatabaseError(
            "no pg_dump was found for a backup: install PostgreSQL's client programs (apt install postgresql-client), "
            "or make a backup yourself and use --no-backup"
        )
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        said = ""
        for program in programs:
            said = _run(program, database.url, part)
            if not said:
                part.rename(target)
                return target
            if "server version" not in said:
                break
    except OSError as error:
        said = str(error)
    finally:
        part.unlink(missing_ok=True)
    raise DatabaseError(f"the backup {target} was not made: {said}; --no-backup goes on without one")


def _programs(*, embedded: bool) -> list[Path]:
    """pg_dump as installed, and the embedded server's, whose version is the embedded server's; best first."""
    found = []
    installed = shutil.which("pg_dump")
    if installed is not None:
        found.append(Path(installed))
    try:
        own = postgres_binaries() / "pg_dump"
    except DatabaseError:
        own = None
    if own is not None and own.exists():
        found.append(own)
    return found[::-1] if embedded else found


def _run(program: Path, url: str, part: Path) -> str:
    """Dump; returns what went wrong in one line, nothing if it worked. The password is in no command line."""
    address = make_url(url)
    secret = address.password or address.query.get("password")
    shown = URL.create(
        address.drivername,
        address.username,
        host=address.host,
        port=address.port,
        database=address.database,
        query={key: value for key, value in address.query.items() if key != "password"},
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment["LC_ALL"] = "C"
    if secret is not None:
        environment["PGPASSWORD"] = str(secret)
    command = [str(program), "--format=custom", "--compress=1", "--no-password", f"--file={part}"]
    try:
        result = subprocess.run(
            [*command, f"--dbname={shown.render_as_string(hide_password=False)}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BACKUP_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"pg_dump took longer than {BACKUP_TIMEOUT_S // 3600} hours"
    said = " ".join(result.stderr.split()).encode("ascii", "replace").decode()[:300]
    return (said or f"pg_dump ended with {result.returncode}") if result.returncode else ""
