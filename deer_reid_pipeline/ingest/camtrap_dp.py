"""Camtrap DP packages: datapackage.json with the tables deployments, media and observations.

frictionless judges the descriptor and every row. Only the tables' paths are taken from the descriptor:
profiles and schemas that it names by web address are never fetched, the columns' types are given here. Tables
lie in the drop as plain CSV in UTF-8.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frictionless import Dialect, FrictionlessException, Package, Resource, Schema, system

from deer_reid_pipeline.ingest.csv_rows import CsvTable
from deer_reid_pipeline.ingest.ledger import Ledger
from deer_reid_pipeline.ingest.manifest import UnusableManifest, load_json
from deer_reid_pipeline.ingest.wording import printable

_WRONG_LENGTH = ("extra-cell", "missing-cell")
TABLES = ("deployments", "media", "observations")
_LOCAL_DESCRIPTOR = {"name": "camtrap-dp"}
_REQUIRED = {"required": True}
_FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    "deployments": {"deploymentID": {"type": "string", "constraints": _REQUIRED}},
    "media": {
        "mediaID": {"type": "string", "constraints": _REQUIRED},
        "filePath": {"type": "string", "constraints": _REQUIRED},
    },
    "observations": {
        "observationLevel": {"type": "string", "constraints": {"enum": ["media", "event"]}},
        "observationType": {
            "type": "string",
            "constraints": {
                "required": True,
                "enum": ["animal", "human", "vehicle", "blank", "unknown", "unclassified"],
            },
        },
        **{name: {"type": "number"} for name in ("bboxX", "bboxY", "bboxWidth", "bboxHeight")},
    },
}
_NEEDED = {
    "deployments": ("deploymentID",),
    "media": ("mediaID", "filePath"),
    "observations": ("observationType",),
}

Row = dict[str, str | None]
BadRow = Callable[[int, str, str, Row], None]
"""Called with line, code, reason and the cells as written for every row that does not fit the standard."""


@dataclass(frozen=True, slots=True)
class CamtrapPackage:
    """An opened package: the folder, and for each table its path in the drop and its header.

    `tables` lacks a table that is absent or broken; `broken` says why (path or table name -> reason).
    """

    root: Path
    paths: dict[str, str]
    tables: dict[str, CsvTable]
    broken: dict[str, str]

    @property
    def files(self) -> frozenset[str]:
        """Paths of the tables, relative to the drop."""
        return frozenset(self.paths.values())


def open_package(descriptor: Path) -> CamtrapPackage:
    """Open `datapackage.json` in the root of a drop.

    Raises:
        UnusableManifest: not a data package, a table's path is not safe, or the media table is not readable.
    """
    root = descriptor.parent
    found = _table_paths(load_json(descriptor))
    try:
        with system.use_context(trusted=False):
            package = Package.from_descriptor(
                {**_LOCAL_DESCRIPTOR, "resources": [{"name": name, "path": path} for name, path in found]},
                basepath=os.fspath(root),
            )
            paths = {resource.name: resource.path for resource in package.resources if resource.path is not None}
    except FrictionlessException as error:
        notes = "; ".join(str(reason.note) for reason in error.reasons) or str(error.error.note)
        raise UnusableManifest(f"it is not a usable data package: {printable(notes, 200)}") from error
    tables: dict[str, CsvTable] = {}
    broken: dict[str, str] = {}
    for name in TABLES:
        if name not in paths:
            broken[name] = f"the package has no table {name}"
            continue
        try:
            tables[name] = _open_table(root, name, paths[name])
        except UnusableManifest as error:
            broken[paths[name]] = str(error)
    if "media" not in tables:
        why = broken.get(paths.get("media", ""), "it is not among the resources")
        raise UnusableManifest(f"its table media cannot be used: {why}")
    inside = {name: path for name, path in paths.items() if _is_file(root / path)}
    return CamtrapPackage(root, inside, tables, broken)


def _table_paths(document: Any) -> list[tuple[str, str]]:
    resources = document.get("resources") if isinstance(document, dict) else None
    if not isinstance(resources, list):
        raise UnusableManifest('it has no list "resources", so it is not a data package')
    found = []
    for resource in resources:
        name = resource.get("name") if isinstance(resource, dict) else None
        if name not in TABLES:
            continue
        path = resource.get("path")
        if isinstance(path, list) and len(path) == 1:
            path = path[0]
        if not isinstance(path, str) or not path.strip():
            raise UnusableManifest(f"its table {name} names no single file")
        if "://" in path:
            raise UnusableManifest(f"its table {name} is a web address; only files in the drop are read")
        if not path.isprintable() or not path.lower().endswith((".csv", ".tsv", ".txt")):
            raise UnusableManifest(f"its table {name} is {printable(path, 60)}, not a plain .csv file")
        found.append((str(name), path))
    return found


def _is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have, such as one of 300 characters, is not there."""
    try:
        return path.is_file()
    except OSError:
        return False


def _open_table(root: Path, name: str, path: str) -> CsvTable:
    real = os.path.realpath(root / path)
    if not real.startswith(os.fspath(root).rstrip(os.sep) + os.sep):
        raise UnusableManifest("it lies outside the drop")
    if not _is_file(Path(real)):
        raise UnusableManifest("it is missing")
    table = CsvTable(Path(real))
    missing = [column for column in _NEEDED[name] if column not in table.columns]
    if missing:
        raise UnusableManifest(f"its first line has no column {' or '.join(missing)}")
    return table


def read_table(package: CamtrapPackage, name: str, ledger: Ledger, on_bad: BadRow) -> Iterator[tuple[int, Row]]:
    """Line number and cells (None where empty) of every row that fits the standard, streamed.

    Rows that do not are told to `on_bad`: bad_row, bad_box or bad_value.
    """
    table, path = package.tables[name], package.paths[name]
    columns = _unique(table.columns)
    lines = array("q")

    def broken(line: int, reason: str) -> None:
        ledger.quarantine(f"{path}:{line}", "bad_row", reason)

    def cells() -> Iterator[list[str]]:
        yield columns
        for line, row in table.rows(broken):
            lines.append(line)
            yield row

    schema = Schema.from_descriptor(
        {
            "fields": [{"name": column, **_FIELDS[name].get(column, {"type": "string"})} for column in columns],
            "missingValues": ["", "NA", "N/A", "null"],
        }
    )
    # Without a dialect frictionless takes a later row for the header where the first ones have other widths.
    dialect = Dialect(header=True, header_rows=[1])
    try:
        with Resource(name=name, data=cells, format="inline", schema=schema, dialect=dialect) as resource:
            for row in resource.row_stream:
                line = lines[row.row_number - 2]
                errors = [error for error in row.errors if error.type != "blank-row"]
                if not errors:
                    yield (
                        line,
                        {column: None if row[column] is None else str(row[column]) for column in columns},
                    )
                    continue
                code, reason = _explain(min(errors, key=lambda error: error.type not in _WRONG_LENGTH))
                on_bad(
                    line,
                    code,
                    reason,
                    {column: _text(cell) for column, cell in zip(columns, row.cells, strict=False)},
                )
    except FrictionlessException as error:
        ledger.quarantine(path, "unreadable_manifest", f"reading stopped early: {error.error.note}")


def _text(cell: Any) -> str | None:
    return None if cell is None else str(cell)


def _unique(columns: list[str]) -> list[str]:
    seen: set[str] = set()
    result = []
    for position, column in enumerate(columns, start=1):
        name = f"{column} (column {position})" if column in seen or not column else column
        seen.add(name)
        result.append(name)
    return result


def _explain(error: Any) -> tuple[str, str]:
    if error.type in _WRONG_LENGTH:
        return (
            "bad_row",
            f"the row has too {'many' if error.type == 'extra-cell' else 'few'} fields for its header",
        )
    column = str(getattr(error, "field_name", ""))
    code = "bad_box" if column.startswith("bbox") else "bad_value"
    return code, f"column {printable(column, 40)} does not fit Camtrap DP: {printable(str(error.note), 150)}"
