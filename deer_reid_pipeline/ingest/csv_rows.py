"""CSV as people and cameras write it, streamed row by row in bounded memory.

One broken row costs one row: after a quote that is never closed, reading goes on at the next line. No record
is larger than `RECORD_LIMIT`, whatever the process-wide limit of the csv module is.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from deer_reid_pipeline.ingest.manifest import UnusableManifest, check_utf8

RECORD_LIMIT = 131_072
"""Longest record in characters, line breaks included."""

_DELIMITERS = (",", ";", "\t")
_MOST_REREAD = 1 << 26
"""Characters that may be read again after broken records, in all."""

BadRecord = Callable[[int, str], None]
"""Called with the line number and a reason for every record that is not CSV."""


class _TooLong(Exception):  # noqa: N818
    pass


class _Lines:
    """Hands lines to csv.reader, counts them, and can hand the lines of a broken record out again."""

    def __init__(self, handle: TextIO) -> None:
        self._handle = handle
        self._again: deque[str] = deque()
        self._record: list[str] = []
        self._size = 0
        self._reread = 0
        self.number = 0
        self.first = 1

    def start_record(self) -> None:
        self._record = []
        self._size = 0
        self.first = self.number + 1

    def retry_after_first(self) -> int:
        """Give every line of the broken record but its first one out again; returns how many of them are lost."""
        if self._reread >= _MOST_REREAD:
            return len(self._record) - 1
        if len(self._record) > 1:
            self._reread += self._size
            self._again.extendleft(reversed(self._record[1:]))
            self.number = self.first
        return 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        self.number += 1
        self._record.append(line)
        self._size += len(line)
        if self._size > RECORD_LIMIT:
            raise _TooLong
        return line

    def _read(self) -> str:
        line = self._handle.readline(RECORD_LIMIT + 1)
        if not line:
            raise StopIteration
        rest = line
        while len(rest) > RECORD_LIMIT and not rest.endswith(("\n", "\r")):
            rest = self._handle.readline(RECORD_LIMIT + 1)
        return line


class CsvTable:
    """A CSV file with a header. `columns` are the stripped column names, `delimiter` what separates them."""

    def __init__(self, path: Path) -> None:
        """Check the encoding and read the header.

        Raises:
            UnusableManifest: not UTF-8, empty, or the header is not CSV.
        """
        check_utf8(path)
        self._path = path
        with path.open(encoding="utf-8-sig", newline="") as handle:
            line = handle.readline(RECORD_LIMIT + 1)
        if len(line) > RECORD_LIMIT:
            raise UnusableManifest("its first line is longer than 128 kB, so it is not a table")
        self.delimiter = max(_DELIMITERS, key=lambda mark: len(_cells(line, mark)))
        self.columns = [name.strip() for name in _cells(line, self.delimiter)]
        if not any(self.columns):
            raise UnusableManifest("its first line holds no column names")

    def rows(self, bad: BadRecord) -> Iterator[tuple[int, list[str]]]:
        """Line number (the header is line 1) and cells of every record that is not blank.

        The number of cells is as found; records that are not CSV are told to `bad` and passed over.
        """
        with self._path.open(encoding="utf-8-sig", newline="") as handle:
            lines = _Lines(handle)
            next(lines)
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)

            def broken(reason: str) -> None:
                lost = lines.retry_after_first()
                bad(lines.first, f"{reason}; {lost} lines after it are lost with it" if lost else reason)

            while True:
                lines.start_record()
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except _TooLong:
                    broken("the row is longer than 128 kB; perhaps a quotation mark is not closed")
                except csv.Error as error:
                    broken(f"the row is not valid CSV ({error})")
                else:
                    if any(cell and not cell.isspace() for cell in cells):
                        yield lines.first, cells


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
