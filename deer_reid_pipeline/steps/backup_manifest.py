"""What is in a backup: `manifest.json` with every file's size and sha256, and how it is checked.

A backup is a folder: the manifest, a dump of each database, and `files/` with folders of the home. Weights are not in
it, because they are fetched again, nor are the pictures themselves, which lie where the drops are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deer_reid_pipeline.errors import BackupError
from deer_reid_pipeline.progress import report

MANIFEST = "manifest.json"
PIPELINE_DUMP, DAGSTER_DUMP = "deer_reid.dump", "dagster.dump"
FILES = "files"
PARTS = ("crops", "models", "reports", "training")
"""Folders of the home that a backup holds."""

INSTANCE = "dagster/dagster.yaml"
"""Dagster's instance settings, which a person may have changed."""

_CHUNK = 1 << 20


class BackedUpFile(BaseModel):
    """A file of the backup: its path in the backup with /, its size in bytes, its sha256 in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        parts = PurePosixPath(value).parts
        known = value in (PIPELINE_DUMP, DAGSTER_DUMP, f"{FILES}/{INSTANCE}") or (
            len(parts) > 2 and parts[0] == FILES and parts[1] in PARTS
        )
        if not known or ".." in parts or str(PurePosixPath(value)) != value or "\0" in value:
            raise ValueError(f"{value!r} is no path of a backup")
        return value


class Manifest(BaseModel):
    """The whole backup; made when all of it was there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    version: str
    """Of deer-reid."""
    revision: str | None
    """Of the database's schema."""
    made_at: datetime
    files: tuple[BackedUpFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def holds_runs(self) -> bool:
        """Whether Dagster's database is in it."""
        return DAGSTER_DUMP in {file.path for file in self.files}


@dataclass(frozen=True)
class Copied:
    """How many bytes were read, and their sha256."""

    size: int
    sha256: str


def hash_into(source: BinaryIO, target: BinaryIO | None = None) -> Copied:
    """Read a stream to its end, writing it to another where one is given."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return Copied(size, digest.hexdigest())


def read_manifest(backup: Path) -> Manifest:
    """The manifest of a backup.

    Raises:
        BackupError: the folder is no backup, or one of another format.
    """
    try:
        manifest = Manifest.model_validate_json((backup / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise BackupError(f"{backup} is no backup: it has no {MANIFEST}") from error
    except OSError as error:
        raise BackupError(f"{backup / MANIFEST} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BackupError(
            f"{backup / MANIFEST} is not what deer-reid backup writes ({where}: {first['msg']}): take another backup"
        ) from error
    if PIPELINE_DUMP not in {file.path for file in manifest.files}:
        raise BackupError(f"{backup / MANIFEST} names no {PIPELINE_DUMP}: take another backup")
    return manifest


def check_files(backup: Path, files: Iterable[BackedUpFile]) -> None:
    """Read every file of the backup and compare it with the manifest.

    Raises:
        BackupError: one is missing or is not what was written.
    """
    files = list(files)
    for done, file in enumerate(files, start=1):
        try:
            with (backup / file.path).open("rb") as stream:
                found = hash_into(stream)
        except OSError as error:
            raise BackupError(
                f"{file.path} of the backup {backup} cannot be read ({error.strerror or error}): take another backup"
            ) from error
        if (found.size, found.sha256) != (file.size, file.sha256):
            raise BackupError(f"{file.path} of the backup {backup} is damaged: take another backup")
        report("checking", done, len(files))
