"""A database is restored wholly or not at all, on older servers too; whatever stops it, nothing is lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store import backup, restore
from deer_reid_pipeline.store.backup import dump_database
from deer_reid_pipeline.store.embedded import EmbeddedServer, os_user, postgres_binaries
from deer_reid_pipeline.store.restore import restore_database
from deer_reid_pipeline_tests.sites import run_sql

LINE = "SET transaction_timeout = 0;"
SLOW_IN_PSQL = """
CREATE FUNCTION slow(n integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_sleep(CASE current_setting('application_name') WHEN 'psql' THEN 100 ELSE 0 END);
    RETURN n;
END $$
"""


def value(url: str, statement: str) -> Any:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return connection.scalar(text(statement))


def programs_of(major: str) -> Path:
    """PostgreSQL's programs of a version: from the wheel, which brings more than one, or as Debian installs them."""
    wheel = postgres_binaries().parents[1]
    for folder in (*wheel.glob("pginstall*/bin"), *Path("/usr/lib/postgresql").glob("*/bin")):
        told = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True).stdout
        if f" {major}." in told:
            return folder
    pytest.skip(f"no PostgreSQL {major} is installed here")


@pytest.fixture(scope="module", params=["15", "16"])
def older(request: pytest.FixtureRequest, make_home: Callable[[], Path]) -> Iterator[Callable[[str], str]]:
    """A server before version 17; gives addresses of its databases."""
    programs, data = programs_of(request.param), make_home() / "data"
    user = os_user.service_user(data)
    data.mkdir(mode=0o700)
    os_user.give(data, user)
    as_user: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def run(name: str, *arguments: object) -> None:
        with (data.parent / "said").open("ab") as said:
            subprocess.run(
                [programs / name, *map(str, arguments), "-D", str(data)],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                start_new_session=True,
                **as_user,
            )

    try:
        run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8")
    except PermissionError:
        pytest.skip(f"the server's OS user cannot run {programs}")
    run("pg_ctl", "start", "-w", "-o", f"-c listen_addresses= -k {data}", "-l", data / "server.log")
    try:
        yield lambda name: f"postgresql://postgres@/{name}?host={data}"
    finally:
        run("pg_ctl", "stop", "-w", "-m", "immediate")


@pytest.fixture
def url(server: EmbeddedServer) -> Iterator[str]:
    """A database with a row."""
    name = f"full_{uuid.uuid4().hex}"
    run_sql(server.url("postgres"), f"CREATE DATABASE {name}")
    run_sql(server.url(name), "CREATE TABLE deer AS SELECT 'Big Buck' AS name")
    yield server.url(name)
    for left in (name, kept_name(server.url(name))):
        run_sql(server.url("postgres"), f"DROP DATABASE IF EXISTS {left} WITH (FORCE)")


def kept_name(url: str) -> str:
    found = re.search(r"full_\w+", url)
    assert found is not None
    return f"{found[0]}_kept"


def databases(server: EmbeddedServer, url: str) -> list[str]:
    """Those of a test: the one at its address, and what it was renamed to."""
    with create_engine(server.url("postgres"), poolclass=NullPool).connect() as connection:
        names = text("SELECT datname FROM pg_database WHERE datname LIKE :like ORDER BY 1")
        return list(connection.scalars(names, {"like": f"{kept_name(url).removesuffix('_kept')}%"}))


@pytest.mark.parametrize("installed", [False, True])
def test_a_server_before_17_takes_its_own_back_with_or_without_installed_programs(
    older: Callable[[str], str], installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setattr(backup.shutil, "which", lambda name: None)
    elif shutil.which("pg_restore") is None:
        pytest.skip("no client programs of PostgreSQL are installed here")
    name = f"herd_{installed}".lower()
    url, before = older(name), f"{name}_before"
    run_sql(older("postgres"), f"CREATE DATABASE {name}")
    run_sql(url, f"CREATE TABLE notes AS SELECT '{LINE}' AS note FROM generate_series(1, 5000)")
    vectors = bool(value(url, "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"))
    if vectors:
        run_sql(url, "CREATE EXTENSION vector")
        run_sql(url, "CREATE TABLE deer AS SELECT array_agg(g)::vector(512) AS v FROM generate_series(1, 512) g")
        run_sql(url, "CREATE INDEX ON deer USING hnsw (v vector_cosine_ops)")
    dump = dump_database(url, tmp_path / "herd.dump", embedded=False)
    run_sql(url, "TRUNCATE notes")
    assert restore_database(url, dump, embedded=False, vectors=vectors, keep_as=before)
    assert value(url, f"SELECT count(*) FROM notes WHERE note = '{LINE}'") == 5000, "a row was taken for a setting"
    assert value(older(before), "SELECT count(*) FROM notes") == 0
    if vectors:
        assert value(url, "SELECT vector_dims(v) FROM deer") == 512


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_middle_leaves_the_database_as_it_was(server: EmbeddedServer, url: str, tmp_path: Path) -> None:
    run_sql(url, SLOW_IN_PSQL)
    run_sql(url, "CREATE INDEX ON deer (slow(length(name)))")
    dump = dump_database(url, tmp_path / "a.dump", embedded=True)

    def interrupt() -> None:
        at_work = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'psql' AND wait_event = 'PgSleep'"
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if value(server.url("postgres"), at_work):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.1)

    watching = threading.Thread(target=interrupt)
    watching.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            restore_database(url, dump, embedded=True, vectors=False, keep_as=kept_name(url))
    finally:
        watching.join()
    assert databases(server, url) == [kept_name(url).removesuffix("_kept")]
    assert value(url, "SELECT name FROM deer") == "Big Buck"


def test_no_room_for_a_temporary_file_leaves_the_database_as_it_was(
    server: EmbeddedServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = dump_database(url, tmp_path / "a.dump", embedded=True)

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(restore.tempfile, "TemporaryDirectory", full)
    with pytest.raises(DatabaseError, match=r"was not restored from .* No space left on device"):
        restore_database(url, dump, embedded=True, vectors=False, keep_as=kept_name(url))
    assert databases(server, url) == [kept_name(url).removesuffix("_kept")]
    assert value(url, "SELECT name FROM deer") == "Big Buck"


def test_where_nothing_can_be_put_back_the_error_names_what_is_kept(
    server: EmbeddedServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def server_goes_away(*_: object, **__: object) -> None:
        gone = create_engine("postgresql://postgres@127.0.0.1:1/postgres", poolclass=NullPool)
        monkeypatch.setattr(restore, "_server", lambda url: gone)
        raise KeyboardInterrupt

    monkeypatch.setattr(restore, "_fill", server_goes_away)
    with pytest.raises(DatabaseError, match=f"what it held is kept as {kept_name(url)}, because .*refused") as caught:
        restore_database(url, tmp_path / "a.dump", embedded=True, vectors=False, keep_as=kept_name(url))
    assert "\n" not in str(caught.value)
    assert value(server.url(kept_name(url)), "SELECT name FROM deer") == "Big Buck"


def test_a_restore_that_was_whole_when_it_was_stopped_is_not_taken_back(
    server: EmbeddedServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = dump_database(url, tmp_path / "a.dump", embedded=True)
    run_sql(url, "UPDATE deer SET name = 'Old Doe'")
    whole = restore._fill

    def stopped_after_it(*arguments: Any, **options: Any) -> None:
        whole(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(restore, "_fill", stopped_after_it)
    with pytest.raises(DatabaseError, match=f"was restored before .* what it held is kept as {kept_name(url)}"):
        restore_database(url, dump, embedded=True, vectors=False, keep_as=kept_name(url))
    assert value(url, "SELECT name FROM deer") == "Big Buck"
    assert value(server.url(kept_name(url)), "SELECT name FROM deer") == "Old Doe"
