"""The embedded server under real faults: killed clients, a killed server, two starts at once, a home out of reach."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store import embedded
from deer_reid_pipeline.store.embedded import (
    EmbeddedServer,
    data_folder,
    embedded_status,
    hold,
    lifecycle,
    os_user,
    programs,
    start_embedded,
)
from deer_reid_pipeline_tests.store.clients import alive, client, kill_server

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another OS user for the server")


@pytest.fixture(scope="module")
def home(make_home: Callable[[], Path]) -> Iterator[Path]:
    """A home of this module's own; its server is stopped at the end, whatever the tests left."""
    folder = make_home() / "home"
    yield folder
    start_embedded(folder).stop()


def query(server: EmbeddedServer, statement: str) -> object:
    connection = psycopg2.connect(server.url("postgres"))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return None if row is None else row[0]
    finally:
        connection.close()


def test_status_of_a_home_without_a_server_makes_nothing(tmp_path: Path) -> None:
    status = embedded_status(tmp_path / "home")
    assert (status.state, status.pid, status.clients) == ("absent", None, False)
    assert not (tmp_path / "home").exists()


def test_two_processes_that_start_a_new_home_at_once_share_one_server(home: Path) -> None:
    (home / "postgres" / "data.new-left-by-a-killed-initdb").mkdir(parents=True)
    with client(home) as first, client(home) as second:
        pid = first.server_pid()
        assert second.server_pid() == pid
        assert embedded_status(home).state == "running"
        first.leave()
        assert alive(pid), "stopped although a client was left"
        second.leave()
    assert not alive(pid), "the last client leaves and the server stays"
    assert embedded_status(home).state == "stopped"
    assert sorted(path.name for path in (home / "postgres").glob("data*")) == ["data"]


def test_server_outlives_the_killed_process_that_started_it(home: Path) -> None:
    with client(home) as starter:
        pid = starter.server_pid()
        starter.signal_group(signal.SIGKILL)
    assert alive(pid)
    assert not embedded_status(home).clients
    server = start_embedded(home)
    assert server.pid == pid, "another server was started beside the living one"
    assert query(server, "SELECT 1") == 1
    server.stop()
    assert not alive(pid), "the dead client still counts"


def test_ctrl_c_in_one_terminal_leaves_the_server_to_the_others(home: Path) -> None:
    with client(home) as starter:
        pid = starter.server_pid()
        server = start_embedded(home)
        starter.signal_group(signal.SIGINT)
        assert alive(pid)
        assert query(server, "SELECT 1") == 1
        server.stop()
    assert not alive(pid)


def test_a_forked_child_keeps_the_server_after_its_parent_left(home: Path) -> None:
    then = """
import os, psycopg2, time
parent = os.getpid()
if os.fork():
    sys.exit()
while os.getppid() == parent:
    time.sleep(0.05)
time.sleep(0.5)
with psycopg2.connect(server.url('postgres')) as connection, connection.cursor() as cursor:
    cursor.execute('SELECT 41 + 1')
    print(cursor.fetchone()[0], flush=True)
sys.stdout.close()
os._exit(0)
"""
    with client(home, then) as parent:
        parent.server_pid()
        assert parent.line() == "42"


@pytest.mark.parametrize("children", [True, False])
def test_killed_server_comes_back_with_what_was_committed(home: Path, children: bool) -> None:
    server = start_embedded(home)
    query(server, f"CREATE TABLE kept_{int(children)} AS SELECT generate_series(1, 1000) AS n")
    url, pid = server.url("postgres"), server.pid
    assert pid is not None
    kill_server(pid, children=children)
    assert embedded_status(home).state == "stopped"
    assert (server.pgdata / "postmaster.pid").exists(), "the fault was not the one meant"
    server.ensure_running()
    assert server.url("postgres") == url
    assert server.pid != pid
    assert query(server, f"SELECT count(*) FROM kept_{int(children)}") == 1000


def test_a_recorded_process_id_that_is_somebody_else_now_is_no_server(home: Path) -> None:
    server = start_embedded(home)
    server.stop()
    owner = server.pgdata.stat().st_uid  # PostgreSQL itself takes any process of its own user for a server
    other = subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None)
    lines = [str(other.pid), str(server.pgdata), "1", "5432", str(server.pgdata), "", "", "ready"]
    (server.pgdata / "postmaster.pid").write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        assert embedded_status(home).state == "stopped"
        server.ensure_running()
        assert query(server, "SELECT 1") == 1
        assert other.poll() is None, "a process that is not ours was killed"
    finally:
        other.kill()
        other.wait()


def test_a_removed_socket_is_made_again(home: Path) -> None:
    server = start_embedded(home)
    (server.pgdata / embedded.SOCKET_NAME).unlink()
    server.ensure_running()
    assert query(server, "SELECT 1") == 1


def test_settings_of_the_server(home: Path) -> None:
    server = start_embedded(home)
    shown = [query(server, f"SHOW {name}") for name in ("fsync", "max_connections", "listen_addresses", "TimeZone")]
    assert shown == ["on", "200", "", "UTC"]
    assert server.pgdata.stat().st_mode & 0o077 == 0, "other users could reach the data or the socket"


def test_pg_variables_of_the_caller_do_not_move_the_server(
    make_home: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/nowhere")
    deep = make_home() / ("a deep folder with spaces " + "x" * 60) / ("y" * 60)
    server = start_embedded(deep)
    socket_dir = parse_qs(urlsplit(server.url("postgres")).query)["host"][0]
    assert query(server, "SELECT 1") == 1
    assert len(f"{socket_dir}/.s.PGSQL.5432") <= embedded.SOCKET_PATH_LIMIT
    assert Path(socket_dir).stat().st_mode & 0o077 == 0
    server.stop()
    assert embedded_status(deep).state == "stopped"
    Path(socket_dir).rmdir()


def test_a_server_that_cannot_start_says_why_in_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "LAUNCH_ATTEMPTS", 1)
    server = start_embedded(home)
    server.stop()
    configuration = server.pgdata / "postgresql.conf"
    good = configuration.read_text(encoding="utf-8")
    configuration.write_text(good + "max_connections = many\n", encoding="utf-8")
    with pytest.raises(DatabaseError) as caught:
        server.ensure_running()
    configuration.write_text(good, encoding="utf-8")
    message = str(caught.value)
    assert "max_connections" in message or "configuration file" in message
    assert str(server.log_file) in message
    assert "\n" not in message
    assert message.isascii()
    server.ensure_running()
    assert query(server, "SELECT 1") == 1


def test_a_server_gets_the_memory_asked_for_or_else_the_least(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_embedded(home)
    for asked, given in ((160, "160MB"), (1 << 30, "128MB")):  # a petabyte is not to be had
        server.stop()
        monkeypatch.setattr(lifecycle, "buffers_mb", lambda _, mb=asked: mb)
        server.ensure_running()
        assert query(server, "SHOW shared_buffers") == given


def test_no_room_for_a_new_database_is_one_line(make_home: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    full = "initdb: error: could not write to file: No space left on device"
    monkeypatch.setattr(data_folder, "run_program", lambda *_, **__: (1, full))
    home = make_home()
    with pytest.raises(DatabaseError, match="No space left on device") as caught:
        start_embedded(home)
    assert "DEER_REID_HOME" in str(caught.value)
    assert not list((home / "postgres").glob("data*")), "half a database was left"


def test_data_of_another_postgresql_version_is_refused(home: Path) -> None:
    server = start_embedded(home)
    server.stop()
    version = server.pgdata / "PG_VERSION"
    ours = version.read_text(encoding="utf-8")
    version.write_text("16\n", encoding="utf-8")
    with pytest.raises(DatabaseError, match="made by PostgreSQL 16"):
        server.ensure_running()
    version.write_text(ours, encoding="utf-8")


@needs_root
def test_home_out_of_reach_of_the_server_user_is_placed_elsewhere_and_found_again(
    make_home: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = make_home() / "system"
    monkeypatch.setattr(os_user, "SYSTEM_ROOT", elsewhere)
    closed = make_home()
    closed.chmod(0o700)
    server = start_embedded(closed)
    assert server.pgdata.is_relative_to(elsewhere)
    assert str(server.pgdata.parent) in caplog.text
    assert closed.stat().st_mode & 0o077 == 0, "the home was opened to everybody"
    query(server, "CREATE TABLE kept AS SELECT 7 AS n")
    server.stop()

    hold._servers.pop(closed)  # as in a new process
    monkeypatch.setattr(os_user, "SYSTEM_ROOT", make_home())  # found by the pointer, not by computing it again
    again = start_embedded(closed)
    assert query(again, "SELECT n FROM kept") == 7
    assert embedded_status(closed).pgdata == server.pgdata
    again.stop()

    hold._servers.pop(closed)
    server.pgdata.rename(server.pgdata.with_name("gone"))
    with pytest.raises(DatabaseError, match="is not there any more"):
        start_embedded(closed)


@needs_root
def test_programs_out_of_reach_of_the_server_user_are_copied(
    make_home: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = embedded.postgres_binaries()
    package = binaries.parents[1]
    closed = make_home()
    shutil.copytree(binaries.parent, closed / package.name / binaries.parent.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, closed / libraries.name, symlinks=True)
    closed.chmod(0o700)
    monkeypatch.setattr(programs, "postgres_binaries", lambda: closed / binaries.relative_to(package.parent))
    monkeypatch.setattr(os_user, "SYSTEM_ROOT", make_home())
    programs.binaries_for.cache_clear()
    server = start_embedded(make_home())
    assert query(server, "SELECT 1") == 1
    assert closed.stat().st_mode & 0o077 == 0, "the environment was opened to everybody"
    server.stop()
    programs.binaries_for.cache_clear()
