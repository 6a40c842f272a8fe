"""A backup before a cutover can be restored, and a missing or failing pg_dump is said in one line."""

from __future__ import annotations

import fcntl
import subprocess
import uuid
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store import backup
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import EmbeddedServer, postgres_binaries
from deer_reid_pipeline_tests.sites import run_sql


def test_what_was_backed_up_can_be_restored(database: Database, server: EmbeddedServer, tmp_path: Path) -> None:
    with database.session() as session:
        session.execute(
            text("INSERT INTO deer (id, name, feature_vector) SELECT :id, 'old', array_agg(g)::vector(512) FROM "
                 "generate_series(1, 512) g"), {"id": uuid.uuid4()})  # fmt: skip
        before = session.execute(text("SELECT id, name, feature_vector::text FROM deer")).all()
    file = backup.back_up(database, tmp_path / "backups" / "a.dump")
    assert [path.name for path in file.parent.iterdir()] == ["a.dump"]
    assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    run_sql(server.url("postgres"), "CREATE DATABASE restored")
    try:
        subprocess.run(
            [postgres_binaries() / "pg_restore", "--exit-on-error", f"--dbname={server.url('restored')}", file],
            check=True,
            capture_output=True,
        )
        engine = create_engine(server.url("restored"), poolclass=NullPool)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT id, name, feature_vector::text FROM deer")).all() == before
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == database.revision()
    finally:
        run_sql(server.url("postgres"), "DROP DATABASE restored WITH (FORCE)")


def test_a_dump_is_closed_to_others_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "backups"
    folder.mkdir(mode=0o755)
    killed, running = folder / "killed.dump.part", folder / "running.dump.part"
    for part in (killed, running):
        part.touch()
    modes = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        modes.append([path.stat().st_mode & 0o777 for path in (folder, folder / "a.dump.part")])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(backup.subprocess, "run", run)
    with running.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        backup.back_up(Database("postgresql://deer@db.example/herd"), folder / "a.dump")
        with pytest.raises(DatabaseError, match=r"was not made: .*File exists"):
            backup.back_up(Database("postgresql://deer@db.example/herd"), folder / "running.dump")
    assert modes == [[0o700, 0o600]]
    assert sorted(path.name for path in folder.iterdir()) == ["a.dump", "running.dump.part"]


@pytest.mark.parametrize("embedded", [False, True])
def test_pg_dump_reaches_an_external_server_as_the_pipeline_does(
    embedded: bool, server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"PGPASSWORD": "s3cret", "PGPASSFILE": "/keys/pgpass", "PGSSLROOTCERT": "/keys/root.crt"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = {}

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(backup.subprocess, "run", run)
    database = Database("postgresql://deer@db.example/herd", server=server if embedded else None)
    backup.back_up(database, tmp_path / "a.dump")
    assert {key: value for key, value in seen.items() if key in given} == ({} if embedded else given)


def test_without_pg_dump_the_way_on_is_named(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise DatabaseError("not installed")

    monkeypatch.setattr(backup, "postgres_binaries", missing)
    monkeypatch.setattr(backup.shutil, "which", lambda name: None)
    with pytest.raises(DatabaseError, match=r"no pg_dump .* postgresql-client.*--no-backup"):
        backup.back_up(database, tmp_path / "a.dump")


def test_a_backup_that_fails_leaves_no_file(server: EmbeddedServer, tmp_path: Path) -> None:
    gone = Database(server.url("not_there"), server=server)
    with pytest.raises(DatabaseError, match=r"was not made: .*not_there.*--no-backup goes on without one"):
        backup.back_up(gone, tmp_path / "a.dump")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["postgresql://deer:s3cret@db.example/herd", "postgresql://deer@db.example/herd?password=s3cret&sslmode=require"],
)
def test_the_password_is_in_no_command_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.update(command=" ".join(command), env=env)
        (tmp_path / "a.dump.part").write_bytes(b"dump")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(backup.subprocess, "run", run)
    backup.back_up(Database(url), tmp_path / "a.dump")
    assert "s3cret" not in seen["command"]
    assert "deer@db.example/herd" in seen["command"]
    assert seen["env"]["PGPASSWORD"] == "s3cret"
    assert (tmp_path / "a.dump").read_bytes() == b"dump"
