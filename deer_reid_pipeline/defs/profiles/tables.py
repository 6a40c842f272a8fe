"""The decisions of a drop as the Dagster UI shows them: a markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deer_reid_pipeline.steps.summary import Seen, markdown_text

COLUMNS = (
    "log",
    "first picture",
    "pictures",
    "decision",
    "individual",
    "most similar",
    "matched from",
    "probability",
    "release",
)
MOST_DECISIONS = 50
MOST_CANDIDATES = 3


def decision_table(seen: Sequence[Seen]) -> str:
    """A row for each encounter that the machine decided, in the drop's order; the numbers are those of the log."""
    encounters: dict[object, list[dict[str, Any]]] = {}
    for item in seen:
        if item.row["method"] == "machine":
            encounters.setdefault(item.row["encounter"], []).append(item.row)
    if not encounters:
        return "No machine decision."
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [_line(rows) for rows in list(encounters.values())[:MOST_DECISIONS]]
    if len(encounters) > MOST_DECISIONS:
        more = len(encounters) - MOST_DECISIONS
        lines.append(f"| | and {more} more: `deer-reid process FOLDER --output FILE.csv` lists all" + " |" * 8)
    return "\n".join(lines)


def _line(rows: Sequence[dict[str, Any]]) -> str:
    """One encounter, from the rows of its detections."""
    first = rows[0]
    candidates = "; ".join(first["candidates"].split("; ")[:MOST_CANDIDATES])
    cells = (
        str(first["log"]),
        markdown_text(first["filePath"]),
        str(len(rows)),
        first["decision"].replace("_", " "),
        markdown_text(first["individualID"] or "-"),
        markdown_text(candidates or "nobody to compare with"),
        _number(first["threshold"]),
        _number(first["probability"]),
        str(first["release"] or "-"),
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
