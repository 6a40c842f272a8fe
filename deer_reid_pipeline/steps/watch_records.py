"""What the home keeps of watched folders: how each was sealed last, and the hashes of its files.

One file a folder, in `watch/` of the home. A lost or damaged one costs reading the pictures again and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deer_reid_pipeline.ingest.watch import Sealed
from deer_reid_pipeline.vision.model_files import write_whole

VERSION = 1

FileId = tuple[str, int, int]
"""Path relative to the folder, bytes, and modification time in nanoseconds."""


@dataclass
class FolderRecord:
    """How a folder was sealed last, sha256 of its files, and path -> sha256 of what is in its drop."""

    sealed: Sealed | None = None
    hashes: dict[FileId, str] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)


class WatchRecords:
    """The records of the sub-folders of one watched folder."""

    def __init__(self, home: Path, root: Path) -> None:
        self._folder = home / "watch"
        self._root = os.path.realpath(root)

    def sealed(self, name: str) -> Sealed | None:
        """How a folder was sealed last; reads one line."""
        try:
            with self._path(name).open(encoding="utf-8") as stream:
                return self._head(name, stream.readline())
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def read(self, name: str) -> FolderRecord:
        """The whole record; an empty one where there is none that can be used."""
        try:
            with self._path(name).open(encoding="utf-8") as stream:
                record = FolderRecord(self._head(name, stream.readline()))
                for line in stream:
                    rel, size, mtime_ns, sha256, member = json.loads(line)
                    if size is not None:
                        record.hashes[str(rel), int(size), int(mtime_ns)] = _sha256(sha256)
                    if member:
                        record.members[str(rel)] = _sha256(sha256)
                return record
        except (OSError, ValueError, TypeError, KeyError):
            return FolderRecord()

    def write(self, name: str, record: FolderRecord) -> None:
        """Keep a record, whole or not at all.

        Raises:
            DeerReidError: the home cannot be written to.
        """
        lines: list[Any] = [
            {
                "version": VERSION,
                "folder": self._full(name),
                "sealed": None if record.sealed is None else asdict(record.sealed),
            }
        ]
        left = dict(record.members)
        for (rel, size, mtime_ns), sha256 in record.hashes.items():
            member = left.get(rel) == sha256
            if member:
                del left[rel]
            lines.append([rel, size, mtime_ns, sha256, member])
        lines += [[rel, None, None, sha256, True] for rel, sha256 in left.items()]
        write_whole(self._path(name), "".join(json.dumps(line) + "\n" for line in lines).encode("ascii"))

    def forget_all_but(self, names: Iterable[str]) -> None:
        """Remove the records of folders that are gone."""
        kept = {self._path(name).name for name in names}
        try:
            stale = [path for path in self._folder.glob("*.jsonl") if path.name not in kept]
        except OSError:
            return
        for path in stale:
            path.unlink(missing_ok=True)

    def _full(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _path(self, name: str) -> Path:
        hashed = hashlib.sha256(self._full(name).encode("utf-8", "surrogateescape")).hexdigest()
        return self._folder / f"{hashed[:32]}.jsonl"

    def _head(self, name: str, line: str) -> Sealed | None:
        head: Mapping[str, Any] = json.loads(line)
        if head["version"] != VERSION or head["folder"] != self._full(name):
            raise ValueError(head["version"])
        found = head["sealed"]
        if found is None:
            return None
        sealed = Sealed(**{**found, "unread": tuple(found["unread"])})
        if not isinstance(sealed.signature, str) or (sealed.key is None) == (sealed.refused is None):
            raise ValueError(sealed)
        return sealed


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64:
        raise ValueError(value)
    return value
