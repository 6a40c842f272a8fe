"""From a path as a table writes it to a file of the drop, and never to anything else."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable

from deer_reid_pipeline.ingest.ledger import BadValue
from deer_reid_pipeline.ingest.scan import Scan, is_picture_name

_WEB = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"^[A-Za-z]:")
_LONGEST = 4096


class PictureIndex:
    """Finds pictures by the paths that tables give them. `refused` pictures are found but not handed out."""

    def __init__(self, scan: Scan, refused: Iterable[str]) -> None:
        self._scan = scan
        self._known = dict.fromkeys([*scan.pictures, *scan.refused])
        self._by_form: dict[str, str] = {}
        for rel in sorted(self._known):
            self._by_form.setdefault(unicodedata.normalize("NFC", rel), rel)
        self._refused = frozenset([*scan.refused, *refused])

    def find(self, written: str) -> str | None:
        """The picture's path on disk, or None where it is in the quarantine already.

        Backslashes, "./", and other Unicode normal forms than the one on disk are understood.

        Raises:
            BadValue: bad_path, remote_file, path_outside, not_a_picture, hidden_file or missing_file.
        """
        rel = self._find(written)
        return None if rel in self._refused else rel

    def _find(self, written: str) -> str:
        if written in self._known:
            return written
        if not written.strip() or len(written) > _LONGEST:
            raise BadValue("bad_path", "the path is empty or longer than 4096 characters")
        if "\0" in written or not _encodable(written):
            raise BadValue("bad_path", "the path holds a NUL or half a character")
        if _WEB.match(written):
            raise BadValue("remote_file", "it is a web address; only files in the drop are read")
        path = written.strip().replace("\\", "/")
        if path.startswith("/") or _DRIVE.match(path):
            raise BadValue("path_outside", "it is an absolute path; paths are relative to the drop")
        path = posixpath.normpath(path)
        if path == ".." or path.startswith("../"):
            raise BadValue("path_outside", "the path leaves the drop")
        found = self._by_form.get(unicodedata.normalize("NFC", path))
        if found is not None:
            return found
        return self._on_disk(path)

    def _on_disk(self, path: str) -> str:
        """Paths that run through a linked folder, and the reason where there is no picture."""
        root = os.fspath(self._scan.root)
        real = os.path.realpath(self._scan.root / path)
        if not self._scan.inside(real):
            raise BadValue("path_outside", "the path leads through a link to outside the drop")
        rel = os.path.relpath(real, root).replace(os.sep, "/")
        if rel in self._known:
            return rel
        if os.path.lexists(real):
            if any(part.startswith(".") for part in rel.split("/")):
                raise BadValue("hidden_file", "hidden files and folders (a leading dot) are not read")
            raise BadValue("not_a_picture", "it is there but is not a picture file")
        if not is_picture_name(path):
            raise BadValue("missing_file", "the table lists it, but it is not in the drop (and is not named a picture)")
        raise BadValue("missing_file", "the table lists it, but it is not in the drop")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
