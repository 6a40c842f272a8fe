"""CSV tables that a person filled in: reviews, camera positions. Read whole, in any column order and case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.ingest.csv_rows import CsvTable
from deer_reid_pipeline.ingest.manifest import UnusableManifest


@dataclass(frozen=True)
class FilledRow:
    """A row of the table: its line number (the header is line 1) and its cells by the column names asked for."""

    line: int
    cells: dict[str, str]


def read_filled_table(file: Path, columns: Sequence[str]) -> tuple[list[FilledRow], list[tuple[int, str]]]:
    """Rows of a CSV file, and the line and reason of each that is not CSV or has too many fields.

    Columns are found whatever their case; other columns keep their own names. Missing trailing fields are empty, as
    spreadsheets leave them out.

    Raises:
        DeerReidError: the file cannot be read, or lacks one of the columns.
    """
    if not file.is_file():
        raise DeerReidError(f"{file} is not a file: name the CSV file to read")
    try:
        table = CsvTable(file)
    except UnusableManifest as error:
        raise DeerReidError(f"{file} cannot be used: {error}") from error
    wanted = {name.lower(): name for name in columns}
    names = [wanted.get(name.lower(), name) for name in table.columns]
    missing = [name for name in columns if name not in names]
    if missing:
        raise DeerReidError(f"{file} has no column {' or '.join(missing)}; it has {', '.join(filter(None, names))!a}")
    rows: list[FilledRow] = []
    bad: list[tuple[int, str]] = []
    for line, cells in table.rows(lambda at, reason: bad.append((at, reason))):
        if len(cells) > len(names):
            bad.append((line, "the row has more fields than the first line has names"))
        else:
            rows.append(FilledRow(line, dict(zip(names, cells, strict=False))))
    return rows, bad
