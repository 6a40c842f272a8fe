"""What a hand-over package is made of: its files, the Table Schema of each, and datapackage.json.

The schemas of Camtrap DP's tables are written out, so that frictionless judges the package without a network. Paths
are fixed here: a package cannot name others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from deer_reid_pipeline import __version__
from deer_reid_pipeline.store.handover import CARRIED, CarriedTable, is_json, kind_of

FORMAT = 1
DESCRIPTOR = "datapackage.json"
OWN_FOLDER = "deer-reid"
MEDIA_FOLDER = "media"
CROPS_FOLDER = f"{OWN_FOLDER}/crops"
COPIES = "copies"
COPY_COLUMNS = ("kind", "id", "file", "sha256")

UNKNOWN_MOMENT = "1970-01-01T00:00:00Z"
"""Stands where Camtrap DP wants a time and none is known; said so beside it."""

ANYWHERE_M = 20_037_508
"""Half the length of the equator, metres: as an uncertainty it says that a place is not told."""

_MOMENT = {"type": "datetime", "format": "%Y-%m-%dT%H:%M:%S%z"}
_NEEDED: dict[str, Any] = {"required": True}
_SHARE: dict[str, Any] = {"minimum": 0, "maximum": 1}
_FILE_PATH = r"^(?=^[^./~])(^((?!\.{2}).)*$).*$"
_STANDARD = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0"
_DIALECT = {
    "delimiter": ",",
    "quoteChar": '"',
    "doubleQuote": True,
    "skipInitialSpace": False,
    "lineTerminator": "\n",
    "header": True,
}
_TO_DEPLOYMENTS = {"fields": "deploymentID", "reference": {"resource": "deployments", "fields": "deploymentID"}}
_TO_MEDIA = {"fields": "mediaID", "reference": {"resource": "media", "fields": "mediaID"}}


def _text(name: str, **constraints: Any) -> dict[str, Any]:
    return {"name": name, "type": "string", **({"constraints": constraints} if constraints else {})}


def _number(name: str, kind: str = "number", **constraints: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **({"constraints": constraints} if constraints else {})}


def _flag(name: str, **constraints: Any) -> dict[str, Any]:
    return {"name": name, "type": "boolean", **({"constraints": constraints} if constraints else {})}


def _moment(name: str, **constraints: Any) -> dict[str, Any]:
    return {"name": name, **_MOMENT, **({"constraints": constraints} if constraints else {})}


_FEATURES = (
    "roadPaved",
    "roadDirt",
    "trailHiking",
    "trailGame",
    "roadUnderpass",
    "roadOverpass",
    "roadBridge",
    "culvert",
    "burrow",
    "nestSite",
    "carcass",
    "waterSource",
    "fruitingTree",
)
CAMTRAP_SCHEMAS: dict[str, dict[str, Any]] = {
    "deployments": {
        "fields": [
            _text("deploymentID", **_NEEDED, unique=True),
            _text("locationID"),
            _text("locationName"),
            _number("latitude", **_NEEDED, minimum=-90, maximum=90),
            _number("longitude", **_NEEDED, minimum=-180, maximum=180),
            _number("coordinateUncertainty", "integer", minimum=1),
            _moment("deploymentStart", **_NEEDED),
            _moment("deploymentEnd", **_NEEDED),
            _text("setupBy"),
            _text("cameraID"),
            _text("cameraModel"),
            _number("cameraDelay", "integer", minimum=0),
            _number("cameraHeight", minimum=0),
            _number("cameraDepth", minimum=0),
            _number("cameraTilt", "integer", minimum=-90, maximum=90),
            _number("cameraHeading", "integer", minimum=0, maximum=360),
            _number("detectionDistance", minimum=0),
            _flag("timestampIssues"),
            _flag("baitUse"),
            _text("featureType", enum=list(_FEATURES)),
            _text("habitat"),
            _text("deploymentGroups"),
            _text("deploymentTags"),
            _text("deploymentComments"),
        ],
        "missingValues": [""],
        "primaryKey": "deploymentID",
    },
    "media": {
        "fields": [
            _text("mediaID", **_NEEDED, unique=True),
            _text("deploymentID", **_NEEDED),
            _text("captureMethod", enum=["activityDetection", "timeLapse"]),
            _moment("timestamp", **_NEEDED),
            _text("filePath", **_NEEDED, pattern=_FILE_PATH),
            _flag("filePublic", **_NEEDED),
            _text("fileName"),
            _text("fileMediatype", **_NEEDED, pattern="^(image|video|audio)/.*$"),
            {"name": "exifData", "type": "object"},
            _flag("favorite"),
            _text("mediaComments"),
        ],
        "missingValues": [""],
        "primaryKey": "mediaID",
        "foreignKeys": [_TO_DEPLOYMENTS],
    },
    "observations": {
        "fields": [
            _text("observationID", **_NEEDED, unique=True),
            _text("deploymentID", **_NEEDED),
            _text("mediaID"),
            _text("eventID"),
            _moment("eventStart", **_NEEDED),
            _moment("eventEnd", **_NEEDED),
            _text("observationLevel", **_NEEDED, enum=["media", "event"]),
            _text(
                "observationType", **_NEEDED, enum=["animal", "human", "vehicle", "blank", "unknown", "unclassified"]
            ),
            _text("cameraSetupType", enum=["setup", "calibration"]),
            _text("scientificName"),
            _number("count", "integer", minimum=1),
            _text("lifeStage", enum=["adult", "subadult", "juvenile"]),
            _text("sex", enum=["female", "male"]),
            _text("behavior"),
            _text("individualID"),
            _number("individualPositionRadius", minimum=0),
            _number("individualPositionAngle", minimum=-90, maximum=90),
            _number("individualSpeed", minimum=0),
            _number("bboxX", **_SHARE),
            _number("bboxY", **_SHARE),
            _number("bboxWidth", minimum=1e-15, maximum=1),
            _number("bboxHeight", minimum=1e-15, maximum=1),
            _text("classificationMethod", enum=["human", "machine"]),
            _text("classifiedBy"),
            _moment("classificationTimestamp"),
            _number("classificationProbability", **_SHARE),
            _text("observationTags"),
            _text("observationComments"),
        ],
        "missingValues": [""],
        "primaryKey": "observationID",
        "foreignKeys": [_TO_DEPLOYMENTS, _TO_MEDIA],
    },
}
"""Fields, types and constraints of Camtrap DP 1.0, in its order."""


@dataclass(frozen=True)
class Choices:
    """What was asked for when a package was written.

    Attributes:
        places: with camera coordinates, place names and what pictures say of themselves.
        files: with copies of pictures and crops.
    """

    places: bool = False
    files: bool = False


@dataclass(frozen=True)
class Written:
    """A file of a package as it was written: sha256 (hex) and size in bytes."""

    sha256: str
    size: int


def carried_tables(choices: Choices) -> list[CarriedTable]:
    """The tables that a package of these choices has beside Camtrap DP's, in the order in which they are stored."""
    return [carried for carried in CARRIED if choices.files or not carried.with_files]


def table_paths(choices: Choices) -> dict[str, str]:
    """Resource name -> path in the package, of every table."""
    paths = {name: f"{name}.csv" for name in CAMTRAP_SCHEMAS}
    paths |= {carried.name: own_path(carried.name) for carried in carried_tables(choices)}
    return paths | {COPIES: own_path(COPIES)} if choices.files else paths


def own_path(name: str) -> str:
    """Path of one of the tables beside Camtrap DP's."""
    return f"{OWN_FOLDER}/{name}.csv"


def resources(choices: Choices, written: Mapping[str, Written], *, addresses: bool = False) -> list[dict[str, Any]]:
    """The resources of datapackage.json: every table with its schema, size and hash.

    Args:
        written: by resource name.
        addresses: name the schemas of Camtrap DP by web address instead of writing them out.
    """
    about = {carried.name: carried for carried in carried_tables(choices)}
    found = []
    for name, path in table_paths(choices).items():
        resource: dict[str, Any] = {
            "name": name,
            "path": path,
            "profile": "tabular-data-resource",
            "format": "csv",
            "mediatype": "text/csv",
            "encoding": "utf-8",
            "dialect": _DIALECT,
            "bytes": written[name].size,
            "hash": f"sha256:{written[name].sha256}",
        }
        if name in CAMTRAP_SCHEMAS:
            resource["schema"] = f"{_STANDARD}/{name}-table-schema.json" if addresses else CAMTRAP_SCHEMAS[name]
        elif name == COPIES:
            resource["description"] = (
                "Pictures and crops that came along: each file, and its sha256 as it is in the package"
            )
            resource["schema"] = {"fields": [_text(column, **_NEEDED) for column in COPY_COLUMNS], "primaryKey": "file"}
        else:
            resource["description"] = about[name].about
            resource["schema"] = _own_schema(about[name], choices)
        found.append(resource)
    return found


def _own_schema(carried: CarriedTable, choices: Choices) -> dict[str, Any]:
    fields = []
    for column in carried.columns(choices.places):
        said = " ".join(filter(None, (column.comment, "(JSON)" if is_json(column) else "")))
        fields.append(
            {"name": column.name, "type": kind_of(column), "format": "default"}
            | ({"description": said} if said else {})
            | ({"constraints": _NEEDED} if column.primary_key else {})
        )
    return {"fields": fields, "missingValues": [""], "primaryKey": [column.name for column in carried.key]}


def descriptor(
    choices: Choices,
    written: Mapping[str, Written],
    *,
    revision: str,
    created: datetime,
    days: tuple[date, date],
    spatial: Mapping[str, Any],
    addresses: bool,
) -> dict[str, Any]:
    """datapackage.json. What the product cannot know (sampling design, contributors) is a value to be corrected.

    Args:
        revision: of the database's schema.
        days: first and last day of the pictures.
        spatial: GeoJSON.
    """
    said = "with camera coordinates" if choices.places else "without camera coordinates"
    profile = {"profile": f"{_STANDARD}/camtrap-dp-profile.json"} if addresses else {}
    return {
        **profile,
        "name": f"deer-reid-{created:%Y%m%d%H%M%S}",
        "title": "Individually identified deer on trail-camera pictures",
        "description": (
            f"Camtrap DP 1.0, {said}. Written by deer-reid {__version__}; `deer-reid import` restores individuals, "
            "encounters and decisions from it. Times that cameras gave without a zone are marked as UTC."
        ),
        "created": f"{created:%Y-%m-%dT%H:%M:%SZ}",
        "contributors": [{"title": "Operator of this deer-reid installation", "role": "contact"}],
        "project": {
            "title": "Individually identified deer on trail-camera pictures",
            "samplingDesign": "opportunistic",
            "captureMethod": ["activityDetection"],
            "individualAnimals": True,
            "observationLevel": ["media"],
        },
        "spatial": dict(spatial),
        "temporal": {"start": days[0].isoformat(), "end": days[1].isoformat()},
        "taxonomic": [],
        "resources": resources(choices, written, addresses=addresses),
        "deerReid": {
            "format": FORMAT,
            "version": __version__,
            "revision": revision,
            "coordinates": choices.places,
            "files": choices.files,
        },
    }


def world() -> dict[str, Any]:
    """GeoJSON of the whole Earth: says nothing of where cameras stand."""
    return rectangle(-180, -90, 180, 90)


def rectangle(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    """GeoJSON of a rectangle, degrees."""
    corners = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "bbox": [west, south, east, north], "coordinates": [corners]}


def camtrap_columns(name: str) -> Sequence[str]:
    """Column names of one of Camtrap DP's tables."""
    return [str(field["name"]) for field in CAMTRAP_SCHEMAS[name]["fields"]]
