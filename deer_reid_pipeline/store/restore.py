"""Bring a database back from a dump, wholly or not at all. What stood in its place is renamed, never dropped."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.backup import postgres_programs, run_on_database

_OBJECTS = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
"""

LIST_TIMEOUT_S = 600


def holds_tables(url: str) -> bool:
    """Whether anything but an extension's own is in a database.

    Raises:
        DatabaseError: it cannot be asked.
    """
    try:
        with _engine(url).connect() as connection:
            return bool(connection.scalar(text(_OBJECTS)))
    except DBAPIError as error:
        raise DatabaseError(f"the database {_name(url)} cannot be looked at: {_reason(error)}") from error


def restore_database(url: str, dump: Path, *, embedded: bool, vectors: bool, keep_as: str) -> bool:
    """Fill a database from a dump in one transaction.

    A database with tables is first renamed to `keep_as` and made anew; where the dump cannot be read, it gets its name
    back. Owners and grants of the dump are left out: everything belongs to who restores.

    Args:
        vectors: the dump builds on pgvector.

    Returns:
        Whether there was something to keep.

    Raises:
        DatabaseError: it was not restored; the database is as it was.
    """
    kept = holds_tables(url)
    if kept:
        _replace(url, keep_as)
    try:
        if vectors:
            _switch_on_pgvector(url)
        _fill(url, dump, embedded=embedded)
    except DatabaseError:
        if kept:
            _put_back(url, keep_as)
        raise
    return kept


def _switch_on_pgvector(url: str) -> None:
    """Make sure that a database has the extension, which a restored dump does not bring."""
    try:
        with _engine(url).begin() as connection:
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except DBAPIError as error:
        raise DatabaseError(
            f"pgvector could not be switched on in {_name(url)}: {_reason(error)}; have an administrator run "
            "CREATE EXTENSION vector there"
        ) from error


def _fill(url: str, dump: Path, *, embedded: bool) -> None:
    programs = postgres_programs("pg_restore", embedded=embedded)
    if not programs:
        raise DatabaseError(
            "no pg_restore was found: install PostgreSQL's client programs (apt install postgresql-client)"
        )
    said = ""
    with tempfile.TemporaryDirectory(prefix="deer-reid-restore-") as folder:
        wanted = Path(folder) / "list"
        for program in programs:
            said = _write_list(program, dump, wanted)
            if not said:
                options = ["--single-transaction", "--no-owner", "--no-privileges", f"--use-list={wanted}", str(dump)]
                said = run_on_database(program, options, url, embedded=embedded)
                if not said:
                    return
            if "unsupported version" not in said:
                break
    raise DatabaseError(f"the database {_name(url)} was not restored from {dump}, and nothing was changed: {said}")


def _write_list(program: Path, dump: Path, target: Path) -> str:
    """Write what of the dump is wanted; returns what went wrong in one line, nothing if it worked.

    The extension is there already, and only its owner may comment on it.
    """
    try:
        done = subprocess.run(
            [str(program), "--list", str(dump)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIST_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program.name} did not read it ({type(error).__name__})"
    if done.returncode:
        return " ".join(done.stderr.split()).encode("ascii", "replace").decode()[:300] or "it cannot be read"
    lines = [line for line in done.stdout.splitlines() if " EXTENSION " not in line]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ""


def _replace(url: str, keep_as: str) -> None:
    """Give a database another name and make an empty one in its place."""
    try:
        with _server(url).connect() as connection:
            quote = connection.dialect.identifier_preparer.quote_identifier
            name = quote(_name(url))
            connection.execute(text(f"ALTER DATABASE {name} RENAME TO {quote(keep_as)}"))
            try:
                connection.execute(text(f"CREATE DATABASE {name}"))
            except DBAPIError:
                connection.execute(text(f"ALTER DATABASE {quote(keep_as)} RENAME TO {name}"))
                raise
    except DBAPIError as error:
        said = _reason(error)
        fix = (
            "stop deer-reid serve, the daemon and all runs first"
            if "being accessed" in said
            else "restore into an empty database instead (DATABASE_URL), or have an administrator do it"
        )
        raise DatabaseError(f"the database {_name(url)} could not be renamed to {keep_as}: {said}; {fix}") from error


def _put_back(url: str, kept: str) -> None:
    """Undo `_replace`; the database that is dropped is the empty one made there."""
    if holds_tables(url):
        return
    with _server(url).connect() as connection:
        quote = connection.dialect.identifier_preparer.quote_identifier
        connection.execute(text(f"DROP DATABASE {quote(_name(url))}"))
        connection.execute(text(f"ALTER DATABASE {quote(kept)} RENAME TO {quote(_name(url))}"))


def _name(url: str) -> str:
    return str(make_url(url).database)


def _engine(url: str | URL) -> Engine:
    return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"connect_timeout": 10})


def _server(url: str) -> Engine:
    """Statements outside a transaction, on the server's own database."""
    return _engine(make_url(url).set(database="postgres")).execution_options(isolation_level="AUTOCOMMIT")


def _reason(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split()).encode("ascii", "replace").decode()[:300]
