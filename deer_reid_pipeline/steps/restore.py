"""Brings an installation back from a backup. It deletes nothing: what was there is moved aside and kept.

Everything is checked against the manifest before anything is touched. The files come first, under another name; then
the databases, each wholly or not at all; then the files get their names.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deer_reid_pipeline.errors import BackupError, DatabaseError, Interrupted
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.backup import dumps
from deer_reid_pipeline.steps.backup_manifest import (
    FILES,
    INSTANCE,
    PARTS,
    PIPELINE_DUMP,
    BackedUpFile,
    Manifest,
    check_files,
    hash_into,
    read_manifest,
)
from deer_reid_pipeline.store import migrate
from deer_reid_pipeline.store.database import Database, connect
from deer_reid_pipeline.store.restore import holds_tables, restore_database


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        moved_to: folder with what stood in the home, None if nothing did.
        kept_databases: names that databases with tables were given.
        instance_left: the home has a dagster.yaml of its own that differs, and keeps it.
    """

    manifest: Manifest
    moved_to: Path | None
    kept_databases: tuple[str, ...]
    instance_left: bool


def restore_site(settings: Settings, backup: Path, *, replace: bool) -> Restored:
    """Bring back what a backup holds, into the home and the databases that the settings name.

    Args:
        replace: where home or databases hold something already, move it aside instead of refusing.

    Raises:
        BackupError: the backup is damaged or newer than this version, the home is in use, or the disk is full.
        DatabaseError: a database cannot be reached or filled.
        Interrupted: Ctrl-C after a database was restored; the text says which, and what was there is kept as.
    """
    backup = backup.absolute()
    manifest = read_manifest(backup)
    if manifest.revision is not None and not migrate.known(manifest.revision):
        raise BackupError(
            f"the backup {backup} has schema {manifest.revision}, which this version (at {migrate.head()}) does not "
            f"know: install deer-reid {manifest.version} or newer"
        )
    occupied = [name for name in PARTS if any(path.is_file() for path in (settings.home / name).rglob("*"))]
    if occupied and not replace:
        raise _in_use(settings.home, [f"the folder {name}" for name in occupied])
    check_files(backup, manifest.files)
    database = connect(settings)
    try:
        return _restore(settings, database, backup, manifest, replace=replace)
    finally:
        database.close()


def _restore(settings: Settings, database: Database, backup: Path, manifest: Manifest, *, replace: bool) -> Restored:
    database.close()  # its connections would keep the database from being renamed
    held = {file.path for file in manifest.files}
    targets = [target for target in dumps(settings, database) if target[0] in held]
    full = [name.removesuffix(".dump") for name, url, _ in targets if holds_tables(url)]
    if full and not replace:
        raise _in_use(settings.home, [f"the database {name}" for name in full])
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    part = None
    try:
        part = Path(tempfile.mkdtemp(dir=settings.home, prefix=".restore-", suffix=".part"))
        _copy(backup, part, [file for file in manifest.files if file.path.startswith(f"{FILES}/")])
        kept = _fill(targets, backup, stamp)
        moved_to = _put_in_place(settings.home, part, stamp)
        instance_left = _instance(settings, part / INSTANCE)
    except OSError as error:
        raise BackupError(
            f"the files of {backup} were not brought back to {settings.home}: {error.strerror or error}; make room or "
            "make the folder writable, and run again with --replace"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return Restored(manifest, moved_to, kept, instance_left)


def _in_use(home: Path, what: list[str]) -> BackupError:
    return BackupError(
        f"{home} is in use ({', '.join(what)}): set DEER_REID_HOME to a new folder, or use --replace, which moves what "
        "is there aside and deletes nothing"
    )


def _copy(backup: Path, part: Path, files: list[BackedUpFile]) -> None:
    for done, file in enumerate(files, start=1):
        target = part / Path(file.path).relative_to(FILES)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (backup / file.path).open("rb") as reading, target.open("xb") as writing:
            copied = hash_into(reading, writing)
        if copied.sha256 != file.sha256:
            raise BackupError(f"{file.path} of the backup {backup} changed while it was read: run again")
        report("copying", done, len(files))


def _fill(targets: list[tuple[str, str, bool]], backup: Path, stamp: str) -> tuple[str, ...]:
    """Restore the databases; returns the names that those with tables were given."""
    kept: list[str] = []
    finished: list[str] = []
    for name, url, embedded in targets:
        base = name.removesuffix(".dump")
        keep_as = f"{base}_replaced_{stamp}"
        try:
            was_full = restore_database(
                url, backup / name, embedded=embedded, vectors=name == PIPELINE_DUMP, keep_as=keep_as
            )
        except (DatabaseError, KeyboardInterrupt) as error:
            if not finished:
                raise
            before = f" (what was there before is kept as {', '.join(kept)})" if kept else ""
            text = f"the database {', '.join(finished)} was restored{before}, and then: "
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(f"{text}stopped; run again with --replace") from error
            raise BackupError(f"{text}{error}; run again with --replace") from error
        finished.append(base)
        if was_full:
            kept.append(keep_as)
    return tuple(kept)


def _put_in_place(home: Path, part: Path, stamp: str) -> Path | None:
    """Give the restored folders their names; what has them now goes to `replaced-STAMP`."""
    aside = home / f"replaced-{stamp}"
    for name in PARTS:
        if (home / name).exists():
            aside.mkdir(exist_ok=True)
            (home / name).rename(aside / name)
        if (part / name).exists():
            (part / name).rename(home / name)
    return aside if aside.exists() else None


def _instance(settings: Settings, restored: Path) -> bool:
    """Bring Dagster's instance settings back where the home has none; returns whether it keeps others."""
    target = settings.dagster_home / "dagster.yaml"
    if not restored.exists():
        return False
    if target.exists():
        return target.read_bytes() != restored.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(restored, target)
    return False
