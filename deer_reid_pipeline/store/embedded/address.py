"""Where clients find the server: the folder of its unix socket, and the database superuser.

A socket's path must be short, so a deep home needs a folder elsewhere that every client computes or reads alike. It
never opens a connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.embedded.os_user import give
from deer_reid_pipeline.store.embedded.place import Place

SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 103
"""Bytes in the path of a unix socket: 107 on Linux, 103 on macOS."""

SUPERUSER = "postgres"


def choose_socket_dir(place: Place) -> Path:
    """The unix socket's folder: the data folder if its path is short and plain, else a temporary one."""
    name = str(place.data / SOCKET_NAME)
    plain = name.isascii() and not any(character in name for character in ", '@%")
    if plain and len(os.fsencode(name)) <= SOCKET_PATH_LIMIT:
        return place.data
    note = place.control / "socket"  # kept, so that clients with another TMPDIR use the same folder
    with contextlib.suppress(FileNotFoundError):
        return Path(note.read_text(encoding="utf-8").strip())
    folder = Path(tempfile.gettempdir()) / f"deer-reid-{hashlib.sha256(os.fsencode(place.data)).hexdigest()[:16]}"
    note.write_text(f"{folder}\n", encoding="utf-8")
    return folder


def make_socket_dir(place: Place, folder: Path) -> None:
    """Make the temporary socket folder, closed to others; refuses one that somebody else made."""
    if folder == place.data:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owners = {os.geteuid()} if place.user is None else {0, place.user.pw_uid}
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
        raise DatabaseError(f"the socket folder {folder} belongs to somebody else; remove it or set TMPDIR")
    folder.chmod(0o700)
    give(folder, place.user)
