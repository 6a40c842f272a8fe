"""The pipeline's database: opened once a process, embedded or external, checked before use.

`connect(settings)` gives a `Database`. An external server must be PostgreSQL 15+ with pgvector 0.5+; every
complaint is one line that says what to do and never shows a password. Nothing here creates tables: that is
`store.migrate`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import weakref
from collections.abc import Iterator
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.store import migrate
from deer_reid_pipeline.store.embedded import EmbeddedServer, start_embedded

log = logging.getLogger(__name__)

DATABASE_NAME = "deer_reid"
DAGSTER_DATABASE_NAME = "dagster"
MIN_POSTGRES = 15
MIN_PGVECTOR = (0, 5, 0)
"""The first pgvector with HNSW indexes."""

CONNECT_TIMEOUT_S = 10
ALIVE_ATTEMPTS = 5


class Database:
    """An open database. Survives fork (the child opens connections of its own) and spawn (it can be pickled).

    Attributes:
        server: the embedded server behind it, None if the server is external.
    """

    def __init__(self, url: str, dagster_url: str | None = None, server: EmbeddedServer | None = None) -> None:
        self._url = _url(url, "DATABASE_URL")
        self._dagster_url = (
            self._url.set(database=DAGSTER_DATABASE_NAME)
            if dagster_url is None
            else _url(dagster_url, "DEER_REID_DAGSTER_DATABASE_URL")
        )
        self.server = server
        self.engine: Engine = create_engine(
            self._url,
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=27,  # up to 32 worker threads ask at once
            pool_recycle=1800,
            hide_parameters=True,  # values in error messages: coordinates among them
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "deer-reid"},
        )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        _forget_connections_after_fork(self.engine)

    @property
    def url(self) -> str:
        """`postgresql://` URL with the password in it: for libraries, never for a log."""
        return self._url.render_as_string(hide_password=False)

    @property
    def dagster_url(self) -> str:
        """The same, for Dagster's own storage."""
        return self._dagster_url.render_as_string(hide_password=False)

    @property
    def safe_url(self) -> str:
        """The URL with the password masked: for logs and people."""
        return _shown(self._url)

    def __repr__(self) -> str:
        return f"Database({self.safe_url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        home = None if self.server is None else self.server.home
        return _reopen, (self.url, self.dagster_url, home)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, rolled back if the block raises."""
        with self._sessions.begin() as session:
            yield session

    def revision(self) -> str | None:
        """The schema's revision, None if it was never migrated."""
        try:
            with self.engine.connect() as connection:
                return migrate.current_of(connection)
        except DBAPIError as error:
            raise _unreachable(self._url, error, "DATABASE_URL") from error

    def check_revision(self) -> None:
        """Make sure that the schema is the one this version works with.

        Raises:
            DatabaseError: it is behind or ahead; the text says what to run.
        """
        found, wanted = self.revision(), migrate.head()
        if found == wanted:
            return
        if found is None:
            raise DatabaseError(f"the database {self.safe_url} has no pipeline tables yet: run deer-reid init")
        if migrate.known(found):
            raise DatabaseError(
                f"the database {self.safe_url} is at revision {found}, this version needs {wanted}: run deer-reid init"
            )
        raise DatabaseError(
            f"the database {self.safe_url} is at revision {found}, which this version (at {wanted}) does not "
            "know: a newer deer-reid migrated it; install that version"
        )

    def ensure_alive(self) -> None:
        """Make sure that queries are answered: restart a dead embedded server, drop dead connections, retry.

        Raises:
            DatabaseError: the server does not come back.
        """
        for attempt in range(1, ALIVE_ATTEMPTS + 1):
            try:
                with self.engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
                return
            except DBAPIError as error:
                log.warning("the database does not answer (try %d of %d)", attempt, ALIVE_ATTEMPTS)
                self.engine.dispose()
                if attempt == ALIVE_ATTEMPTS:
                    raise _unreachable(self._url, error, "DATABASE_URL") from error
            if self.server is not None:
                self.server.ensure_running()
            time.sleep(0.2 * attempt if self.server is not None else attempt)

    def close(self) -> None:
        """Close this process's connections. The embedded server stays up for as long as a process uses it."""
        self.engine.dispose()


def connect(settings: Settings) -> Database:
    """Open the database that the settings describe: DATABASE_URL, or the embedded server under the home.

    Makes the embedded server's databases (`dagster` on an external one too) and the extension where absent.

    Raises:
        DatabaseError: it cannot be reached or used; one line with the fix.
    """
    if settings.database_url is None:
        server = start_embedded(settings.home)
        database = Database(
            server.url(DATABASE_NAME),
            settings.dagster_database_url or server.url(DAGSTER_DATABASE_NAME),
            server,
        )
        _create_database(make_url(server.url("postgres")), DATABASE_NAME)
    else:
        database = Database(settings.database_url, settings.dagster_database_url)
    _check_server(database)
    _check_dagster_database(database, settings)
    return database


def _reopen(url: str, dagster_url: str, home: Any) -> Database:
    """Unpickle: in another process, with its own hold on the embedded server."""
    return Database(url, dagster_url, None if home is None else start_embedded(home))


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forget_connections_after_fork(engine: Engine) -> None:
    _engines.add(engine)


def _after_fork() -> None:
    for engine in list(_engines):
        engine.dispose(close=False)  # the sockets belong to the parent


os.register_at_fork(after_in_child=_after_fork)


def _url(value: str, variable: str) -> URL:
    """Accepts postgres://, postgresql:// and postgresql+psycopg2://; the result says postgresql://."""
    kinds = ("postgres", "postgresql", "postgresql+psycopg2")
    wanted = f"{variable} must look like postgresql://user:password@host:5432/name"
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise DatabaseError(f"{wanted}; it cannot be read as a URL (special characters are written %40)") from None
    if url.drivername not in kinds:
        raise DatabaseError(f"{wanted}; it begins with {url.drivername}://, and only PostgreSQL has pgvector")
    if not url.database:
        raise DatabaseError(f"{wanted}; it names no database")
    return url.set(drivername="postgresql")


def _shown(url: URL) -> str:
    """A URL for people: no password, neither in its place nor as a parameter."""
    query = {key: value for key, value in url.query.items() if "password" not in key.lower()}
    return url.set(query=query).render_as_string(hide_password=True).replace("%2F", "/")


def _engine(url: URL, *, autocommit: bool = False) -> Engine:
    return create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "deer-reid"},
    )


def lost_connection(error: BaseException) -> str | None:
    """What libpq said, in one ASCII line, when an error comes from a server that went away; None for other errors.

    Looks along the chain of causes, since libraries in between wrap the error in their own.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OperationalError | InterfaceError):
            said = " ".join(str(seen.orig).split())
            return said.encode("ascii", "replace").decode("ascii")[:200]
        seen = seen.__cause__ or seen.__context__
    return None


def _said(error: DBAPIError, url: URL) -> str:
    """What the server or libpq said, in one ASCII line without the password."""
    said = " ".join(str(error.orig).split())
    said = re.sub(r"connection to server (at|on socket) .*? failed: ", "", said).removeprefix("FATAL: ").strip()
    for secret in (url.password, *(value for key, value in url.query.items() if "password" in key.lower())):
        if secret:
            said = said.replace(str(secret), "***")
    return said.encode("ascii", "replace").decode("ascii")[:300]


def _unreachable(url: URL, error: DBAPIError, variable: str) -> DatabaseError:
    said = _said(error, url)
    if "does not exist" in said and "database" in said:
        fix = f"create it (createdb {url.database}) or correct {variable}"
    elif "password" in said or "authentication" in said or "role" in said:
        fix = f"correct user and password in {variable}"
    elif url.query.get("host", "") and not url.host:
        fix = "start the server; deer-reid doctor says more"
    else:
        fix = f"start the server or correct {variable}"
    return DatabaseError(f"the database {_shown(url)} cannot be used: {said}; {fix}")


def _check_server(database: Database) -> None:
    """PostgreSQL and pgvector are new enough; an extension that is only installed is switched on."""
    try:
        with database.engine.begin() as connection:
            server = connection.execute(text("SHOW server_version_num")).scalar_one()
            if int(server) // 10000 < MIN_POSTGRES:
                raise DatabaseError(
                    f"{database.safe_url} is PostgreSQL {int(server) // 10000}; upgrade it to {MIN_POSTGRES} or newer"
                )
            _check_pgvector(connection, database.safe_url)
    except DBAPIError as error:
        raise _unreachable(make_url(database.url), error, "DATABASE_URL") from error


def _check_pgvector(connection: Connection, shown: str) -> None:
    at_least = ".".join(map(str, MIN_PGVECTOR[:2]))
    row = connection.execute(
        text("SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'vector'")
    ).one_or_none()
    installed, offered = (None, None) if row is None else row
    if installed is None and offered is None:
        raise DatabaseError(
            f"{shown} has no pgvector; install it on the server, version {at_least} or newer "
            "(for example the package postgresql-16-pgvector)"
        )
    if installed is None and _version(offered) >= MIN_PGVECTOR:
        try:
            with connection.begin_nested():
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": migrate.MIGRATION_LOCK})
                connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
        except DBAPIError as error:
            raise DatabaseError(
                f"pgvector is not switched on in {shown} and this role may not do it "
                f"({' '.join(str(error.orig).split())[:120]}); "
                "have an administrator run CREATE EXTENSION vector there"
            ) from error
        installed = offered
    found = installed or offered
    if _version(found) < MIN_PGVECTOR:
        how = (
            "run ALTER EXTENSION vector UPDATE there"
            if offered is not None and _version(offered) >= MIN_PGVECTOR
            else f"install pgvector {at_least} or newer on the server, then run ALTER EXTENSION vector UPDATE"
        )
        raise DatabaseError(f"{shown} has pgvector {found}, which is too old for HNSW indexes; {how}")


def _version(value: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", value or "")[:3])


def _create_database(server: URL, name: str) -> None:
    """Create a database if the server has none of that name.

    Raises:
        DBAPIError: the role may not, or the server cannot be reached.
    """
    with _engine(server, autocommit=True).connect() as connection:
        exists = text("SELECT 1 FROM pg_database WHERE datname = :name")
        if connection.execute(exists, {"name": name}).scalar() is None:
            quoted = connection.dialect.identifier_preparer.quote_identifier(name)
            try:
                connection.execute(text(f"CREATE DATABASE {quoted}"))
            except DBAPIError:  # another process may have been faster
                if connection.execute(exists, {"name": name}).scalar() is None:
                    raise


def _check_dagster_database(database: Database, settings: Settings) -> None:
    """Dagster's database answers; on the pipeline's own server it is created where absent."""
    url = make_url(database.dagster_url)
    if settings.dagster_database_url is None:
        try:
            _create_database(make_url(database.url), DAGSTER_DATABASE_NAME)
        except DBAPIError as error:
            raise DatabaseError(
                f"Dagster needs a database of its own and {DAGSTER_DATABASE_NAME!r} could not be made on the "
                f"server of DATABASE_URL: {_said(error, url)}; have an administrator run CREATE DATABASE "
                f"{DAGSTER_DATABASE_NAME} or set DEER_REID_DAGSTER_DATABASE_URL"
            ) from error
    try:
        with _engine(url).connect() as connection:
            connection.execute(text("SELECT 1"))
    except DBAPIError as error:
        raise _unreachable(url, error, "DEER_REID_DAGSTER_DATABASE_URL") from error
