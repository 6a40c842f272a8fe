"""Down and up again: nothing that people said and nothing that was computed is lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pgvector.sqlalchemy import Vector
from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Engine,
    Float,
    Integer,
    String,
    Table,
    create_engine,
    insert,
    text,
)
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.store import migrate
from deer_reid_pipeline.store.models import Base
from deer_reid_pipeline_tests.store import owner

ROWS = 4
TABLES = [*Base.metadata.sorted_tables]
NAMESPACE = uuid.UUID(int=4711)

ALLOWED: dict[tuple[str, str], Callable[[int], Any]] = {
    ("deer", "sex"): lambda n: "doe",
    ("release_events", "action"): ("first", "proposed", "promoted", "rolled_back").__getitem__,
    ("reviews", "detection_a"): lambda n: uuid.UUID(int=n),
    ("reviews", "detection_b"): lambda n: uuid.UUID(int=n + 2**64),
    ("reviews", "verdict"): ("same", "different", "unsure", "same").__getitem__,
    ("monitor_samples", "inclusion_probability"): lambda n: 1 / (n + 1),
    ("ab_tests", "share_b"): lambda n: n / ROWS,
    ("ab_tests", "share_all"): lambda n: 1 - n / ROWS,
    ("ab_outcomes", "arm"): "abab".__getitem__,
}
"""Values of the n-th row where a column does not take any value of its type."""


def by_few_columns(url: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    run(engine, owner.BARE)


SHAPES = {**owner.SHAPES, "fewer_columns": by_few_columns}


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def value(table: Table, column: Column[Any], n: int) -> Any:
    """A value of the column's type; the n-th row refers to the n-th rows."""
    for key in column.foreign_keys:
        return value(key.column.table, key.column, n)
    kind, word = column.type, f"{table.name}.{column.name}.{n}"
    if (table.name, column.name) in ALLOWED:
        return ALLOWED[table.name, column.name](n)
    if isinstance(kind, UUID):
        return uuid.uuid5(NAMESPACE, word)
    if isinstance(kind, Boolean):
        return n == 0
    if isinstance(kind, Integer):
        return n + 1
    if isinstance(kind, Float):
        return n + 0.25
    if isinstance(kind, Date):
        return date(2026, 1, 1 + n)
    if isinstance(kind, DateTime):
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n)
    if isinstance(kind, Vector):
        return [float(n == place % ROWS) for place in range(512)]
    if isinstance(kind, ARRAY):
        return [uuid.uuid5(NAMESPACE, f"detections.id.{n}")]
    if isinstance(kind, JSON):
        return {"said": word}
    assert isinstance(kind, String), f"no value for {word} ({kind})"
    return f"{n}.{column.name}"[: kind.length]


def fill(engine: Engine) -> None:
    """Four rows in every table; the last has only what must be there."""
    with engine.begin() as connection:
        for table in TABLES:
            for n in range(ROWS):
                bare = n == ROWS - 1
                given = [column for column in table.columns if not (bare and column.nullable)]
                row = {column.name: value(table, column, n) for column in given}
                connection.execute(insert(table).values(row))
            for column in table.columns:
                if column.autoincrement is True or (column.primary_key and isinstance(column.type, Integer)):
                    sequence = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
                    connection.exec_driver_sql(f"SELECT setval({sequence}, 41)")


def everything(engine: Engine) -> dict[str, list[Any]]:
    """Every row of every table with all its values, and where the sequences are."""
    with engine.connect() as connection:
        found: dict[str, list[Any]] = {
            table.name: sorted(
                (row for (row,) in connection.execute(text(f"SELECT to_jsonb(t) FROM {table.name} t"))), key=str
            )
            for table in TABLES
        }
        sequences = "SELECT sequencename, last_value FROM pg_sequences WHERE sequencename <> :undo ORDER BY 1"
        undo = {"undo": "deer_reid_undo_ordinal_seq"}
        found["sequences"] = [tuple(row) for row in connection.execute(text(sequences), undo)]
        found["undo"] = sorted(connection.execute(text("SELECT statement FROM deer_reid_undo")).scalars())
    return found


def schemas(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'deer%'")))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "path", [("0004",), ("0003",), ("0002",), ("0001",), ("0004", "0003", "0002", "0001")], ids="-".join
)
def test_every_value_is_there_after_down_and_up(
    shape: Callable[[str], None], path: tuple[str, ...], empty_database_url: str, engine: Engine
) -> None:
    shape(empty_database_url)
    migrate.upgrade(empty_database_url)
    fill(engine)
    before, schema = everything(engine), owner.schema(engine)
    for table in TABLES:
        rows = before[table.name]
        assert len(rows) >= ROWS
        for column in table.columns:
            assert any(row[column.name] is not None for row in rows), f"{table.name}.{column.name} is not tested"
    for _ in range(2):
        for revision in path:
            migrate.downgrade(empty_database_url, revision)
            assert migrate.current(empty_database_url) == revision
            assert "deer_reid_kept" in schemas(engine)
        with engine.connect() as connection:
            names = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            theirs = {*owner.TABLES, "locations", "alembic_version"}
            assert revision in ("0004", "0003") or set(connection.scalars(text(names))) <= theirs
        migrate.upgrade(empty_database_url)
        assert everything(engine) == before
        assert owner.schema(engine) == schema
        assert schemas(engine) == set()
    migrate.upgrade(empty_database_url)
    assert everything(engine) == before


def test_up_one_revision_at_a_time(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    before = everything(engine)
    migrate.downgrade(empty_database_url, "0001")
    migrate.upgrade(empty_database_url, "0002")
    assert "deer_reid_kept" in schemas(engine)
    with engine.connect() as connection:
        version = 'SELECT array_agg(embedding_version ORDER BY embedding_version COLLATE "C") FROM deer'
        assert connection.scalar(text(version)) == sorted(row["embedding_version"] for row in before["deer"])
    migrate.downgrade(empty_database_url, "0001")
    migrate.upgrade(empty_database_url)
    assert everything(engine) == before
    assert schemas(engine) == set()


@pytest.mark.parametrize("revision", ["0002", "0001"])
@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM images WHERE filename LIKE '0.%%'",
        "DELETE FROM deer WHERE name LIKE '1.%%'",
        "DELETE FROM detections WHERE confidence = 2.25",
        "DELETE FROM detections; DELETE FROM images; DELETE FROM deer",
    ],
)
def test_what_the_owner_deletes_meanwhile_takes_ours_with_it(
    change: str, revision: str, empty_database_url: str, engine: Engine, database_url: str
) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    migrate.downgrade(empty_database_url, revision)
    run(engine, change)
    migrate.upgrade(empty_database_url)
    never_down = create_engine(database_url, poolclass=NullPool)
    fill(never_down)
    run(never_down, change)
    assert everything(engine) == everything(never_down)
    assert len(everything(engine)["match_decisions"]) == ROWS


def test_the_owner_may_truncate_and_drop_meanwhile(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    schema, before = owner.schema(engine), everything(engine)
    migrate.downgrade(empty_database_url, "0001")
    run(engine, "TRUNCATE detections", "DELETE FROM images", "DELETE FROM deer")
    migrate.downgrade(empty_database_url, "base")
    migrate.upgrade(empty_database_url)
    assert owner.schema(engine) == schema
    after = everything(engine)
    for name in ("drops", "recipes", "encounters", "releases", "quarantine", "match_decisions", "sequences", "undo"):
        assert after[name] == before[name]
    for name in ("deer", "images", "detections", "detection_crops", "embeddings", "profiles", "profile_exemplars"):
        assert after[name] == []
    assert [row["image_id"] for row in after["drop_media"]] == [None] * ROWS


def test_rows_that_the_owner_adds_meanwhile_get_the_defaults(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    migrate.downgrade(empty_database_url, "0001")
    new = uuid.uuid4()
    run(
        engine,
        f"INSERT INTO deer (id, name, first_seen, last_seen) VALUES ('{new}', 'new', now(), now())",
        "UPDATE deer SET feature_vector = (SELECT array_agg(1) FROM generate_series(1, 512))::vector "
        "WHERE name LIKE '0.%%'",
    )
    migrate.upgrade(empty_database_url)
    deer = {row["name"]: row for row in everything(engine)["deer"]}
    assert deer["new"]["embedding_version"] == "v1_resnet50"
    assert deer["new"]["identified_by"] is None
    assert deer["1.name"]["vector_recipe_id"] == "1.vector_recipe_id"
    assert deer["0.name"]["vector_recipe_id"] is None, "a vector that the owner made would be overwritten"
    assert deer["0.name"]["identified_by"] == "0.identifi"


def test_triggers_of_the_owner_do_not_fire_and_stay_as_they_were(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    before = everything(engine)
    run(
        engine,
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END'",
        'CREATE TRIGGER "Touch 100%%" BEFORE UPDATE ON deer FOR EACH ROW EXECUTE FUNCTION touch()',
        "CREATE TRIGGER always BEFORE UPDATE ON deer FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE TRIGGER never BEFORE UPDATE ON deer FOR EACH ROW EXECUTE FUNCTION touch()",
        "ALTER TABLE deer ENABLE ALWAYS TRIGGER always",
        "ALTER TABLE deer DISABLE TRIGGER never",
    )
    migrate.downgrade(empty_database_url, "0001")
    migrate.upgrade(empty_database_url)
    assert everything(engine) == before
    with engine.connect() as connection:
        states = "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'deer'::regclass AND NOT tgisinternal"
        found = {tuple(row) for row in connection.execute(text(states))}
    assert found == {("Touch 100%", "O"), ("always", "A"), ("never", "D")}


def test_decisions_stay_append_only_all_the_way(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    migrate.downgrade(empty_database_url, "0001")
    with pytest.raises(DBAPIError, match="append-only"):
        run(engine, "DELETE FROM deer_reid_kept.match_decisions")
    migrate.upgrade(empty_database_url)
    with pytest.raises(DBAPIError, match="append-only"):
        run(engine, "UPDATE match_decisions SET reason = 'another'")


def test_what_could_not_be_taken_back_is_tried_again(empty_database_url: str, engine: Engine) -> None:
    owner.by_hand(empty_database_url)
    schema = owner.schema(engine)
    migrate.upgrade(empty_database_url)
    run(
        engine,
        "INSERT INTO images (id, filename, path) "
        "SELECT gen_random_uuid(), 'a.jpg', repeat('x', 600) FROM generate_series(1, 2)",
    )
    undo = everything(engine)["undo"]
    for _ in range(2):
        migrate.downgrade(empty_database_url, "0001")
        migrate.upgrade(empty_database_url)
        assert everything(engine)["undo"] == undo
    run(engine, "DELETE FROM images")
    migrate.downgrade(empty_database_url, "0001")
    run(engine, "DROP SCHEMA deer_reid_kept CASCADE")
    assert owner.schema(engine) == schema


def test_a_column_that_a_view_of_the_owner_holds_keeps_its_newer_values(
    empty_database_url: str, engine: Engine
) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    run(engine, "CREATE VIEW seen AS SELECT id, encounter_id, given_individual FROM detections")
    before = everything(engine)
    migrate.downgrade(empty_database_url, "0001")
    migrate.upgrade(empty_database_url)
    assert everything(engine) == before
    migrate.downgrade(empty_database_url, "0001")
    run(engine, "UPDATE detections SET given_individual = 'since then'")
    migrate.upgrade(empty_database_url)
    assert {row["given_individual"] for row in everything(engine)["detections"]} == {"since then"}


def test_our_column_that_a_view_of_the_owner_holds_is_left_and_said(
    empty_database_url: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    run(engine, "CREATE VIEW shown AS SELECT id, columns_recipe_id FROM deer")
    before = everything(engine)
    migrate.downgrade(empty_database_url, "0003")
    assert any("columns_recipe_id is left as it is" in line for line in caplog.messages)
    migrate.upgrade(empty_database_url)
    assert everything(engine) == before


def test_something_of_another_in_the_kept_schema_is_left_there(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    fill(engine)
    before = everything(engine)
    migrate.downgrade(empty_database_url, "0001")
    run(engine, "CREATE TABLE deer_reid_kept.notes AS SELECT 7 AS n")
    for _ in range(2):
        migrate.upgrade(empty_database_url)
        assert everything(engine) == before
        migrate.downgrade(empty_database_url, "0002")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT n FROM deer_reid_kept.notes")) == 7


def test_down_and_up_with_all_vectors_of_the_owner_takes_seconds(
    empty_database_url: str, engine: Engine, record_property: Callable[[str, object], None]
) -> None:
    owner.by_hand(empty_database_url)
    owner.fill(empty_database_url)
    migrate.upgrade(empty_database_url)
    run(
        engine,
        "UPDATE images SET sha256 = md5(id::text) || md5(path), width = 4000, height = 3000, drop_key = 'd'",
        "UPDATE detections SET given_individual = 'deer 1', classification_method = 'human', viewpoint = 'left'",
        "UPDATE deer SET feature_vector_multiscale = feature_vector, feature_vector_efficientnet = feature_vector",
        "INSERT INTO recipes (id, name, spec) VALUES ('r', 'r', '{}')",
        "INSERT INTO embeddings (detection_id, recipe_id, branch, vector) SELECT d.id, 'r', b, "
        "(SELECT feature_vector FROM deer LIMIT 1) FROM detections d, unnest(ARRAY['x', 'y', 'z']) b",
    )
    rows = {table.name: f"SELECT count(*), bit_xor(hashtext(t::text)) FROM {table.name} t" for table in TABLES}
    for name in owner.TABLES:  # columns that came back stand in another order
        columns = ", ".join(sorted(f"t.{column.name}" for column in Base.metadata.tables[name].columns))
        rows[name] = f"SELECT count(*), bit_xor(hashtext(concat_ws('|', {columns}))) FROM {name} t"

    def sums() -> dict[str, tuple[Any, ...]]:
        with engine.connect() as connection:
            return {name: tuple(connection.execute(text(query)).one()) for name, query in rows.items()}

    before = sums()
    assert before["embeddings"][0] == 3 * owner.DETECTIONS
    for what, step, revision in (("down", migrate.downgrade, "0001"), ("up", migrate.upgrade, "head")):
        begun = time.perf_counter()
        step(empty_database_url, revision)
        seconds = time.perf_counter() - begun
        record_property(f"{what}_seconds", round(seconds, 2))
        print(f"{what} with the owner's numbers: {seconds:.2f} s")
        assert seconds < 60, "not seconds any more"
    assert sums() == before
