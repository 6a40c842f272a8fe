"""Camera positions from a table, for drops that do not bring them. They go into the database and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.ingest.camtrap_reader import place_text
from deer_reid_pipeline.ingest.filled_table import FilledRow, read_filled_table
from deer_reid_pipeline.ingest.ledger import BadValue
from deer_reid_pipeline.ingest.values import position
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.deployments import Place, put_deployments

CAMERA_COLUMNS = ("deploymentID", "latitude", "longitude")


@dataclass(frozen=True)
class CameraImport:
    """Cameras whose position was stored, and the rows that were not used (line and reason)."""

    cameras: int
    refused: tuple[tuple[int, str], ...]


def import_cameras(site: Site, file: Path) -> CameraImport:
    """Store the camera positions of a CSV file: deploymentID, latitude, longitude, and locationName where it has one.

    A later position of a camera replaces an earlier one. No message holds a coordinate.

    Raises:
        DeerReidError: the file cannot be read as such a table, or no row of it can be used.
    """
    rows, bad = read_filled_table(file, CAMERA_COLUMNS)
    refused = list(bad)
    places: dict[str, Place] = {}
    for row in rows:
        try:
            place = _place(row)
        except BadValue as error:
            refused.append((row.line, error.reason))
            continue
        if place.id in places:
            refused.append((row.line, f"{place.id!a} stands in an earlier row, which is used"))
            continue
        places[place.id] = place
    refused.sort()
    if not places:
        first = f" (line {refused[0][0]}: {refused[0][1]})" if refused else ""
        raise DeerReidError(f"{file} has no row with a camera and its position{first}")
    with site.database.session() as session:
        put_deployments(session, places.values())
    return CameraImport(len(places), tuple(refused))


def _place(row: FilledRow) -> Place:
    key = place_text(row.cells, "deploymentID")
    if key is None:
        raise BadValue("bad_row", "it names no deploymentID")
    found = position(row.cells.get("latitude"), row.cells.get("longitude"))
    if found is None:
        raise BadValue("bad_value", "it gives no latitude and longitude")
    return Place(key, place_text(row.cells, "locationName"), *found)
