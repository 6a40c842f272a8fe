"""What lies in a drop's folder: pictures, manifests, and entries that cannot be followed.

Names and sizes only, no contents. Directory links are never followed: what they point to inside the drop is
found under its real name, and what lies outside is not part of the drop.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from deer_reid_pipeline.errors import FolderError
from deer_reid_pipeline.ingest.ledger import entry
from deer_reid_pipeline.ingest.records import QuarantineEntry
from deer_reid_pipeline.ingest.wording import printable

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
MANIFEST_NAMES = frozenset({"detections.json", "observations.csv", "datapackage.json"})
COMPLETE_MARKER = "_COMPLETE"
"""Name of a file in the drop's folder that says that everything has arrived; its content means nothing."""

PATH_LIMIT = 1000
"""Longest path in a drop, in bytes: it is part of a database index."""

SIZE_LIMIT = 1 << 30
"""Largest picture file in bytes; 120 million pixels of 16 bits and four channels take 0.96e9."""

_SILENT_NAMES = frozenset({COMPLETE_MARKER})
_TABLE_SUFFIXES = frozenset({".json", ".csv", ".tsv", ".txt"})
_TEMPORARY_ENDS = (".part", ".partial", ".filepart", ".tmp", ".crdownload", "~")


def is_temporary_name(name: str) -> bool:
    """True where the name is one that programs give to what they are still copying."""
    return name.lower().endswith(_TEMPORARY_ENDS)


def is_picture_name(name: str) -> bool:
    """True where the name ends like a picture, in any case."""
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file: path relative to the root with /, size in bytes, modification time in nanoseconds."""

    rel: str
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Scan:
    """The result of one walk. `manifests` maps the standard name to the one on disk (its case may differ).

    `tables` are all files that could be a table, manifests among them: a package names its own.
    """

    root: Path
    pictures: dict[str, FoundFile] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    refused: dict[str, QuarantineEntry] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    tables: dict[str, FoundFile] = field(default_factory=dict)

    def refuse(self, rel: str, code: str, reason: str) -> None:
        """Keep an entry out of the drop, with the reason."""
        self.refused[rel] = entry(rel, code, reason)

    def inside(self, path: str) -> bool:
        """True where a resolved absolute path lies in the drop (the root itself included)."""
        root = os.fspath(self.root)
        return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def scan_drop(root: Path) -> Scan:
    """Walk the folder. Hidden files and folders (a leading dot) and folders with a temporary name are passed over.

    Raises:
        FolderError: the root does not exist, is not a folder, or cannot be listed.
    """
    shown = printable(os.fspath(root))
    try:
        resolved = Path(os.path.realpath(root))
        if not resolved.exists():
            raise FolderError(f"{shown} does not exist; give the folder that holds the pictures")
        if not resolved.is_dir():
            raise FolderError(f"{shown} is not a folder; give the folder that holds the pictures")
        os.fspath(resolved).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FolderError(f"{shown} is not valid UTF-8; rename the folder") from error
    except (OSError, ValueError) as error:
        raise FolderError(f"{shown} cannot be used as a folder; check its name and permissions") from error
    scan = Scan(resolved)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(resolved / folder) as listing:
                entries = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            why = error.strerror or "input error"
            if not folder:
                raise FolderError(f"{shown} cannot be listed ({why}); check its permissions") from error
            scan.refuse(folder, "unreadable", f"the folder cannot be listed ({why})")
            continue
        for item in entries:
            if not item.name.startswith("."):
                rel = f"{folder}/{item.name}" if folder else item.name
                _sort_entry(scan, item, rel, waiting)
    return scan


def _sort_entry(scan: Scan, item: os.DirEntry[str], rel: str, waiting: list[str]) -> None:
    picture = is_picture_name(item.name)
    manifest = "/" not in rel and item.name.lower() in MANIFEST_NAMES
    try:
        length = len(rel.encode("utf-8"))
    except UnicodeEncodeError:
        scan.refuse(rel, "bad_name", "its name is not valid UTF-8; rename it")
        return
    if length > PATH_LIMIT:
        scan.refuse(rel, "bad_name", f"its path in the drop is longer than {PATH_LIMIT} bytes; shorten it")
        return
    try:
        linked = item.is_symlink()
        if linked and not scan.inside(os.path.realpath(item.path)):
            if picture or manifest or item.is_dir() or "." not in item.name:
                scan.refuse(rel, "path_outside", "it is a link to something outside the drop; copy the file in")
            else:
                scan.others.add(rel)
            return
        status = item.stat()
    except OSError as error:
        if picture or manifest or "." not in item.name:
            why = "it is a link that leads nowhere" if item.is_symlink() else "it cannot be looked at"
            scan.refuse(rel, "broken_link" if item.is_symlink() else "unreadable", f"{why} ({error.strerror})")
        else:
            scan.others.add(rel)
        return
    if stat.S_ISDIR(status.st_mode):
        if not linked and not is_temporary_name(item.name):
            waiting.append(rel)
        return
    if not stat.S_ISREG(status.st_mode):
        if picture or manifest:
            scan.refuse(rel, "not_a_file", "it is a device, a pipe or a socket, not a file")
        return
    if picture and status.st_size > SIZE_LIMIT:
        scan.refuse(rel, "too_large", "it is larger than 1 GiB, which no picture is; it was not opened")
        return
    found = FoundFile(rel, status.st_size, status.st_mtime_ns)
    if PurePosixPath(item.name).suffix.lower() in _TABLE_SUFFIXES:
        scan.tables[rel] = found
    if picture:
        scan.pictures[rel] = found
    elif manifest and (item.name == item.name.lower() or item.name.lower() not in scan.manifests):
        replaced = scan.manifests.get(item.name.lower())
        scan.manifests[item.name.lower()] = rel
        if replaced is not None:
            scan.others.add(replaced)
    elif item.name not in _SILENT_NAMES:
        scan.others.add(rel)
