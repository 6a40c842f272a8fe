"""The OS user that runs the server when the caller is root, and the folders that are root's to give.

PostgreSQL refuses to run as root, so root needs another user who owns the data and can reach them. For everybody else
the server's user is the caller, and nothing here does anything. It never opens a folder to other users.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import stat
import subprocess
from pathlib import Path

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.embedded.messages import one_line

log = logging.getLogger(__name__)

SYSTEM_ROOT = Path("/var/lib/deer-reid")
"""Used by root only, for a home (or a virtual environment) that other OS users cannot reach."""

SERVICE_USER = "pgserver"


def service_user(data: Path) -> pwd.struct_passwd | None:
    """As root: the OS user for the server, made if need be; otherwise None. Existing data keeps its owner."""
    if os.geteuid() != 0:
        return None
    owner: int | None = None
    with contextlib.suppress(FileNotFoundError):
        owner = data.stat().st_uid
    if owner:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(owner)
    user = _system_user()
    if owner is not None and (data / "PG_VERSION").exists():  # a kept volume, in a new container
        log.warning("giving %s to OS user %s: its owner (id %s) is not known here", data, user.pw_name, owner)
        for folder, _, files in os.walk(data):
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return user


def _system_user() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVICE_USER)
    command = [
        "useradd",
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        SERVICE_USER,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        with contextlib.suppress(KeyError):  # another process was faster
            return pwd.getpwnam(SERVICE_USER)
        raise DatabaseError(
            f"PostgreSQL refuses to run as root and OS user {SERVICE_USER} could not be made "
            f"({one_line(getattr(error, 'stderr', None) or error)}); make it, or run as an ordinary user"
        ) from error
    return pwd.getpwnam(SERVICE_USER)


def reachable(path: Path, user: pwd.struct_passwd) -> bool:
    """Whether an OS user may pass through a folder and all its parents."""
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    for folder in (path, *path.parents):
        status = folder.stat()
        if status.st_uid == user.pw_uid:
            needed = stat.S_IXUSR
        elif status.st_gid in groups:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return False
    return True


def give(path: Path, user: pwd.struct_passwd | None) -> None:
    """Make the server's OS user the owner; nothing to do if that is the caller (None)."""
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
