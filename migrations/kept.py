"""What a downgrade takes out of the way and the next upgrade brings back: the schema `deer_reid_kept`.

Tables move there as they are, with rows, indexes, triggers and sequences. Columns on the owner's tables are copied to
`deer_reid_kept.<name>`, by id, before they are dropped. The revisions load this file; they cannot import it, because
the folder is no package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa

SCHEMA = "deer_reid_kept"


def begin(connection: sa.Connection) -> None:
    """Make the schema where it is missing."""
    if connection.scalar(sa.text("SELECT to_regnamespace(:name)"), {"name": SCHEMA}) is None:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        connection.exec_driver_sql(
            f"COMMENT ON SCHEMA {SCHEMA} IS 'What deer-reid had when it was downgraded; its next upgrade takes it back'"
        )


def end(connection: sa.Connection) -> None:
    """Drop the schema once nothing is left in it."""
    held = "SELECT 1 FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace(:name)"
    if connection.scalar(sa.text(f"{held} LIMIT 1"), {"name": SCHEMA}) is None:
        connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {SCHEMA}")


def tables(connection: sa.Connection) -> set[str]:
    """Names of the tables that are kept; none if nothing was ever downgraded."""
    return set(sa.inspect(connection).get_table_names(schema=SCHEMA))


def put_away(connection: sa.Connection, kind: str, name: str) -> None:
    """Move a table or a function there."""
    connection.exec_driver_sql(f"ALTER {kind} {name} SET SCHEMA {SCHEMA}")


def bring_back(connection: sa.Connection, kind: str, name: str) -> None:
    """Move a table or a function back to where ours are."""
    home = connection.scalar(sa.text("SELECT quote_ident(current_schema())"))
    connection.exec_driver_sql(f"ALTER {kind} {SCHEMA}.{name} SET SCHEMA {home}")


def keep_columns(connection: sa.Connection, name: str, table: str, columns: Iterable[str]) -> None:
    """Copy columns of an owner's table, with the ids of its rows, to a kept table of the given name."""
    connection.exec_driver_sql(f"CREATE TABLE {SCHEMA}.{name} AS SELECT {_list(['id', *columns])} FROM {table}")
    connection.exec_driver_sql(f"COMMENT ON TABLE {SCHEMA}.{name} IS 'Columns of {table} that a downgrade dropped'")


def restore_columns(connection: sa.Connection, name: str, table: str, values: Mapping[str, str | None]) -> None:
    """Give the rows that still exist what they had, and drop the kept table.

    Args:
        name: the kept table; nothing happens if there is none.
        values: columns to fill; the expression over `t` (the owner's row) and `k` (the kept one) that each gets, None
            for what was kept. A column that was not kept is left as it is.
    """
    if name not in tables(connection):
        return
    there = {column["name"] for column in sa.inspect(connection).get_columns(name, schema=SCHEMA)}
    wanted = [
        f'"{column}" = ' + (f'k."{column}"' if value is None else value)
        for column, value in values.items()
        if column in there
    ]
    if wanted:
        with owner_triggers_off(connection, table):
            connection.exec_driver_sql(
                f"UPDATE {table} t SET {', '.join(wanted)} FROM {SCHEMA}.{name} k WHERE k.id = t.id"
            )
    connection.exec_driver_sql(f"DROP TABLE {SCHEMA}.{name}")


@contextmanager
def owner_triggers_off(connection: sa.Connection, table: str) -> Iterator[None]:
    """A trigger of the owner's (updated_at and the like) must not take the return of our values for a change."""
    triggers = connection.execute(
        sa.text(
            "SELECT replace(quote_ident(tgname), '%', '%%'), CASE tgenabled WHEN 'A' THEN 'ALWAYS ' ELSE '' END "
            "FROM pg_trigger WHERE tgrelid = CAST(:table AS regclass) AND NOT tgisinternal AND tgenabled IN ('O', 'A')"
        ),
        {"table": table},
    ).all()
    for trigger, _ in triggers:
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
    yield
    for trigger, always in triggers:
        connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE {always}TRIGGER {trigger}")


def _list(columns: Iterable[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)
