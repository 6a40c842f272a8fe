"""A pg_dump of a whole database into a file. It only reads; restoring is `store.restore`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL, make_url

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import postgres_binaries
from deer_reid_pipeline.store.embedded.messages import one_line

BACKUP_TIMEOUT_S = 6 * 3600


def back_up(database: Database, target: Path) -> Path:
    """Dump the pipeline's database before a cutover; see `dump_database`.

    Raises:
        DatabaseError: it was not made; the text says how to go on without one.
    """
    try:
        return dump_database(database.url, target, embedded=database.server is not None)
    except DatabaseError as error:
        raise DatabaseError(f"{error}; --no-backup goes on without one") from error


def dump_database(url: str, target: Path, *, embedded: bool) -> Path:
    """Dump a database to a file in pg_dump's custom format; the file is there only once it is whole.

    A dump holds all there is, coordinates included: only its owner may read it. The folder, which is for backups alone,
    is closed to others, and what is left in it of dumps that were killed goes.

    Args:
        embedded: the server is the embedded one, whose own pg_dump fits best.

    Raises:
        DatabaseError: no pg_dump is here, it is too old for the server, or the file cannot be written.
    """
    programs = postgres_programs("pg_dump", embedded=embedded)
    if not programs:
        raise DatabaseError(
            "no pg_dump was found for a backup: install PostgreSQL's client programs (apt install postgresql-client), "
            "or make a backup yourself"
        )
    part = target.with_name(target.name + ".part")
    try:
        _close_folder(target.parent)
        with _held(part):
            said = ""
            for program in programs:
                options = ["--format=custom", "--compress=1", f"--file={part}"]
                said = _run(program, options, url, embedded=embedded)
                if not said:
                    part.rename(target)
                    return target
                if "server version" not in said:
                    break
    except OSError as error:
        said = str(error)
    raise DatabaseError(f"the backup {target} was not made: {said}")


def _close_folder(folder: Path) -> None:
    """Make the folder, for its owner alone, and clear away parts of dumps whose process is gone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    for old in folder.glob("*.dump.part"):
        with old.open("rb") as stream, suppress(BlockingIOError):  # its process lives
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old.unlink(missing_ok=True)


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """Make the file, for its owner alone, before anything is written to it; held by a lock until it is renamed or gone.

    Raises:
        FileExistsError: another process is writing it.
    """
    held = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        part.unlink(missing_ok=True)
        os.close(held)


def postgres_programs(name: str, *, embedded: bool) -> list[Path]:
    """A program of PostgreSQL as installed, and the embedded server's, of the embedded server's version; best first."""
    found = []
    installed = shutil.which(name)
    if installed is not None:
        found.append(Path(installed))
    try:
        own = postgres_binaries() / name
    except DatabaseError:
        own = None
    if own is not None and own.exists():
        found.append(own)
    return found[::-1] if embedded else found


def connection_to(url: str, *, embedded: bool) -> tuple[list[str], dict[str, str]]:
    """Options with which one of PostgreSQL's programs reaches a database, and its environment.

    The password is in no command line. To an external server the program gets the environment that the pipeline's own
    connections have (PGPASSFILE, PGSSLMODE); the embedded one needs none of it.
    """
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
    environment = {key: value for key, value in os.environ.items() if not (embedded and key.startswith("PG"))}
    environment["LC_ALL"] = "C"
    if secret is not None:
        environment["PGPASSWORD"] = str(secret)
    return ["--no-password", f"--dbname={shown.render_as_string(hide_password=False)}"], environment


def _run(program: Path, options: list[str], url: str, *, embedded: bool) -> str:
    """Run pg_dump on a database; returns what went wrong in one line, nothing if it worked."""
    connection, environment = connection_to(url, embedded=embedded)
    try:
        result = subprocess.run(
            [str(program), *options, *connection],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BACKUP_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"{program.name} took longer than {BACKUP_TIMEOUT_S // 3600} hours"
    return (one_line(result.stderr) or f"{program.name} ended with {result.returncode}") if result.returncode else ""
