"""An upgrade from the revision before the newest, with rows in every table that it has: every value stays."""

from __future__ import annotations

from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, Table, insert, text

from deer_reid_pipeline.store import migrate
from deer_reid_pipeline_tests.store.test_downgrade import ALLOWED, ROWS, value

NOT_DATA = {"alembic_version", "deer_reid_undo"}


def previous_revision() -> str:
    """The one before the newest."""
    script = ScriptDirectory(str(migrate.migrations_dir()))
    newest = script.get_revision(migrate.head())
    assert newest is not None
    assert isinstance(newest.down_revision, str)
    return newest.down_revision


def tables_of(engine: Engine) -> list[Table]:
    """The tables as the database has them, not as the models will."""
    found = MetaData()
    found.reflect(engine)
    return [table for table in found.sorted_tables if table.name not in NOT_DATA]


def rows_of(engine: Engine, tables: list[Table]) -> dict[str, list[dict[str, Any]]]:
    """Every row, with the columns that these tables have."""
    found = {}
    with engine.connect() as connection:
        for table in tables:
            rows = connection.execute(text(f"SELECT to_jsonb(t) FROM {table.name} t")).scalars()
            names = {column.name for column in table.columns}
            found[table.name] = sorted(({key: row[key] for key in row if key in names} for row in rows), key=str)
    return found


def test_rows_of_the_revision_before_are_all_there_after_the_upgrade(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url, previous_revision())
    tables = tables_of(engine)
    assert {"deer", "detections", "match_decisions", "releases", "embeddings"} <= {table.name for table in tables}
    with engine.begin() as connection:
        for table in tables:
            for n in range(ROWS):
                row = {column.name: value(table, column, n) for column in table.columns}
                connection.execute(insert(table).values(row))
    before = rows_of(engine, tables)
    assert all(len(rows) == ROWS for rows in before.values())
    assert {name for name, _ in ALLOWED} <= set(before)

    migrate.upgrade(empty_database_url)
    assert migrate.current(empty_database_url) == migrate.head()
    assert rows_of(engine, tables) == before
    assert len(before["deer"]) == len({row["name"] for row in before["deer"]}) == ROWS
