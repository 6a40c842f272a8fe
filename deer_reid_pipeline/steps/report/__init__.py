"""The validation report: one self-contained page, the owner's dated text file, and JSON.

`write_report` writes the folder of one validation. `assignment` is a report of its own.
"""

from __future__ import annotations

from pathlib import Path

from deer_reid_pipeline.steps.report.content import content_of, sides_of
from deer_reid_pipeline.steps.report.page import render
from deer_reid_pipeline.steps.report.report_json import report_json
from deer_reid_pipeline.steps.report.text import text_report
from deer_reid_pipeline.steps.report.writer import dated_name, write_folder
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.validation import ValidationResult

__all__ = ["JSON", "PAGE", "write_report"]

PAGE, JSON = "report.html", "report.json"


def write_report(site: Site, result: ValidationResult) -> Path:
    """Write a validation's report into a new folder under the home, `reports/validation/<UTC time>-<recipe>/`.

    It holds `report.html`, `report.json` and `validation_report_YYYYMMDD_HHMMSS.txt`.

    Returns:
        The folder.

    Raises:
        DeerReidError: the disk is full or the folder cannot be written; no half report is left.
    """
    sides = sides_of(result)
    content = content_of(site, result, sides)
    return write_folder(
        site.settings.home / "reports" / "validation",
        dated_name(result.made_at, result.judged.recipe.id),
        {
            PAGE: render(content),
            JSON: report_json(result, sides, PAGE),
            f"validation_report_{result.made_at:%Y%m%d_%H%M%S}.txt": text_report(content),
        },
    )
