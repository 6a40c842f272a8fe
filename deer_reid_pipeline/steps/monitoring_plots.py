"""Plots of a day's monitoring: similarities by what people said, and matches day by day."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from deer_reid_pipeline.steps.monitoring_report import RECENT_DAYS, Recent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG, UNKNOWN = "#1f5f99", "#c2571a", "#cfc9be"
"""Told apart by the colour-blind too."""


def recent_plot(recent: Recent) -> bytes | None:
    """Similarities of the last 7 days' matches: right, wrong and not reviewed; PNG. None without a match."""
    groups = [
        (values, colour, f"{name} ({len(values)})")
        for values, colour, name in (
            (recent.right, RIGHT, "true, a person said"),
            (recent.wrong, WRONG, "false, a person said"),
            (recent.unknown, UNKNOWN, "not reviewed"),
        )
        if values
    ]
    if not groups:
        return None
    figure = _figure()
    axes = figure.subplots()
    axes.hist(
        [values for values, _, _ in groups],
        bins=25,
        stacked=True,
        color=[colour for _, colour, _ in groups],
        label=[label for _, _, label in groups],
    )
    axes.set_xlabel(f"similarity of the matches of the last {RECENT_DAYS} days")
    axes.set_ylabel("matches")
    axes.legend(fontsize=8)
    return _png(figure)


def days_plot(history: Sequence[tuple[date, int, int]]) -> bytes | None:
    """Matches and flags of each reported day (day, matches, flags); PNG. None without a match."""
    if not any(matches for _, matches, _ in history):
        return None
    figure = _figure()
    axes = figure.subplots()
    first = min(day for day, _, _ in history)
    places = [(day - first).days for day, _, _ in history]
    axes.bar(places, [matches for _, matches, _ in history], color=UNKNOWN, width=0.8, label="matches")
    axes.bar(places, [flags for _, _, flags in history], color=WRONG, width=0.5, label="flags")
    shown = places[:: max(1, len(places) // 5)]
    names = {place: day for place, (day, _, _) in zip(places, history, strict=True)}
    axes.set_xticks(shown, [f"{names[place]:%d %b}" for place in shown])
    axes.set_xlim(places[0] - 1.5, places[-1] + 1.5)
    axes.set_ylabel("on the day")
    axes.legend(fontsize=8)
    return _png(figure)


def _figure() -> Figure:
    from matplotlib.figure import Figure  # slow to import, and most processes never draw

    return Figure(figsize=(5.2, 2.8), dpi=110, layout="constrained")


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
