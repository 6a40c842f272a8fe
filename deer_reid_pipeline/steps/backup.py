"""Makes a backup of an installation: both databases, then the files of the home; there whole, or not at all.

The databases come first: files are written before the rows that name them, so what a dump names is in the copy.
It changes nothing in the home.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deer_reid_pipeline import __version__
from deer_reid_pipeline.errors import BackupError, DatabaseError
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.backup_manifest import (
    DAGSTER_DUMP,
    FILES,
    INSTANCE,
    MANIFEST,
    PARTS,
    PIPELINE_DUMP,
    BackedUpFile,
    Manifest,
    hash_into,
)
from deer_reid_pipeline.store.backup import dump_database
from deer_reid_pipeline.store.database import Database

_PART = ".deer-reid-backup.part"
_LOCK = "lock"
_MADE_AGAIN = {"crops.u8", "crops.json", "lock"}
"""Names of files that a training makes again."""


@dataclass(frozen=True)
class BackupMade:
    """A finished backup."""

    folder: Path
    manifest: Manifest


def back_up_site(settings: Settings, database: Database, folder: Path) -> BackupMade:
    """Back an installation up into a new folder, which only its owner may read: it holds the cameras' coordinates.

    Raises:
        BackupError: the folder is taken, the disk is full or a database could not be dumped; nothing is left under
            that name.
    """
    folder = folder.absolute()
    _check_target(settings, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_killed(folder.parent)
        with _part_of(folder) as part:
            manifest = _write(settings, database, part, folder)
            os.sync()
            part.rename(folder)
            (folder / _LOCK).unlink()
    except OSError as error:
        raise BackupError(
            f"the backup {folder} was not made: {error.strerror or error}; make room or name a folder elsewhere, and "
            "run again (nothing was left there)"
        ) from error
    return BackupMade(folder, manifest)


def _check_target(settings: Settings, folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise BackupError(f"{folder} is there already, and a backup never overwrites: name a new folder")
    for name in PARTS:
        if folder.resolve().is_relative_to((settings.home / name).resolve()):
            raise BackupError(f"{folder} is inside what is backed up: name a folder elsewhere, best on another disk")


def _clear_killed(parent: Path) -> None:
    """Remove what backups left here whose process is gone."""
    for part in parent.glob(f".*{_PART}"):
        with suppress(FileNotFoundError, BlockingIOError), (part / _LOCK).open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _part_of(folder: Path) -> Iterator[Path]:
    """A folder beside the target, held by a lock; gone afterwards unless it was renamed."""
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=_PART))  # mode 0700
    with (part / _LOCK).open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def dumps(settings: Settings, database: Database) -> list[tuple[str, str, bool]]:
    """The databases of an installation: name of the dump, address, whether it is on the embedded server."""
    embedded = database.server is not None
    return [
        (PIPELINE_DUMP, database.url, embedded),
        (DAGSTER_DUMP, database.dagster_url, embedded and settings.dagster_database_url is None),
    ]


def _write(settings: Settings, database: Database, part: Path, folder: Path) -> Manifest:
    made_at = datetime.now(UTC).replace(microsecond=0)
    revision = database.revision()
    _check_room(part, _files_of(settings))
    entries = []
    for name, url, embedded in dumps(settings, database):
        try:
            dump_database(url, part / name, embedded=embedded)
        except DatabaseError as error:
            raise BackupError(str(error).replace(str(part), str(folder))) from error
        with (part / name).open("rb") as stream:
            copied = hash_into(stream)
        entries.append(BackedUpFile(path=name, size=copied.size, sha256=copied.sha256))
    files = _files_of(settings)
    for done, (name, source) in enumerate(files, start=1):
        entry = _copied(source, part, f"{FILES}/{name}")
        if entry is not None:
            entries.append(entry)
        report("copying", done, len(files))
    manifest = Manifest(format=1, version=__version__, revision=revision, made_at=made_at, files=tuple(entries))
    (part / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (part / MANIFEST).chmod(0o600)
    return manifest


def _files_of(settings: Settings) -> list[tuple[str, Path]]:
    """Files to copy, each with its path in the home; what is being written or can be made again is left out."""
    found = []
    for name in PARTS:
        root = settings.home / name
        for path in sorted(root.rglob("*")):
            inner = path.relative_to(root)
            unfinished = any(step.startswith(".") and step.endswith(".part") for step in inner.parts)
            again = name == "training" and path.name in _MADE_AGAIN
            if path.is_file() and not unfinished and not again:
                found.append((f"{name}/{inner.as_posix()}", path))
    instance = settings.dagster_home / "dagster.yaml"
    if instance.is_file():
        found.append((INSTANCE, instance))
    return found


def _check_room(part: Path, files: list[tuple[str, Path]]) -> None:
    needed = 0
    for _, path in files:
        with suppress(FileNotFoundError):
            needed += path.stat().st_size
    free = shutil.disk_usage(part).free
    if needed > free:
        raise BackupError(
            f"the files alone need {needed / 2**20:.0f} MiB and {part.parent} has {free / 2**20:.0f} MiB: make room or "
            "name a folder on another disk"
        )


def _copied(source: Path, part: Path, name: str) -> BackedUpFile | None:
    """Copy a file into the backup, for its owner alone; None if it went away meanwhile."""
    target = part / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source.open("rb") as reading:
            handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "wb") as writing:
                copied = hash_into(reading, writing)
    except FileNotFoundError:
        return None
    return BackedUpFile(path=name, size=copied.size, sha256=copied.sha256)
