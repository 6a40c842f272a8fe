"""A backup is whole or not there, a damaged one is refused before anything is touched, and nothing is ever deleted."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.errors import BackupError, DatabaseError, Interrupted
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps import backup as making
from deer_reid_pipeline.steps import restore as bringing_back
from deer_reid_pipeline.steps.backup import BackupMade, back_up_site
from deer_reid_pipeline.steps.restore import restore_site
from deer_reid_pipeline.store import migrate
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline.store.restore import restore_database
from deer_reid_pipeline_tests.sites import fresh_database, run_sql, settings_for

MADE = {
    "crops/a/1.jpg": b"crop",
    "models/m.safetensors": b"model",
    "reports/r/report.html": b"report",
    "training/t/plan.json": b"{}",
    "dagster/dagster.yaml": b"telemetry: {enabled: false}\n",
}
LEFT_OUT = {
    "weights/w.pth": b"weights",
    "backups/old.dump": b"dump",
    "crops/a/.2.jpg.x.part": b"half",
    "reports/.r2.x.part/report.html": b"half",
    "training/t/crops.u8": b"cache",
    "dagster/storage/log": b"log",
}


def write(home: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def value(url: str, statement: str) -> Any:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return connection.scalar(text(statement))


@pytest.fixture
def dagster_url(server: EmbeddedServer) -> Iterator[str]:
    """Another database, as Dagster's."""
    with fresh_database(server) as url:
        run_sql(url, "CREATE TABLE runs AS SELECT 'r1' AS run_id")
        yield url


@pytest.fixture
def settings(make_home: Callable[[], Path], database_url: str, dagster_url: str) -> Settings:
    """A home with files and two databases with rows."""
    settings = settings_for(make_home(), database_url=database_url, dagster_database_url=dagster_url)
    write(settings.home, MADE | LEFT_OUT)
    run_sql(database_url, f"INSERT INTO deer (id, name) VALUES ('{uuid.uuid4()}', 'Big Buck')")
    return settings


@pytest.fixture
def elsewhere(make_home: Callable[[], Path], empty_database_url: str, server: EmbeddedServer) -> Iterator[Settings]:
    """An empty home and two empty databases."""
    with fresh_database(server) as url:
        yield settings_for(make_home(), database_url=empty_database_url, dagster_database_url=url)


def backed_up(settings: Settings, folder: Path) -> BackupMade:
    """A backup whose connections are closed: an open one would keep the database from being renamed."""
    assert settings.database_url is not None
    with closing(Database(settings.database_url, settings.dagster_database_url)) as database:
        return back_up_site(settings, database, folder)


def test_a_backup_holds_what_cannot_be_had_again_and_nothing_else(settings: Settings, tmp_path: Path) -> None:
    made = backed_up(settings, tmp_path / "b")
    found = files_in(made.folder)
    assert {name: found[f"files/{name}"] for name in MADE} == MADE
    assert set(found) == {"manifest.json", "deer_reid.dump", "dagster.dump"} | {f"files/{name}" for name in MADE}
    assert {file.path for file in made.manifest.files} == set(found) - {"manifest.json"}
    assert made.folder.stat().st_mode & 0o777 == 0o700, "others may read the coordinates"
    assert list(tmp_path.iterdir()) == [made.folder]
    assert {name: files_in(settings.home)[name] for name in MADE | LEFT_OUT} == MADE | LEFT_OUT


def test_a_restore_brings_files_and_rows_back(settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    backed_up(settings, tmp_path / "b")
    done = restore_site(elsewhere, tmp_path / "b", replace=False)
    assert (done.moved_to, done.kept_databases, done.instance_left) == (None, (), False)
    assert files_in(elsewhere.home) == MADE
    assert value(str(elsewhere.database_url), "SELECT name FROM deer") == "Big Buck"
    assert value(str(elsewhere.dagster_database_url), "SELECT run_id FROM runs") == "r1"
    with pytest.raises(BackupError, match=r"is in use \(the folder crops, .*--replace.*deletes nothing"):
        restore_site(elsewhere, tmp_path / "b", replace=False)


def test_a_damaged_backup_is_refused_before_anything_is_touched(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    folder = backed_up(settings, tmp_path / "b").folder
    victim = folder / "files" / "models" / "m.safetensors"
    for harm in (b"mod3l", b"mod", None):
        if harm is None:
            victim.unlink()
        else:
            victim.write_bytes(harm)
        with pytest.raises(BackupError, match=r"models/m\.safetensors of the backup .* take another backup"):
            restore_site(elsewhere, folder, replace=False)
    assert files_in(elsewhere.home) == {}
    assert value(str(elsewhere.database_url), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


def test_a_manifest_that_points_outside_is_refused(settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    folder = backed_up(settings, tmp_path / "b").folder
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for path in ("files/../../x", "/etc/passwd", "files/weights/w", "files/crops/../../x", "files/crops//x", "x.dump",
                 "files/crops"):  # fmt: skip
        entry = {"path": path, "size": 1, "sha256": "0" * 64}
        (folder / "manifest.json").write_text(json.dumps({**manifest, "files": [*manifest["files"], entry]}))
        with pytest.raises(BackupError, match="is not what deer-reid backup writes"):
            restore_site(elsewhere, folder, replace=False)


def test_a_backup_of_a_newer_version_is_refused(settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    folder = backed_up(settings, tmp_path / "b").folder
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "revision": "9999", "version": "7.0"}))
    with pytest.raises(BackupError, match=r"schema 9999.*install deer-reid 7\.0 or newer"):
        restore_site(elsewhere, folder, replace=False)


def test_a_folder_that_is_no_backup_is_refused(elsewhere: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is no backup"):
        restore_site(elsewhere, tmp_path, replace=False)


def test_a_backup_never_overwrites(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_bytes(b"mine")
    with pytest.raises(BackupError, match="never overwrites"):
        backed_up(settings, tmp_path / "b")
    assert files_in(tmp_path) == {"b/mine": b"mine"}
    with pytest.raises(BackupError, match="inside what is backed up"):
        backed_up(settings, settings.home / "crops" / "b")


def test_a_full_disk_leaves_nothing_under_the_name(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = making.hash_into

    def full(source: BinaryIO, target: BinaryIO | None = None) -> Any:
        if target is not None and "report" in str(source.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(source, target)

    monkeypatch.setattr(making, "hash_into", full)
    with pytest.raises(BackupError, match=r"was not made: No space left on device; make room"):
        backed_up(settings, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_for_the_dump_leaves_nothing(settings: Settings, make_home: Callable[[], Path]) -> None:
    small = make_home() / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(BackupError, match=r"was not made: .*No space left on device"):
            backed_up(settings, small / "b")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_too_little_room_is_said_before_anything_is_written(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3})())
    with pytest.raises(BackupError, match=r"the files alone need 0 MiB .* has 0 MiB: make room"):
        backed_up(settings, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_backup_left_goes_and_what_a_running_one_writes_stays(settings: Settings, tmp_path: Path) -> None:
    killed, running = tmp_path / ".k.x.deer-reid-backup.part", tmp_path / ".r.x.deer-reid-backup.part"
    for part in (killed, running):
        part.mkdir()
        (part / "lock").touch()
    with (running / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        backed_up(settings, tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == [running.name, "b"]


def test_what_a_backup_left_that_was_killed_at_its_end_goes_too(settings: Settings, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        making.os.sync = lambda: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[attr-defined]
        try:
            backed_up(settings, tmp_path / "b")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "deer_reid.dump").stat().st_size > 0, "the fault was not the one meant"
    backed_up(settings, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert not (tmp_path / "b" / "lock").exists()


def test_a_restore_that_is_stopped_between_two_databases_says_what_is_kept_where(
    settings: Settings, server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = backed_up(settings, tmp_path / "b").folder
    whole = bringing_back.restore_database

    def stopped_at_the_second(url: str, dump: Path, **options: Any) -> bool:
        if dump.name == "dagster.dump":
            raise KeyboardInterrupt
        return whole(url, dump, **options)

    monkeypatch.setattr(bringing_back, "restore_database", stopped_at_the_second)
    words = (
        r"the database deer_reid was restored \(.* is kept as (deer_reid_replaced_\w+)\), and then: stopped; run again"
    )
    with pytest.raises(Interrupted, match=words) as caught:
        restore_site(settings, folder, replace=True)
    kept = re.search(words, str(caught.value))
    assert kept is not None
    try:
        assert value(server.url(kept[1]), "SELECT name FROM deer") == "Big Buck"
    finally:
        run_sql(server.url("postgres"), f'DROP DATABASE IF EXISTS "{kept[1]}" WITH (FORCE)')


def test_a_dump_that_cannot_be_read_leaves_the_old_database_in_place(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    folder = backed_up(settings, tmp_path / "b").folder
    (folder / "deer_reid.dump").write_bytes((folder / "deer_reid.dump").read_bytes()[:-5000])
    url = str(settings.database_url)
    with pytest.raises(DatabaseError, match="was not restored"):
        restore_database(url, folder / "deer_reid.dump", embedded=True, vectors=True, keep_as=f"k{uuid.uuid4().hex}")
    assert value(url, "SELECT name FROM deer") == "Big Buck"


def test_a_database_in_use_is_not_moved_aside(settings: Settings, tmp_path: Path) -> None:
    folder = backed_up(settings, tmp_path / "b").folder
    with create_engine(str(settings.database_url), poolclass=NullPool).connect() as other:
        other.execute(text("SELECT 1"))
        with pytest.raises(DatabaseError, match=r"could not be renamed .*; stop deer-reid serve"):
            restore_site(settings, folder, replace=True)
    assert value(str(settings.database_url), "SELECT name FROM deer") == "Big Buck"
    assert files_in(settings.home / "crops") == {"a/1.jpg": b"crop", "a/.2.jpg.x.part": b"half"}


def test_a_backup_from_before_the_last_migration_can_be_restored_and_upgraded(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    migrate.downgrade(str(settings.database_url), "0004")
    made = backed_up(settings, tmp_path / "b")
    assert made.manifest.revision == "0004"
    restore_site(elsewhere, made.folder, replace=False)
    url = str(elsewhere.database_url)
    assert migrate.current(url) == "0004"
    migrate.upgrade(url)
    assert (migrate.current(url), value(url, "SELECT name FROM deer")) == (migrate.head(), "Big Buck")


def test_work_that_goes_on_meanwhile_does_no_harm(
    settings: Settings, elsewhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = making.dump_database

    def dump_while_others_work(url: str, target: Path, *, embedded: bool) -> Path:
        done = whole(url, target, embedded=embedded)
        write(settings.home, {"crops/b/late.jpg": b"late"})
        (settings.home / "crops" / "a" / "1.jpg").unlink(missing_ok=True)
        return done

    monkeypatch.setattr(making, "dump_database", dump_while_others_work)
    backed_up(settings, tmp_path / "b")
    restore_site(elsewhere, tmp_path / "b", replace=False)
    assert files_in(elsewhere.home / "crops") == {"b/late.jpg": b"late"}


def test_instance_settings_that_a_home_has_are_left_alone(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    backed_up(settings, tmp_path / "b")
    write(elsewhere.home, {"dagster/dagster.yaml": b"mine"})
    assert restore_site(elsewhere, tmp_path / "b", replace=False).instance_left
    assert files_in(elsewhere.home / "dagster") == {"dagster.yaml": b"mine"}
