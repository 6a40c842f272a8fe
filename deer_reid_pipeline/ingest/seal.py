"""Sealing a drop: the list of its files with their hashes, one digest over all, and the key made from it.

The key is a Dagster partition key. The same pictures and tables under the same folder name give the same key,
whenever and wherever they are sealed.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest.layout import choose_layout
from deer_reid_pipeline.ingest.records import LayoutName
from deer_reid_pipeline.ingest.scan import PICTURE_SUFFIXES, FoundFile, scan_drop
from deer_reid_pipeline.ingest.wording import plural, printable

UNREADABLE = ""
"""`SealedFile.sha256` of a file that could not be read when the drop was sealed."""

_HASH_THREADS = 4
_SLUG_LIMIT = 40


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A picture or a table: path relative to the root, bytes, nanoseconds, sha256 of the content (hex)."""

    rel: str
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SealedDrop:
    """A drop as it was when sealed. `root` is absolute with links resolved; `files` is sorted by path."""

    key: str
    name: str
    root: Path
    digest: str
    layout: LayoutName
    files: tuple[SealedFile, ...]


def slug(name: str) -> str:
    """The name in a-z, 0-9, _ and -, at most 40 characters; "drop" where nothing is left of it."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain)[:_SLUG_LIMIT].strip("-_") or "drop"


def hash_file(path: Path) -> str:
    """sha256 of a file's content as hex, or `UNREADABLE`."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return UNREADABLE


def seal_drop(
    root: Path,
    *,
    tag: str = "",
    known_hashes: Mapping[tuple[str, int, int], str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SealedDrop:
    """List and hash the pictures and manifests of a folder.

    Args:
        root: the drop's folder.
        tag: anything else that makes it another drop, such as the detector's name; part of the digest.
        known_hashes: (path, size, mtime_ns) -> sha256 of files that need not be read again.
        progress: called in this thread with files done and files in all.

    Raises:
        DropError: not a folder, mixed layouts, or no picture in it. Unreadable files do not raise;
            `read_drop` puts them into the quarantine.
    """
    scan = scan_drop(root)
    layout = choose_layout(scan)
    if not scan.pictures and not scan.refused:
        raise DropError(
            f"{printable(os.fspath(root))} holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))}); "
            f"{plural(len(scan.others), 'other file')} in it"
        )
    found = sorted([*scan.pictures.values(), *_tables(scan.root, layout.files)], key=lambda file: file.rel)
    known = known_hashes or {}

    def digest_of(file: FoundFile) -> str:
        return known.get((file.rel, file.size, file.mtime_ns)) or hash_file(scan.root / file.rel)

    files: list[SealedFile] = []
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        for file, sha256 in zip(found, pool.map(digest_of, found), strict=True):
            files.append(SealedFile(file.rel, file.size, file.mtime_ns, sha256))
            if progress is not None:
                progress(len(files), len(found))
    total = hashlib.sha256(f"deer-reid-drop-1\0{tag}\0".encode("utf-8", "backslashreplace"))
    for sealed in files:
        total.update(f"{sealed.rel}\0{sealed.sha256}\0".encode())
    digest = total.hexdigest()
    name = scan.root.name
    return SealedDrop(f"{slug(name)}-{digest[:10]}", name, scan.root, digest, layout.name, tuple(files))


def _tables(root: Path, rels: tuple[str, ...]) -> list[FoundFile]:
    found = []
    for rel in rels:
        try:
            status = (root / rel).stat()
        except OSError:
            continue
        found.append(FoundFile(rel, status.st_size, status.st_mtime_ns))
    return found
