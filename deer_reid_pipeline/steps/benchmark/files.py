"""The files of a benchmark: JSON, tables as text, a plot, and one page with all of it. Nothing in it is fetched."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from deer_reid_pipeline.steps.benchmark.tables import Table
from deer_reid_pipeline.steps.report.templates import page_template
from deer_reid_pipeline.steps.report.writer import dated_name, write_folder

PAGE, DATA = "benchmark.html", "benchmark.json"


def write_report(
    home: Path,
    name: str,
    *,
    title: str,
    headline: str,
    warnings: Sequence[str],
    found: Mapping[str, Any],
    made: Sequence[Table],
    plot: bytes | None,
    made_at: datetime,
    recipe_id: str,
) -> Path:
    """Write benchmark.json, .txt, .html and, where there is a plot, .png into a new folder; returns it.

    Args:
        name: folder under the home's reports.
        found: plain data; no NaN, no infinity.

    Raises:
        DeerReidError: the folder cannot be written.
    """
    text = [title, f"{made_at:%Y-%m-%d %H:%M} UTC, recipe {recipe_id}", "", headline, *warnings]
    files: dict[str, str | bytes] = {
        DATA: json.dumps(found, indent=2, allow_nan=False) + "\n",
        "benchmark.txt": "\n\n\n".join(["\n".join(text), *(table.text() for table in made)]) + "\n",
        PAGE: page_template("benchmark_page.html.j2", Path(__file__).parent).render(
            title=title,
            headline=headline,
            warnings=warnings,
            tables=made,
            plot="" if plot is None else "data:image/png;base64," + base64.b64encode(plot).decode("ascii"),
            made_at=f"{made_at:%Y-%m-%d %H:%M} UTC",
            recipe=recipe_id,
        ),
    }
    if plot is not None:
        files["benchmark.png"] = plot
    return write_folder(home / "reports" / name, dated_name(made_at, recipe_id), files)
