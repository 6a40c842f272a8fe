"""Camtrap DP's three tables, row by row from the store. The same rows and choices give the same bytes anywhere."""

from __future__ import annotations

import csv
import io
import mimetypes
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import quote

from sqlalchemy.orm import Session

from deer_reid_pipeline.steps.handover.package import ANYWHERE_M, UNKNOWN_MOMENT, camtrap_columns
from deer_reid_pipeline.store.handover import (
    ObservationRow,
    PictureRow,
    individual_labels,
    observation_rows,
    picture_rows,
    places_of_cameras,
)

_STAGES = frozenset({"adult", "subadult", "juvenile"})
_SEXES = frozenset({"female", "male"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Copies = Mapping[uuid.UUID, str]
"""Picture -> its path in the package, of those that came along."""


@dataclass
class _Span:
    """First and last known time of a deployment, and whether one of its pictures has none."""

    start: datetime | None = None
    end: datetime | None = None
    lacking: bool = False

    def add(self, moment: datetime | None) -> None:
        if moment is None:
            self.lacking = True
            return
        self.start = moment if self.start is None else min(self.start, moment)
        self.end = moment if self.end is None else max(self.end, moment)


@dataclass
class Covered:
    """What the package is about: first and last day, and the rectangle of the cameras (west, south, east, north)."""

    days: tuple[date, date] = (_EPOCH.date(), _EPOCH.date())
    rectangle: tuple[float, float, float, float] | None = None


def write_media(session: Session, target: IO[bytes], copies: Copies) -> int:
    """media.csv: one row a stored picture."""
    return _write(target, "media", (_media(row, copies) for row in picture_rows(session)))


def write_observations(session: Session, target: IO[bytes]) -> int:
    """observations.csv: one row a standing detection with the latest decision about it."""
    labels = individual_labels(session)
    return _write(target, "observations", (_observation(row, labels) for row in observation_rows(session)))


def write_deployments(session: Session, target: IO[bytes], places: bool) -> Covered:
    """deployments.csv: one row a camera placement, or a folder where no placement is known.

    Args:
        places: write coordinates and place names; otherwise 0, 0 with an uncertainty that spans the Earth.
    """
    spans: dict[str, _Span] = {}
    whole = _Span()
    for row in picture_rows(session):
        spans.setdefault(deployment_of(row), _Span()).add(row.timestamp)
        whole.add(row.timestamp)
    cameras = places_of_cameras(session)
    rows = []
    easts: list[float] = []
    norths: list[float] = []
    for key in sorted({*spans, *cameras}):
        span = spans.get(key, _Span(lacking=True))
        name, north, east = cameras.get(key, (None, None, None)) if places else (None, None, None)
        known = north is not None and east is not None
        if north is not None and east is not None:
            easts.append(east)
            norths.append(north)
        rows.append(
            {
                "deploymentID": key,
                "locationName": name,
                "latitude": north if known else 0,
                "longitude": east if known else 0,
                "coordinateUncertainty": None if known else ANYWHERE_M,
                "deploymentStart": moment_text(span.start),
                "deploymentEnd": moment_text(span.end),
                "timestampIssues": "true" if span.lacking else "false",
                "deploymentComments": None if known else "coordinates are not told: 0, 0 stands for anywhere on Earth",
            }
        )
    _write(target, "deployments", rows)
    covered = Covered()
    if whole.start is not None and whole.end is not None:
        covered.days = (whole.start.astimezone(UTC).date(), whole.end.astimezone(UTC).date())
    if easts:
        covered.rectangle = (min(easts), min(norths), max(easts), max(norths))
    return covered


def deployment_of(row: PictureRow) -> str:
    """deploymentID of a picture; where none is known, its folder stands for the camera."""
    if row.deployment_id:
        return row.deployment_id
    folder = (row.file_path or "").rpartition("/")[0]
    return f"folder:{row.drop_key or ''}/{folder}".rstrip("/")


def original_path(row: PictureRow) -> str:
    """Where the drop had a picture, below the folder that holds the drops."""
    if row.file_path is None:
        return row.filename
    return f"{row.drop_name}/{row.file_path}" if row.drop_name else row.file_path


def as_file_path(path: str) -> str:
    """A path as Camtrap DP's filePath may be: what it does not allow is percent-encoded."""
    safe = _CONTROL.sub(lambda found: quote(found.group(), safe=""), path).replace("..", "%2E%2E")
    if safe[:1] in (".", "/", "~"):
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    return safe or "%00"


def moment_text(moment: datetime | None) -> str:
    """A time as Camtrap DP wants it, in UTC and whole seconds; the placeholder where none is known."""
    if moment is None:
        return UNKNOWN_MOMENT
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0).isoformat() + "Z"


def _media(row: PictureRow, copies: Copies) -> dict[str, Any]:
    return {
        "mediaID": str(row.id),
        "deploymentID": deployment_of(row),
        "timestamp": moment_text(row.timestamp),
        "filePath": copies.get(row.id) or as_file_path(original_path(row)),
        "filePublic": "false",
        "fileName": PurePosixPath(row.file_path).name if row.file_path else row.filename,
        "fileMediatype": _media_type(row.filename),
        "mediaComments": "time not known" if row.timestamp is None else None,
    }


def _media_type(name: str) -> str:
    found = mimetypes.types_map.get(PurePosixPath(name).suffix.lower(), "")
    return found if found.startswith("image/") else "image/jpeg"


def _observation(row: ObservationRow, labels: Mapping[uuid.UUID, str]) -> dict[str, Any]:
    picture = row.picture
    machine = row.method == "machine"
    x, y, width, height = row.box
    placed = width > 0 and height > 0
    tags = [f"viewpoint:{row.viewpoint}"] if row.viewpoint else []
    tags += [f"source:{row.source}"] if row.source else []
    return {
        "observationID": str(row.id),
        "deploymentID": deployment_of(picture),
        "mediaID": str(picture.id),
        "eventID": picture.event_id or (f"{row.encounter_drop}/{row.event_key}" if row.event_key else None),
        "eventStart": moment_text(row.started_at or picture.timestamp),
        "eventEnd": moment_text(row.ended_at or picture.timestamp),
        "observationLevel": "media",
        "observationType": "animal",
        "count": 1,
        "lifeStage": row.life_stage if row.life_stage in _STAGES else None,
        "sex": row.sex if row.sex in _SEXES else None,
        "individualID": labels[row.deer] if row.deer is not None else None,
        "bboxX": _number(x) if placed else None,
        "bboxY": _number(y) if placed else None,
        "bboxWidth": _number(width) if placed else None,
        "bboxHeight": _number(height) if placed else None,
        "classificationMethod": row.method,
        "classifiedBy": f"{row.recipe} release {row.release}" if machine and row.recipe else None,
        "classificationTimestamp": None if row.decided_at is None else moment_text(row.decided_at),
        "classificationProbability": None if row.probability is None else _number(row.probability),
        "observationTags": " | ".join(tags) or None,
        "observationComments": f"{row.decision}: {row.reason}" if row.decision else None,
    }


def _number(value: float) -> str:
    return repr(float(min(max(value, 0.0), 1.0)))


def _write(target: IO[bytes], name: str, rows: Iterable[Mapping[str, Any]]) -> int:
    columns = camtrap_columns(name)
    text = io.TextIOWrapper(target, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    written = 0
    for row in rows:
        writer.writerow([row.get(column) for column in columns])
        written += 1
    text.flush()
    text.detach()
    return written


def read_rows(source: IO[bytes]) -> Iterator[dict[str, str]]:
    """Rows of a table of a package by column name; an empty cell is an empty text."""
    text = io.TextIOWrapper(source, encoding="utf-8", newline="")
    yield from csv.DictReader(text)
