"""The migrations on an empty database, and on the owner's in two shapes and its real numbers of rows."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store import migrate
from deer_reid_pipeline.store.models import OWNER_TABLES, Base, Deer, Detection, Image
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.store import owner


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def schema_without_kept(engine: Engine) -> set[tuple[object, ...]]:
    """`owner.schema` looks at one schema for all but triggers; those of the kept tables are not the owner's."""
    kept = text(
        "SELECT 'trigger', tgname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid "
        "WHERE NOT tgisinternal AND relnamespace = to_regnamespace('deer_reid_kept')"
    )
    with engine.connect() as connection:
        return owner.schema(engine) - {tuple(row) for row in connection.execute(kept)}


def test_models_and_migrated_database_are_the_same(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    with engine.connect() as connection:
        options = {"include_object": migrate.include_object, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_upgrade_twice_changes_nothing(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    before = owner.schema(engine)
    migrate.upgrade(empty_database_url)
    assert owner.schema(engine) == before
    assert migrate.current(empty_database_url) == migrate.head()


def test_every_revision_can_be_taken_back(empty_database_url: str, engine: Engine) -> None:
    schemas = []
    for revision in ("0001", "0002", "0003", "0004", "0005"):
        migrate.upgrade(empty_database_url, revision)
        schemas.append(schema_without_kept(engine))
    assert migrate.current(empty_database_url) == migrate.head()
    migrate.downgrade(empty_database_url, "0004")
    assert schema_without_kept(engine) == schemas[3]
    migrate.downgrade(empty_database_url, "0003")
    assert schema_without_kept(engine) == schemas[2]
    migrate.downgrade(empty_database_url, "0002")
    assert schema_without_kept(engine) == schemas[1]
    migrate.downgrade(empty_database_url, "0001")
    assert schema_without_kept(engine) == schemas[0]
    migrate.downgrade(empty_database_url, "base")
    assert schema_without_kept(engine) == set()
    migrate.upgrade(empty_database_url)
    assert schema_without_kept(engine) == schemas[4]


def test_enhancement_is_what_was_specified(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url, "0001")
    before = owner.schema(engine)
    migrate.upgrade(empty_database_url, "0002")
    added = owner.schema(engine) - before
    assert before <= owner.schema(engine), "not additive"
    columns = {row[2]: row[3:6] for row in added if row[0] == "column"}
    assert columns == {
        "feature_vector_multiscale": ("vector(512)", False, None),
        "feature_vector_efficientnet": ("vector(512)", False, None),
        "embedding_version": ("character varying(20)", False, "'v1_resnet50'::character varying"),
    }
    assert all(row[6] for row in added if row[0] == "column"), "a column without a comment"
    hnsw = "CREATE INDEX {0}_hnsw ON public.deer USING hnsw ({1} vector_cosine_ops) WITH (m='16', ef_construction='64')"
    assert {row[1]: row[2] for row in added if row[0] == "index"} == {
        f"ix_deer_{name}_hnsw": hnsw.format(f"ix_deer_{name}", name)
        for name in ("feature_vector_multiscale", "feature_vector_efficientnet")
    } | {
        "ix_deer_embedding_version": (
            "CREATE INDEX ix_deer_embedding_version ON public.deer USING btree (embedding_version)"
        )
    }
    with engine.connect() as connection:
        for _, name, _ in (row for row in added if row[0] == "index"):
            comment = text("SELECT obj_description(CAST(:name AS regclass))")
            assert connection.scalar(comment, {"name": name}), f"{name} has no comment"


def test_our_tables_and_their_columns_have_comments(database_url: str) -> None:
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        bare = connection.execute(
            text(
                "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
                "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> ALL (:theirs) "
                "AND a.attnum > 0 AND NOT a.attisdropped "
                "AND (obj_description(c.oid) IS NULL OR col_description(c.oid, a.attnum) IS NULL)"
            ),
            {"theirs": ["alembic_version", *OWNER_TABLES]},
        ).all()
    assert bare == []


def test_enhancement_finds_half_of_itself_already_there(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url, "0001")
    run(engine, "ALTER TABLE deer ADD COLUMN feature_vector_multiscale vector(512)")
    migrate.upgrade(empty_database_url, "0002")
    assert migrate.current(empty_database_url) == "0002"


@pytest.mark.parametrize(
    ("in_the_way", "named"),
    [
        ("ALTER TABLE deer ADD COLUMN feature_vector_multiscale text", "feature_vector_multiscale"),
        ("ALTER TABLE deer ADD COLUMN feature_vector_efficientnet vector(256)", "feature_vector_efficientnet"),
        ("CREATE INDEX ix_deer_embedding_version ON deer (name)", "ix_deer_embedding_version"),
    ],
)
def test_enhancement_checks_itself_and_changes_nothing(
    empty_database_url: str, engine: Engine, in_the_way: str, named: str
) -> None:
    migrate.upgrade(empty_database_url, "0001")
    run(engine, in_the_way)
    before = owner.schema(engine)
    with pytest.raises(DatabaseError, match=named):
        migrate.upgrade(empty_database_url)
    assert owner.schema(engine) == before
    assert migrate.current(empty_database_url) == "0001"


def test_pgvector_without_hnsw_is_refused(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url, "0001")
    run(engine, "UPDATE pg_extension SET extversion = '0.4.4' WHERE extname = 'vector'")
    with pytest.raises(DatabaseError, match=r"pgvector 0\.4\.4 has no HNSW"):
        migrate.upgrade(empty_database_url, "0002")


def insert_as_the_pipeline_does(engine: Engine) -> None:
    """Rows with nothing but what our code always gives, and two pictures that had the same path."""
    with Session(engine) as session:
        images = [Image(id=uuid.uuid4(), filename="a.jpg", path="x" * 600) for _ in range(2)]
        deer = Deer(id=uuid.uuid4(), sex="fawn")
        session.add_all([*images, deer, Deer(id=uuid.uuid4())])
        session.flush()
        box = {"x": 0, "y": 0, "width": 1, "height": 1}
        session.add(Detection(id=uuid.uuid4(), image_id=images[0].id, bbox=box, confidence=0.5))
        session.commit()
        assert session.scalars(select(Deer.id).where(Deer.sex == "fawn")).all() == [deer.id]
        assert session.get_one(Deer, deer.id).embedding_version == "v1_resnet50"


@pytest.mark.parametrize("shape", owner.SHAPES.values(), ids=owner.SHAPES)
def test_owner_database_up_down_and_up_again(
    shape: Callable[[str], None],
    empty_database_url: str,
    engine: Engine,
    record_property: Callable[[str, object], None],
) -> None:
    shape(empty_database_url)
    owner.fill(empty_database_url)
    contents, schema = owner.contents(engine), owner.schema(engine)
    assert contents["detections"][0] == owner.DETECTIONS  # type: ignore[index]
    for round_trip in range(2):
        begun = time.perf_counter()
        migrate.upgrade(empty_database_url)
        seconds = time.perf_counter() - begun
        record_property(f"upgrade_{round_trip}_seconds", round(seconds, 2))
        print(f"upgrade of the owner's database: {seconds:.2f} s")
        assert seconds < 10
        assert owner.contents(engine) == contents
        migrate.downgrade(empty_database_url, "0001")
        assert owner.contents(engine) == contents
        assert schema_without_kept(engine) == schema
    migrate.upgrade(empty_database_url)
    insert_as_the_pipeline_does(engine)


def test_taking_back_keeps_rows_that_the_owner_schema_would_refuse(
    empty_database_url: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    owner.by_hand(empty_database_url)
    migrate.upgrade(empty_database_url)
    insert_as_the_pipeline_does(engine)
    before = owner.contents(engine)
    migrate.downgrade(empty_database_url, "0001")
    assert owner.contents(engine) == before
    for part in ('"timestamp" SET NOT NULL', "UNIQUE", "varchar(512)"):
        assert any("left as it is" in line and part in line for line in caplog.messages), f"{part} was not said"
    migrate.upgrade(empty_database_url)
    assert owner.contents(engine) == before


def test_database_with_fewer_columns_gets_those_that_we_use(empty_database_url: str, engine: Engine) -> None:
    run(engine, owner.BARE)
    before = owner.schema(engine)
    migrate.upgrade(empty_database_url)
    insert_as_the_pipeline_does(engine)
    with Session(engine) as session:
        assert session.get_one(Deer, uuid.UUID(int=1)).name == "old"
        session.execute(text("DELETE FROM detections"))
        session.execute(text("DELETE FROM images"))
        session.commit()
    migrate.downgrade(empty_database_url, "0001")
    assert schema_without_kept(engine) == before


def test_ids_that_are_not_uuid_are_refused(empty_database_url: str, engine: Engine) -> None:
    run(engine, "CREATE EXTENSION vector", "CREATE TABLE images (id serial PRIMARY KEY, path text)")
    with pytest.raises(DatabaseError):
        migrate.upgrade(empty_database_url)
    run(engine, "CREATE TABLE deer (id serial PRIMARY KEY)", "CREATE TABLE detections (id uuid, image_id integer)")
    with pytest.raises(DatabaseError, match=r"images\.id is integer, not uuid"):
        migrate.upgrade(empty_database_url)
    assert migrate.current(empty_database_url) is None


def test_a_foreign_table_of_one_of_our_names_is_refused(empty_database_url: str, engine: Engine) -> None:
    run(engine, "CREATE TABLE recipes (dish text)")
    with pytest.raises(DatabaseError, match="recipes"):
        migrate.upgrade(empty_database_url)


def test_owner_tables_with_rows_are_never_dropped(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    insert_as_the_pipeline_does(engine)
    before = owner.contents(engine)
    with pytest.raises(DatabaseError, match="not dropped while they hold rows"):
        migrate.downgrade(empty_database_url, "base")
    assert owner.contents(engine) == before
    assert migrate.current(empty_database_url) == migrate.head(), "an aborted downgrade left half of itself"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE match_decisions SET reason = 'another'",
        "DELETE FROM match_decisions",
        "TRUNCATE match_decisions",
        "TRUNCATE encounters CASCADE",
    ],
)
def test_decision_log_is_append_only(database_url: str, statement: str) -> None:
    engine = create_engine(database_url, poolclass=NullPool)
    run(
        engine,
        "INSERT INTO drops (key, name, root, digest, layout, detector) VALUES ('d', 'd', '/', '', 'folder', 'none')",
        "INSERT INTO encounters (id, drop_key, ordinal, event_key) "
        "VALUES ('00000000-0000-0000-0000-000000000001', 'd', 1, 'e')",
        "INSERT INTO match_decisions (encounter_id, drop_key, detection_ids, decision, method, reason, matcher) "
        "VALUES ('00000000-0000-0000-0000-000000000001', 'd', '{}', 'uncertain', 'machine', 'first', 'v3_ensemble')",
    )
    with pytest.raises(DBAPIError, match="append-only"):
        run(engine, statement)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT reason FROM match_decisions")) == "first"


def test_a_home_from_before_the_log_of_releases_gets_its_first_event(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url, "0003")
    ones = "(SELECT array_agg(1) FROM generate_series(1, 512))::vector"
    run(
        engine,
        "INSERT INTO recipes (id, name, spec) VALUES ('r', 'r', '{}')",
        "INSERT INTO releases (recipe_id, policy, live, reason, created_at) "
        "VALUES ('r', '{}', true, 'because', '2026-05-01')",
        "INSERT INTO deer (id, name, feature_vector_multiscale, feature_vector_efficientnet, first_seen, last_seen) "
        f"SELECT gen_random_uuid(), 'shown', {ones}, {ones}, now(), now()",
        "INSERT INTO deer (id, name, first_seen, last_seen) VALUES (gen_random_uuid(), 'not yet', now(), now())",
        "INSERT INTO deer (id, name, feature_vector_multiscale, feature_vector_efficientnet, first_seen, last_seen) "
        f"SELECT gen_random_uuid(), 'another''s', {ones}, {ones}, now(), now()",
        "INSERT INTO profiles (deer_id, recipe_id, branch, vector, detections, digest) "
        f"SELECT id, 'r', 'multiscale', {ones}, 1, '' FROM deer WHERE name = 'shown'",
    )
    for _ in range(2):
        migrate.upgrade(empty_database_url)
        with engine.connect() as connection:
            events = connection.execute(
                text("SELECT action, release_id, reason, at = '2026-05-01' FROM release_events")
            )
            assert [tuple(row) for row in events] == [("first", 1, "because", True)]
            shown = connection.execute(text("SELECT name, columns_recipe_id FROM deer ORDER BY name DESC"))
            assert [tuple(row) for row in shown] == [("shown", "r"), ("not yet", None), ("another's", None)]
            assert connection.scalar(text("SELECT promoted_at = created_at FROM releases"))
        migrate.downgrade(empty_database_url, "0003")


def test_another_table_named_reviews_is_refused(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url, "0003")
    run(engine, "CREATE TABLE reviews (stars integer)")
    with pytest.raises(DatabaseError, match="tables named reviews that are not ours"):
        migrate.upgrade(empty_database_url)
    assert migrate.current(empty_database_url) == "0003"


def test_two_processes_that_upgrade_at_once_take_turns(empty_database_url: str) -> None:
    code = "import sys; from deer_reid_pipeline.store import migrate; migrate.upgrade(sys.argv[1])"
    command = [sys.executable, "-c", code, empty_database_url]
    both = [subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate(timeout=60)[1], process.returncode) for process in both] == [("", 0), ("", 0)]
    assert migrate.current(empty_database_url) == migrate.head()


def test_a_table_that_another_session_holds_is_named_and_nothing_changes(
    empty_database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(empty_database_url, "0001")
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 1)
    with engine.begin() as other:
        other.exec_driver_sql("LOCK TABLE deer IN ACCESS SHARE MODE")
        with pytest.raises(DatabaseError, match="kept a table locked for 1 s"):
            migrate.upgrade(empty_database_url)
    assert migrate.current(empty_database_url) == "0001"


def test_database_of_a_newer_version_is_left_alone(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    run(engine, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseError, match="newer version"):
        migrate.upgrade(empty_database_url)
