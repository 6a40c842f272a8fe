"""Writing an installation as a Camtrap DP package: in a folder beside its place, renamed once it is whole and valid."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import HandoverError
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.handover.camtrap import (
    Copies,
    Covered,
    write_deployments,
    write_media,
    write_observations,
)
from deer_reid_pipeline.steps.handover.checking import judge
from deer_reid_pipeline.steps.handover.package import (
    COPIES,
    DESCRIPTOR,
    OWN_FOLDER,
    Choices,
    Written,
    carried_tables,
    descriptor,
    rectangle,
    table_paths,
    world,
)
from deer_reid_pipeline.steps.handover.pictures import CopyReport, as_copies, copy_files, write_copies
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store import handover as store


class Measured:
    """A binary file that is only written to, or nothing but its hash and size where there is no file."""

    def __init__(self, target: IO[bytes] | None = None) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> int:
        """Take the bytes."""
        self._digest.update(data)
        self._size += len(data)
        if self._target is not None:
            self._target.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back here."""

    closed = False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    @property
    def written(self) -> Written:
        """What was written so far."""
        return Written(self._digest.hexdigest(), self._size)


@dataclass(frozen=True)
class ExportReport:
    """What is in a package.

    Attributes:
        rows: by table of the package.
        copied: pictures that came along.
        left_out: pictures that could not, with the reason.
    """

    folder: Path
    rows: dict[str, int]
    copied: int
    left_out: tuple[tuple[str, str], ...]


def export_package(site: Site, folder: Path, choices: Choices, *, addresses: bool = False) -> ExportReport:
    """Write the whole installation as it is at this moment to a new folder.

    Args:
        addresses: name Camtrap DP's profile and schemas by web address in datapackage.json.

    Raises:
        HandoverError: the folder is not new or empty, cannot be written, or what was written is not valid.
    """
    _check_target(folder)
    try:
        with _beside(folder) as part:
            made = _write_all(site, part, choices, addresses)
            with suppress(FileNotFoundError):
                folder.rmdir()
            part.rename(folder)
    except OSError as error:
        raise HandoverError(f"{folder} cannot be written: {error.strerror or error}; nothing was left there") from error
    return ExportReport(folder, *made)


def write_tables(
    session: Session, choices: Choices, copies: Copies, open_table: Callable[[str], Any]
) -> tuple[dict[str, Written], dict[str, int], Covered]:
    """Write every table but that of copies.

    Args:
        open_table: gives a context manager with a `Measured` for a resource name.

    Returns:
        what was written, rows of each table, and what the package is about.
    """
    carried = carried_tables(choices)
    written: dict[str, Written] = {}
    rows: dict[str, int] = {}
    total = len(carried) + 3
    with open_table("deployments") as target:
        covered = write_deployments(session, target, choices.places)
        written["deployments"] = target.written
    report("tables", 1, total)
    with open_table("media") as target:
        rows["media"] = write_media(session, target, copies)
        written["media"] = target.written
    report("tables", 2, total)
    with open_table("observations") as target:
        rows["observations"] = write_observations(session, target)
        written["observations"] = target.written
    report("tables", 3, total)
    for number, table in enumerate(carried, start=4):
        with open_table(table.name) as target:
            rows[table.name] = store.copy_out(session, table, target, choices.places)
            written[table.name] = target.written
        report("tables", number, total)
    return written, rows, covered


def _write_all(
    site: Site, part: Path, choices: Choices, addresses: bool
) -> tuple[dict[str, int], int, tuple[tuple[str, str], ...]]:
    paths = table_paths(choices)
    (part / OWN_FOLDER).mkdir()

    @contextmanager
    def open_table(name: str) -> Iterator[Measured]:
        with (part / paths[name]).open("wb") as stream:
            yield Measured(stream)

    with site.database.session() as session:
        store.read_as_of_now(session)
        copied = CopyReport()
        if choices.files:
            copied = copy_files(session, part, site.settings.crops_dir, choices.places)
        copies = as_copies(copied.copies)
        written, rows, covered = write_tables(session, choices, copies, open_table)
    if choices.files:
        with open_table(COPIES) as target:
            write_copies(copied.copies, target)  # type: ignore[arg-type]
            written[COPIES] = target.written
    document = descriptor(
        choices,
        written,
        revision=str(site.database.revision()),
        created=datetime.now(UTC),
        days=covered.days,
        spatial=world() if covered.rectangle is None else rectangle(*covered.rectangle),
        addresses=addresses,
    )
    (part / DESCRIPTOR).write_text(json.dumps(document, indent=1) + "\n", encoding="ascii")
    judge(part, choices, written)
    return rows, len(copies), tuple(copied.left_out)


def _check_target(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise HandoverError(f"{folder} is not a folder: give the name of a new one, or of a file that ends in .csv")
    if folder.is_dir() and any(folder.iterdir()):
        raise HandoverError(f"{folder} is not empty: give the name of a new folder")


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder for the work, held by a lock; what a killed export left in it goes first, and it goes with an error.

    Raises:
        HandoverError: another export is writing it.
    """
    part = folder.parent / f".{folder.name}.part"
    folder.parent.mkdir(parents=True, exist_ok=True)
    part.mkdir(exist_ok=True)
    held = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HandoverError(f"another export is writing {folder}: wait for it") from None
        for left in part.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
        try:
            yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        os.close(held)
