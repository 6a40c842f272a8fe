"""`observations.csv` beside the pictures: one row an animal, with Camtrap DP's column names.

All columns but filePath are optional. No box means the whole picture; several rows of a picture are several
animals.
"""

from __future__ import annotations

from pathlib import Path

from deer_reid_pipeline.ingest.animal_row import BOX_COLUMNS, NOT_LOOKED_AT, RowReader, observation_type
from deer_reid_pipeline.ingest.claims import Claims
from deer_reid_pipeline.ingest.csv_rows import CsvTable
from deer_reid_pipeline.ingest.ledger import BadValue, Ledger
from deer_reid_pipeline.ingest.manifest import UnusableManifest
from deer_reid_pipeline.ingest.paths import PictureIndex
from deer_reid_pipeline.ingest.wording import printable

_READ = (
    *("filePath", "individualID", "eventID", "viewpoint", "sex", "lifeStage", "timestamp", "deploymentID"),
    *BOX_COLUMNS,
    *("observationType", "classificationMethod", "classificationProbability", "classification"),
    "observationTags",
)
_CANONICAL = {name.lower(): name for name in _READ}


def canonical_columns(columns: list[str]) -> list[str]:
    """Column names as Camtrap DP spells them, whatever their case; a repeated name is made unique."""
    seen: set[str] = set()
    result = []
    for position, column in enumerate(columns, start=1):
        name = _CANONICAL.get(column.lower(), column) or f"column {position}"
        if name in seen:
            name = f"{name} (column {position})"
        seen.add(name)
        result.append(name)
    return result


def open_manifest(path: Path) -> CsvTable:
    """The table, its header read.

    Raises:
        UnusableManifest: empty, not UTF-8, or without a column filePath.
    """
    table = CsvTable(path)
    if "filePath" not in canonical_columns(table.columns):
        raise UnusableManifest("its first line has no column filePath")
    return table


def read_observations(
    table: CsvTable, name: str, index: PictureIndex, claims: Claims, ledger: Ledger, min_confidence: float
) -> None:
    """Turn every row into claims; what cannot be used goes to the ledger. `name` is the table's."""
    columns = canonical_columns(table.columns)
    unknown = [column for column in columns if column not in _READ]
    if unknown:
        shown = ", ".join(printable(column, 40) for column in unknown[:10])
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        ledger.warn(f"{printable(name)} has columns that are not used: {shown}{more}")
    path_at = columns.index("filePath")
    reader = RowReader(ledger, min_confidence, decimal_comma=table.delimiter == ";")

    def broken(line: int, reason: str) -> None:
        ledger.quarantine(f"{name}:{line}", "bad_row", reason)

    for line, cells in table.rows(broken):
        written = cells[path_at] if path_at < len(cells) else ""
        place = f"{name}:{line} ({written.strip()})"
        if not written.strip():
            ledger.quarantine(place, "bad_row", "the row has no filePath")
            continue
        try:
            rel = index.find(written)
        except BadValue as error:
            ledger.quarantine(written.strip(), error.code, f"{error.reason} (see {name})")
            continue
        if rel is None:
            continue
        try:
            if len(cells) != len(columns):
                raise BadValue("bad_row", f"the row has {len(cells)} fields, the header has {len(columns)}")
            row: dict[str, str | None] = dict(zip(columns, cells, strict=True))
            kind = observation_type(row)
            box = reader.box(row) if kind == "animal" else None
        except BadValue as error:
            claims.claim(rel).looked_at = True
            ledger.quarantine(place, error.code, error.reason)
            continue
        claims.place_in_time(rel, row.get("timestamp"), row.get("deploymentID"), row.get("eventID"))
        if kind != NOT_LOOKED_AT:
            claims.claim(rel).looked_at = True
        if box is not None:
            claims.add_box(rel, box, place)
