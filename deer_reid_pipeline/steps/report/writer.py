"""A report's folder: there whole, or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from deer_reid_pipeline.errors import DeerReidError

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
_MOST_OF_A_SECOND = 100


def dated_name(made_at: datetime, recipe_id: str) -> str:
    """Name of a report's folder.

    Args:
        made_at: UTC.
    """
    return f"{made_at:%Y%m%dT%H%M%SZ}-{re.sub(r'[^A-Za-z0-9._-]', '_', recipe_id)[:48]}"


def write_folder(parent: Path, name: str, files: Mapping[str, str | bytes]) -> Path:
    """Write texts (UTF-8) and bytes into the new folder `parent/name`; where that is taken, `name-2`, `name-3`, ...

    Raises:
        DeerReidError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    part: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}.", suffix=".part"))
        part.chmod(0o755)
        for file, content in files.items():
            with (part / file).open("wb") as stream:
                stream.write(content.encode("utf-8") if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
        return _renamed(part, parent, name)
    except OSError as error:
        raise DeerReidError(
            f"the report {parent / name} cannot be written: {error.strerror or error}; free some space or make the "
            "folder writable, and run again"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _renamed(part: Path, parent: Path, name: str) -> Path:
    for number in range(1, _MOST_OF_A_SECOND):
        target = parent / (name if number == 1 else f"{name}-{number}")
        try:
            return part.rename(target)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    raise FileExistsError(errno.EEXIST, f"{_MOST_OF_A_SECOND} reports of one second are there already")
