"""Bring a database back from a dump, wholly or not at all. What stood in its place is renamed, never dropped."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.backup import BACKUP_TIMEOUT_S, connection_to, postgres_programs
from deer_reid_pipeline.store.embedded.messages import one_line

_OBJECTS = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
"""

_REFUSED_BEFORE_17 = b"SET transaction_timeout = 0;\n"
"""In the head of every script of pg_restore since version 17; servers before 17 do not know the setting."""

_LAST_OF_HEAD = b"SET client_encoding "

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

    A database with tables is first renamed to `keep_as` and made anew; where that or the filling does not come to its
    end, it gets its name back. Owners and grants of the dump are left out: everything belongs to who restores.

    Args:
        vectors: the dump builds on pgvector.

    Returns:
        Whether there was something to keep.

    Raises:
        DatabaseError: it was not restored; the database is as it was, or the text says what it is kept as.
    """
    kept = holds_tables(url)
    try:
        if kept:
            _replace(url, keep_as)
        if vectors:
            _switch_on_pgvector(url)
        _fill(url, dump, embedded=embedded)
    except BaseException:  # Ctrl-C too
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
    try:
        with tempfile.TemporaryDirectory(prefix="deer-reid-restore-") as folder:
            wanted = Path(folder) / "list"
            for program in programs:
                said = _write_list(program, dump, wanted) or _load(program, dump, wanted, url, embedded=embedded)
                if not said:
                    return
                if "unsupported version" not in said:
                    break
    except OSError as error:
        said = one_line(error)
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
        return one_line(done.stderr) or "it cannot be read"
    lines = [line for line in done.stdout.splitlines() if " EXTENSION " not in line]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ""


def _load(program: Path, dump: Path, wanted: Path, url: str, *, embedded: bool) -> str:
    """Let psql run the script that pg_restore writes; returns what went wrong in one line, nothing if it worked.

    The script itself begins and commits the transaction, so one that is cut off changes nothing. A connection of
    pg_restore's own would bring a setting that not every server knows.
    """
    connection, environment = connection_to(url, embedded=embedded)
    script_options = ["--single-transaction", "--no-owner", "--no-privileges", f"--use-list={wanted}", "--file=-"]
    psql_options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"]
    psql = program.with_name("psql")
    with (
        tempfile.TemporaryFile() as complaints,  # of both, the first one first: it is the cause of the other
        subprocess.Popen(
            [str(program), *script_options, str(dump)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        ) as writing,
        subprocess.Popen(
            [str(psql), *psql_options, *connection],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        ) as running,
    ):
        feeding = threading.Thread(target=_feed, args=(writing.stdout, running.stdin))
        feeding.start()
        try:
            running.wait(BACKUP_TIMEOUT_S)
        except BaseException as error:
            writing.kill()
            running.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                return f"it took longer than {BACKUP_TIMEOUT_S // 3600} hours"
            raise
        finally:
            feeding.join()
            if writing.stdout is not None:
                writing.stdout.close()  # ends one that writes for nobody
        codes = {psql.name: running.returncode, program.name: writing.wait()}
        failed = [f"{name} ended with {code}" for name, code in codes.items() if code]
        complaints.seek(0)
        said = one_line(complaints.read().decode("utf-8", "replace"))
    return (said or failed[0]) if failed else ""


def _feed(script: IO[bytes], psql: IO[bytes]) -> None:
    """Hand a script over, without the line of its head that servers before 17 refuse."""
    with suppress(BrokenPipeError), psql:  # it ended, and has said why
        for line in script:
            if line != _REFUSED_BEFORE_17:
                psql.write(line)
            if line.startswith(_LAST_OF_HEAD):
                break
        shutil.copyfileobj(script, psql)


def _replace(url: str, keep_as: str) -> None:
    """Give a database another name and make an empty one in its place; what is done halfway, `_put_back` undoes."""
    try:
        with _server(url).connect() as connection:
            quote = connection.dialect.identifier_preparer.quote_identifier
            name = quote(_name(url))
            connection.execute(text(f"ALTER DATABASE {name} RENAME TO {quote(keep_as)}"))
            connection.execute(text(f"CREATE DATABASE {name}"))
    except DBAPIError as error:
        said = _reason(error)
        fix = (
            "stop deer-reid serve, the daemon and all runs first"
            if "being accessed" in said
            else "restore into an empty database instead (DATABASE_URL), or have an administrator do it"
        )
        raise DatabaseError(f"the database {_name(url)} could not be renamed to {keep_as}: {said}; {fix}") from error


def _put_back(url: str, kept: str) -> None:
    """Undo `_replace` as far as it came; the database that is dropped is the empty one made there.

    Raises:
        DatabaseError: what the database held is still kept under the other name; the text says what to do.
    """
    name = _name(url)
    exists = text("SELECT EXISTS (SELECT FROM pg_database WHERE datname = :name)")
    try:
        with _server(url).connect() as connection:
            quote = connection.dialect.identifier_preparer.quote_identifier
            if not connection.scalar(exists, {"name": kept}):
                return
            made = connection.scalar(exists, {"name": name})
            if not (made and holds_tables(url)):
                if made:
                    connection.execute(text(f"DROP DATABASE {quote(name)} WITH (FORCE)"))  # a killed psql may be in it
                connection.execute(text(f"ALTER DATABASE {quote(kept)} RENAME TO {quote(name)}"))
                return
    except (DBAPIError, DatabaseError, KeyboardInterrupt) as error:
        said = _reason(error) if isinstance(error, DBAPIError) else one_line(error) or "it was stopped"
        raise DatabaseError(
            f"the database {name} was not restored, and what it held is kept as {kept}, because it could not be put "
            f"back: {said}; when the server answers again, drop an empty {name} and rename {kept} to {name}"
        ) from error
    raise DatabaseError(
        f"the database {name} was restored before this was stopped, and what it held is kept as {kept}: drop that "
        f"when you are sure, or drop {name} and rename {kept} to {name}"
    )


def _name(url: str) -> str:
    return str(make_url(url).database)


def _engine(url: str | URL) -> Engine:
    return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"connect_timeout": 10})


def _server(url: str) -> Engine:
    """Statements outside a transaction, on the server's own database."""
    return _engine(make_url(url).set(database="postgres")).execution_options(isolation_level="AUTOCOMMIT")


def _reason(error: DBAPIError) -> str:
    return one_line(error.orig)
