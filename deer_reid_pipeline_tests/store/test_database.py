"""Opening a database: what is accepted, what is refused and in which words, and what happens when it dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.store import database as module
from deer_reid_pipeline.store import migrate
from deer_reid_pipeline.store.database import Database, connect
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline.store.models import Deer
from deer_reid_pipeline_tests.sites import run_sql
from deer_reid_pipeline_tests.store.clients import kill_server


def settings(home: Path, url: str | None = None, dagster_url: str | None = None) -> Settings:
    return Settings.model_validate({"home": home, "database_url": url, "dagster_database_url": dagster_url})


@pytest.fixture(scope="module")
def opened(make_home: Callable[[], Path]) -> Iterator[Database]:
    """A database opened as a new home does."""
    made = connect(settings(make_home()))
    yield made
    made.close()
    assert made.server is not None
    made.server.stop()


@pytest.fixture
def plain_role(server: EmbeddedServer) -> Iterator[str]:
    """A role that may connect and nothing else."""
    name = f"plain_{uuid.uuid4().hex[:8]}"
    run_sql(server.url("postgres"), f"CREATE ROLE {name} LOGIN PASSWORD 's3cret'")
    yield name
    run_sql(server.url("postgres"), f"DROP ROLE {name}")


def test_new_home_gets_both_databases_and_the_extension(opened: Database) -> None:
    with opened.session() as session:
        assert session.scalar(text("SELECT '[1,2]'::vector <=> '[1,2]'::vector")) == 0
    for url, name in ((opened.url, "deer_reid"), (opened.dagster_url, "dagster")):
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            assert cursor.fetchone() == (name,)


def test_new_home_says_to_run_init(opened: Database) -> None:
    with pytest.raises(DatabaseError, match="no pipeline tables yet: run deer-reid init"):
        opened.check_revision()


def test_revision_behind_and_ahead(database: Database) -> None:
    database.check_revision()
    migrate.downgrade(database.url, "0002")
    with pytest.raises(DatabaseError, match=r"at revision 0002, this version needs .*run deer-reid init"):
        database.check_revision()
    migrate.upgrade(database.url)
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match=r"9999.*newer deer-reid"):
        database.check_revision()


def test_session_commits_at_the_end_and_rolls_back_on_an_error(database: Database) -> None:
    kept, lost = uuid.uuid4(), uuid.uuid4()
    with database.session() as session:
        session.add(Deer(id=kept))

    def fail() -> None:
        with database.session() as session:
            session.add(Deer(id=lost))
            session.flush()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    with database.session() as session:
        assert session.scalars(select(Deer.id)).all() == [kept]


def test_killed_server_is_started_again_and_the_pool_recovers(opened: Database) -> None:
    assert opened.server is not None
    with opened.session() as session:
        session.execute(text("CREATE TABLE kept AS SELECT 7 AS n"))
    pid = opened.server.pid
    assert pid is not None
    kill_server(pid, children=True)
    with pytest.raises(DBAPIError), opened.session() as session:
        session.execute(text("SELECT 1"))
    opened.ensure_alive()
    with opened.session() as session:
        assert session.scalar(text("SELECT n FROM kept")) == 7
    assert opened.server.pid != pid


def test_connections_cut_by_the_server_are_replaced_unseen(database: Database, server: EmbeddedServer) -> None:
    with database.session() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    run_sql(server.url("postgres"), f"SELECT pg_terminate_backend({pid}, 5000)")
    with database.session() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) != pid


def _child_backend(database: Database, answer: Pipe) -> None:
    with database.session() as session:
        answer.send(session.scalar(text("SELECT pg_backend_pid()")))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_processes_have_connections_of_their_own(database: Database, method: str) -> None:
    with database.session() as session:
        ours = session.scalar(text("SELECT pg_backend_pid()"))
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    child = context.Process(  # type: ignore[attr-defined]
        target=_child_backend, args=(database, send)
    )
    child.start()
    assert receive.poll(60)
    assert receive.recv() != ours
    child.join(60)
    assert child.exitcode == 0
    with database.session() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) == ours, "the child closed its parent's connection"


def test_pickled_database_is_the_same_database(database: Database) -> None:
    again = pickle.loads(pickle.dumps(database))
    assert (again.url, again.dagster_url, again.server) == (database.url, database.dagster_url, database.server)
    again.close()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_accepted_schemes(database_url: str, tmp_path: Path, scheme: str) -> None:
    found = connect(settings(tmp_path, database_url.replace("postgresql", scheme, 1)))
    assert found.url.startswith("postgresql://")
    found.check_revision()
    found.close()
    assert not list(tmp_path.iterdir()), "an embedded server was made although DATABASE_URL is set"


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("sqlite:///x.db", "only PostgreSQL"),
        ("mysql://u:s3cret@h/x", "only PostgreSQL"),
        ("postgresql+asyncpg://u:s3cret@h/x", "only PostgreSQL"),
        ("postgresql://u:s3cret@h", "names no database"),
        ("u:s3cret@h", "cannot be read"),
        ("postgresql://u:s3cret@h:port/x", "cannot be read"),
        ("postgresql://u:s3cret@127.0.0.1:1/x", "start the server or correct DATABASE_URL"),
        ("postgresql://127.0.0.1:1/x?user=u&password=s3cret", "start the server or correct DATABASE_URL"),
    ],
)
def test_unusable_url_is_one_line_without_the_password(tmp_path: Path, url: str, fix: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        connect(settings(tmp_path, url))
    message = str(caught.value)
    assert fix in message
    assert "DATABASE_URL" in message
    assert "s3cret" not in message
    assert "\n" not in message
    assert message.isascii()


def test_missing_database_says_how_to_make_it(server: EmbeddedServer, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="createdb nowhere"):
        connect(settings(tmp_path, server.url("nowhere")))


def test_missing_dagster_database_names_its_own_variable(
    database_url: str, server: EmbeddedServer, tmp_path: Path
) -> None:
    with pytest.raises(DatabaseError, match="DEER_REID_DAGSTER_DATABASE_URL"):
        connect(settings(tmp_path, database_url, server.url("nowhere")))


def test_password_is_neither_in_repr_nor_in_safe_url(database_url: str) -> None:
    found = Database("postgresql://u:s3cret@h/x?sslpassword=s3cret")
    assert "s3cret" not in repr(found) + found.safe_url
    assert "s3cret" in found.url, "libraries need it"
    assert found.dagster_url == "postgresql://u:s3cret@h/dagster?sslpassword=s3cret"


def test_role_that_may_not_switch_pgvector_on(empty_database_url: str, plain_role: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="have an administrator run CREATE EXTENSION vector"):
        connect(settings(tmp_path, empty_database_url.replace("postgres@", f"{plain_role}:s3cret@")))


def test_role_that_may_not_make_the_dagster_database(
    database_url: str, plain_role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DAGSTER_DATABASE_NAME", f"dagster_{uuid.uuid4().hex[:8]}")
    with pytest.raises(
        DatabaseError, match=r"CREATE DATABASE dagster_.* or set DEER_REID_DAGSTER_DATABASE_URL"
    ) as caught:
        connect(settings(tmp_path, database_url.replace("postgres@", f"{plain_role}:s3cret@")))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("version", "fine"), [("0.4.4", False), ("0.5.0", True), ("0.10.0", True)])
def test_pgvector_version(database_url: str, tmp_path: Path, version: str, fine: bool) -> None:
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'vector'"))
    if fine:
        connect(settings(tmp_path, database_url)).close()
    else:
        with pytest.raises(DatabaseError, match=r"pgvector 0\.4\.4.*ALTER EXTENSION vector UPDATE"):
            connect(settings(tmp_path, database_url))


def test_server_without_pgvector(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query's answer there is no row: the same query for an extension that does not exist."""
    real = module.text
    monkeypatch.setattr(module, "text", lambda query: real(query.replace("name = 'vector'", "name = 'nothing'")))
    with pytest.raises(DatabaseError, match="has no pgvector; install it on the server"):
        connect(settings(tmp_path, database_url))


def test_old_postgresql(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_POSTGRES", 99)
    with pytest.raises(DatabaseError, match="is PostgreSQL 18; upgrade it to 99"):
        connect(settings(tmp_path, database_url))


def test_dead_external_server_is_an_error_after_bounded_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    with pytest.raises(DatabaseError, match="start the server"):
        Database("postgresql://u:s3cret@127.0.0.1:1/x").ensure_alive()
    assert len(waits) == module.ALIVE_ATTEMPTS - 1


def test_migrations_are_found_beside_the_package_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert migrate.migrations_dir().samefile(Path(__file__).parents[2] / "migrations")
    package = tmp_path / "deer_reid_pipeline"
    shared = package / "_share" / "migrations"
    (shared / "versions").mkdir(parents=True)
    (shared / "env.py").touch()
    monkeypatch.setattr(migrate, "__file__", os.fspath(package / "store" / "migrate.py"))
    assert migrate.migrations_dir() == shared
    (shared / "env.py").unlink()
    with pytest.raises(DatabaseError, match="install deer-reid-pipeline again"):
        migrate.migrations_dir()
