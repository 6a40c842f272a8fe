"""Bring a database's schema to the revision that this version needs: Alembic, without an alembic.ini.

One upgrade is one transaction: it happens wholly or not at all. Two processes that upgrade at once take
turns. The revisions are in `migrations/` beside the package, or in the wheel under `_share/migrations`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import DatabaseError

log = logging.getLogger(__name__)

MIGRATION_LOCK = 0x6465_6572
"""Key of the advisory lock held while migrating."""

LOCK_TIMEOUT_S = 30
"""Longest wait for a table that another session is using; then nothing is changed."""


OWNER_ONLY = {
    "images": {"processing_status", "error_message", "location_id", "ix_images_location_id"},
    "deer": {"status", "species", "notes", "updated_at"},
    "detections": {"is_duplicate", "burst_group_id", "ix_detections_burst_group_id"},
}
"""The owner's columns and indexes that the pipeline does not use, so that the models do not have them."""


def include_object(item: object, name: str | None, kind: str, reflected: bool, compare_to: object | None) -> bool:
    """What Alembic's autogenerate compares: all but the owner's own columns and the migrations' own table."""
    if kind == "table":
        return name != "deer_reid_undo"
    table = getattr(getattr(item, "table", None), "name", None)
    return not (reflected and compare_to is None and name in OWNER_ONLY.get(str(table), set()))


def migrations_dir() -> Path:
    """Folder of the Alembic environment and its revisions.

    Raises:
        DatabaseError: it is not there, so the installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_share" / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file() and (folder / "versions").is_dir():
            return folder
    raise DatabaseError("the database migrations are missing from this installation; install deer-reid-pipeline again")


def head() -> str:
    """The newest revision that this version knows."""
    revision = ScriptDirectory(str(migrations_dir())).get_current_head()
    if revision is None:
        raise DatabaseError(f"no migrations in {migrations_dir()}; install deer-reid-pipeline again")
    return revision


def known(revision: str) -> bool:
    """Whether this version has that revision; it does not if a newer version migrated the database."""
    try:
        return ScriptDirectory(str(migrations_dir())).get_revision(revision) is not None
    except CommandError:
        return False


def current(url: str | URL) -> str | None:
    """The revision of a database, None if it was never migrated.

    Raises:
        DatabaseError: it cannot be asked.
    """
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return current_of(connection)
    except DBAPIError as error:
        raise DatabaseError(f"the database's revision could not be read: {_reason(error)}") from error


def current_of(connection: Connection) -> str | None:
    """The revision of the database behind a connection."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(url: str | URL, revision: str = "head") -> None:
    """Upgrade to a revision; does nothing if the database is there already.

    Raises:
        DatabaseError: it did not work, and nothing was changed.
    """
    _run(url, "upgraded", lambda config: command.upgrade(config, revision))


def downgrade(url: str | URL, revision: str) -> None:
    """Go back to an earlier revision. Rows and vectors of the owner's tables stay.

    Raises:
        DatabaseError: it did not work, and nothing was changed.
    """
    _run(url, "taken back", lambda config: command.downgrade(config, revision))


_one_at_a_time = threading.Lock()  # Alembic's environment is a global of the process


def _run(url: str | URL, what: str, step: Callable[[Config], None]) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    engine = create_engine(url, poolclass=NullPool, connect_args={"application_name": "deer-reid migrate"})
    try:
        with _one_at_a_time, engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
            connection.execute(text("SET LOCAL client_min_messages = warning"))
            config.attributes["connection"] = connection
            step(config)
    except DBAPIError as error:
        raise DatabaseError(f"the database could not be {what}, nothing was changed: {_reason(error)}") from error
    except CommandError as error:
        raise DatabaseError(
            f"the database could not be {what}, nothing was changed: {error}; "
            "if a newer version of deer-reid migrated it, install that version"
        ) from error


def _reason(error: DBAPIError) -> str:
    """What the server said, in one line, without the statement and its values."""
    code = getattr(error.orig, "pgcode", None)
    if code == "55P03":
        return f"another session kept a table locked for {LOCK_TIMEOUT_S} s; stop it, then run this again"
    if code == "42501":
        said = str(error.orig).strip().splitlines()[0]
        return f"{said}; run it as the owner of the tables"
    return " ".join(str(error.orig).split())[:300]
