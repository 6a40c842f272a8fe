"""The files of a day's monitoring: one self-contained HTML page, the same as text, and JSON.

Written into one folder a day, each file whole or not at all; a repeated report replaces them. Camera coordinates are
in none of them.
"""

from __future__ import annotations

import base64
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.steps.monitoring_plots import days_plot, recent_plot
from deer_reid_pipeline.steps.monitoring_report import (
    BOUND,
    FAIL,
    INCONCLUSIVE,
    PASS,
    RECENT_DAYS,
    SIMILAR_ABOVE,
    MatchLine,
    MonitoringReport,
    summary_of,
)
from deer_reid_pipeline.steps.report.templates import page_template
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.thumbnails import thumbnails

MOST_PAIRS = 40
MOST_LINES = 100
RULE_NAMES = {
    "too_far_too_fast": "too far too fast",
    "sex_conflict": "another sex",
    "life_stage_conflict": "another age",
    "two_boxes_of_one_picture": "twice in one picture",
    "implausible_share": "too many matches",
    "body_size_conflict": "another body size",
}
_KINDS = {PASS: "pass", FAIL: "fail", INCONCLUSIVE: "open"}


def write_files(site: Site, session: Session, report: MonitoringReport, number: int) -> Path:
    """Write monitoring.html, monitoring.txt and monitoring.json; returns their folder.

    Raises:
        DeerReidError: the folder cannot be written.
    """
    folder = site.settings.home / report.folder
    _write(folder / "monitoring.html", page(site, session, report, number))
    _write(folder / "monitoring.txt", text(report))
    _write(folder / "monitoring.json", json.dumps({"report": number, **summary_of(report)}, indent=2, default=str))
    return folder


def text(report: MonitoringReport) -> str:
    """The report as plain ASCII text."""
    lines = [
        f"Monitoring of {report.day} (UTC, until {report.until:%Y-%m-%d %H:%M})",
        "",
        f"{report.verdict}: {report.sentence}",
        f"Bound: fewer than {BOUND:.0%} false matches.",
        "",
        _decided(report),
        f"{len(report.similar)} matches with similarity above {SIMILAR_ABOVE:.2f}; "
        f"{sum(bool(line.flags) for line in report.similar)} of them flagged.",
        "",
        f"Implausible: {len(report.flags)}",
        *(f"  {RULE_NAMES[flag.rule]}: {flag.text}" for flag in report.flags),
        *(["", "Could not be judged:"] if report.not_judged else []),
        *(f"  {RULE_NAMES[rule]}: {count} comparisons" for rule, count in sorted(report.not_judged.items())),
        "",
        f"To look at next: {len(report.to_review)} (deer-reid review export FILE.csv writes them all)",
        *(f"  {item.day} {item.individual}: {item.why}" for item in report.to_review[:MOST_LINES]),
    ]
    return "".join(line.encode("ascii", "backslashreplace").decode() + "\n" for line in lines)


def page(site: Site, session: Session, report: MonitoringReport, number: int) -> str:
    """The HTML page; nothing in it is fetched, and names from outside are escaped."""
    shown = report.to_review[:MOST_PAIRS]
    shots = thumbnails(site, session, [key for item in shown for key in (item.left, item.right)])
    rate = report.rate
    return page_template("monitoring_page.html.j2", Path(__file__).parent).render(
        report=report,
        number=number,
        kind=_KINDS[report.verdict],
        decided=_decided(report),
        rules=RULE_NAMES,
        bound=BOUND,
        above=SIMILAR_ABOVE,
        recent_days=RECENT_DAYS,
        rate_tile=f"{rate.value:.1%}" if rate.reviewed else "not known",
        rate_note=f"{rate.low:.1%} to {rate.high:.1%}" if rate.reviewed else "nothing reviewed yet",
        flagged=sum(bool(line.flags) for line in report.similar),
        similar=[_line(line) for line in sorted(report.similar, key=lambda i: (not i.flags, i.similarity))][
            :MOST_LINES
        ],
        pairs=[{"item": item, "left": shots[item.left], "right": shots[item.right]} for item in shown],
        recent_plot=_inline(recent_plot(report.recent)),
        days_plot=_inline(days_plot(report.history)),
    )


def _decided(report: MonitoringReport) -> str:
    of = report.outcomes
    releases = f" by release {', '.join(map(str, report.releases))}" if report.releases else ""
    return (
        f"{sum(of.values())} encounters decided by the machine{releases}: {of.get('matched', 0)} matched, "
        f"{of.get('new_individual', 0)} new, {of.get('uncertain', 0)} uncertain; {report.by_person} by a person."
    )


def _line(line: MatchLine) -> dict[str, Any]:
    words = {True: "yes", False: "no", None: "not known"}
    return {
        "individual": line.individual,
        "similarity": f"{line.similarity:.3f}",
        "probability": "" if line.probability is None else f"{line.probability:.0%}",
        "sex": words[line.same_sex],
        "size": words[line.similar_size],
        "times": words[line.compatible_times],
        "flags": ", ".join(RULE_NAMES[rule] for rule in line.flags),
    }


def _inline(png: bytes | None) -> str:
    return "" if png is None else "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _write(path: Path, content: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(content, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DeerReidError(f"{path} cannot be written: {error.strerror}; free some space and run it again") from error
