"""CSV files for people and other programs. Written whole or not at all; camera positions never leave the database."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deer_reid_pipeline.errors import DeerReidError

RESULT_COLUMNS = (
    "filePath",
    "bboxX",
    "bboxY",
    "bboxWidth",
    "bboxHeight",
    "individualID",
    "decision",
    "similarity",
    "probability",
    "recipe",
    "viewpoint",
    "method",
    "candidates",
    "reason",
)
OBSERVATION_COLUMNS = (
    "filePath",
    "eventID",
    "deploymentID",
    "timestamp",
    "individualID",
    "classificationMethod",
    "classificationProbability",
    "classifiedBy",
    "sex",
    "lifeStage",
    "viewpoint",
    "bboxX",
    "bboxY",
    "bboxWidth",
    "bboxHeight",
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One row a detection with the decision about it."""
    _write(path, RESULT_COLUMNS, rows)


def write_observations(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One row a detection of the whole database, with Camtrap DP column names."""
    _write(path, OBSERVATION_COLUMNS, rows)


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            for row in rows:
                writer.writerow([_cell(row.get(column)) for column in columns])
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DeerReidError(f"{path} cannot be written: {error.strerror}") from error


def _cell(value: Any) -> str:
    """Text that a spreadsheet would run as a formula is quoted; numbers keep 6 decimals."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
