"""Files for people and other programs. Written whole or not at all; camera positions never leave the database."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

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


def write_reviews(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """One row a pair of pictures, for a person to fill in."""
    _write(path, columns, rows)


def page_beside(table: Path) -> Path:
    """The page of a table: named like it, with .html at the end."""
    name = table.stem if table.suffix.lower() == ".csv" else table.name
    return table.parent / f"{name}.html"


def write_page(path: Path, content: str) -> None:
    """An HTML page."""
    _whole(path, lambda part: part.write_text(content, encoding="utf-8"))


def _write(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    table = pd.DataFrame.from_records(rows, columns=list(columns)) if rows else pd.DataFrame(columns=list(columns))
    for name in table.columns:
        table[name] = table[name].map(_harmless)
    _whole(path, lambda part: table.to_csv(part, index=False, float_format="%.6g", encoding="utf-8"))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    if not path.name or path.is_dir():
        raise DeerReidError(f"{path} is a folder: name a file to write")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DeerReidError(f"{path} cannot be written: {error.strerror}") from error


def _harmless(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets a quote in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
