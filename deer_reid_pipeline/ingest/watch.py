"""Has a folder finished arriving? A function of what it looks like now, how it looked before, and the time.

Only names, sizes and modification times are compared, and only for equality: a file is never passed over because its
time, or the clock, is an odd one. Time is an argument, nothing is remembered here, and nothing is read but the listing.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest.scan import COMPLETE_MARKER, FoundFile, is_picture_name, is_temporary_name, scan_drop
from deer_reid_pipeline.ingest.wording import plural, printable

LOOKS = 2
"""How many looks in a row must find a folder unchanged."""


@dataclass(frozen=True, slots=True)
class WatchRules:
    """How long a folder must be unchanged, and how long pictures without any table wait for one, both in seconds."""

    settle_s: float = 120.0
    table_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a folder.

    `signature` stands for names, sizes and modification times of its pictures and tables. `marker` is the
    modification time (ns) of its `_COMPLETE` file. `files` are its pictures. `refused` counts entries that cannot be
    followed.
    """

    name: str
    signature: str
    files: tuple[FoundFile, ...]
    refused: int
    table: bool
    marker: int | None

    @property
    def pictures(self) -> int:
        return len(self.files)


@dataclass(frozen=True, slots=True)
class Pending:
    """A folder that is waited for: how it looked, since when (s), and how many looks in a row found it so."""

    signature: str
    since: float
    looks: int = 1


@dataclass(frozen=True, slots=True)
class Sealed:
    """How a folder looked when it was sealed last, with the marker of then.

    `key` is the drop that it is. `refused` says instead why it cannot be one. `unread` are files (not all, where they
    are many) that could not be opened then. `tried` stands for the files that its drop had missed when it was opened
    again for them: what stays unusable is not tried for ever.
    """

    signature: str
    marker: int | None = None
    key: str | None = None
    refused: str | None = None
    unread: tuple[str, ...] = ()
    tried: str = ""


class Stage(StrEnum):
    """Where a folder stands."""

    EMPTY = "empty"
    CHANGING = "changing"
    SETTLING = "settling"
    TABLE = "table"
    READY = "ready"
    SEALED = "sealed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a folder stands, what to remember of it, and the seconds that it is waited for at most."""

    stage: Stage
    pending: Pending | None = None
    left_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Listing:
    """The watched folder: its sub-folders by name, and how many pictures lie beside them."""

    folders: tuple[str, ...]
    loose_pictures: int


def list_watched(root: Path) -> Listing:
    """The sub-folders that may be drops. Links, hidden folders and temporary names are passed over.

    Raises:
        DropError: the watched folder is not there or cannot be listed.
    """
    folders: list[str] = []
    loose = 0
    try:
        with os.scandir(root) as listing:
            for item in listing:
                if item.name.startswith(".") or is_temporary_name(item.name) or item.is_symlink():
                    continue
                if item.is_dir(follow_symlinks=False):
                    folders.append(item.name)
                else:
                    loose += is_picture_name(item.name)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "input error"
        raise DropError(
            f"the watched folder {printable(os.fspath(root))} cannot be listed ({why}): mount it, correct its "
            "permissions, or set DEER_REID_WATCH to another"
        ) from error
    return Listing(tuple(sorted(folders)), loose)


def look_at(folder: Path) -> Look:
    """List a folder. Its marker is looked for first, so that it vouches for every file that is found.

    Raises:
        FolderError: it is gone or cannot be listed.
    """
    marker = _marker(folder)
    scan = scan_drop(folder)
    package = "datapackage.json" in scan.manifests
    tables = [scan.tables[rel] for rel in sorted(scan.tables) if package or rel in scan.manifests.values()]
    pictures = tuple(scan.pictures[rel] for rel in sorted(scan.pictures))
    total = hashlib.sha256()
    for file in (*pictures, *tables):
        total.update(f"{file.rel}\0{file.size}\0{file.mtime_ns}\0".encode())
    for rel in sorted(scan.refused):
        total.update(f"{rel}\0{scan.refused[rel].code}\0".encode("utf-8", "backslashreplace"))
    return Look(folder.name, total.hexdigest()[:20], pictures, len(scan.refused), bool(scan.manifests), marker)


def _marker(folder: Path) -> int | None:
    path = folder / COMPLETE_MARKER
    try:
        return path.stat().st_mtime_ns if path.is_file() else None
    except OSError:
        return None


def judge(look: Look, before: Pending | None, sealed: Sealed | None, now: float, rules: WatchRules) -> Verdict:
    """Say where a folder stands.

    A `_COMPLETE` marker vouches once: for what is there when it is first seen. Files that come after it are waited for
    like any others, until the marker is written again.

    Args:
        before: what was remembered of the last look.
        sealed: how it was sealed last.
        now: seconds since any fixed moment; where it went back, waiting begins anew.
    """
    if sealed is not None and sealed.signature == look.signature:
        return Verdict(Stage.SEALED if sealed.refused is None else Stage.REFUSED)
    if not look.pictures and not look.refused:
        return Verdict(Stage.EMPTY)
    first = before is None or before.signature != look.signature
    if first or before is None:
        pending = Pending(look.signature, now)
    else:
        pending = Pending(look.signature, before.since if before.since <= now else now, min(before.looks + 1, LOOKS))
    if look.marker is not None and (sealed is None or look.marker != sealed.marker):
        return Verdict(Stage.READY, pending)
    quiet = now - pending.since
    if first:
        return Verdict(Stage.CHANGING, pending, rules.settle_s)
    if quiet < rules.settle_s:
        return Verdict(Stage.SETTLING, pending, rules.settle_s - quiet)
    if not look.table and quiet < rules.table_s:
        return Verdict(Stage.TABLE, pending, rules.table_s - quiet)
    return Verdict(Stage.READY, pending)


def pictures_in_words(look: Look) -> str:
    """How many pictures were found."""
    return plural(look.pictures, "picture")
