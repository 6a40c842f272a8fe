"""Temporary folders under the home, removed whatever happens: what a killed process left, the next one removes."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.store.embedded.removal import remove_server

log = logging.getLogger(__name__)

FOLDER = "scratch"


@contextmanager
def scratch_folder(home: Path, name: str) -> Iterator[Path]:
    """A new folder under the home for the block; whatever is in it then goes, a database server included.

    Raises:
        DeerReidError: the home cannot be written to.
    """
    parent = home / FOLDER
    try:
        parent.mkdir(parents=True, exist_ok=True)
        clear(home)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"{name}-"))
        folder.chmod(0o711)  # another OS user runs the database where this one is root
    except OSError as error:
        raise DeerReidError(
            f"no temporary folder can be made in {parent}: {error.strerror or error}; make the home writable"
        ) from error
    lock = FileLock(_lock_of(folder))
    lock.acquire()
    try:
        yield folder
    finally:
        _remove(folder)
        lock.release()
        _tidy(parent, folder)


def clear(home: Path) -> int:
    """Remove the folders whose process is gone; returns how many."""
    parent, removed = home / FOLDER, 0
    for path in sorted(parent.glob("*.lock")):
        folder = path.with_suffix("")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            log.info("removing %s, which a stopped benchmark left", folder)
            _remove(folder)
        finally:
            lock.release()
        _tidy(parent, folder)
        removed += 1
    return removed


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    remove_server(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        log.warning("%s could not be removed; remove it by hand", folder)


def _tidy(parent: Path, folder: Path) -> None:
    with suppress(OSError):
        _lock_of(folder).unlink(missing_ok=True)
        parent.rmdir()  # fails while another benchmark runs
