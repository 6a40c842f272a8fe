"""Plots of a benchmark and of a night, small enough to be kept with a run; PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deer_reid_pipeline.steps.benchmark.measure import Benchmark

FLOOR, ENGINE, LOOP = "#cfc9be", "#1f5f99", "#c2571a"
STAGE_COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#fdae6b", "#e6550d", "#a1d99b", "#41ab5d", "#006d2c", "#756bb1")


def speed_plot(of: Benchmark) -> bytes:
    """Floor, engine and plain loop as crops a second, and the stages of a crop beside the floor, by set of pictures."""
    figure = _figure(5.6)
    speeds, stages = figure.subplots(2, 1)
    names = [item.name for item in of.sets]
    for offset, colour, label, values in (
        (-0.27, FLOOR, "floor", [item.speed.floor for item in of.sets]),
        (0.0, ENGINE, "engine", [item.speed.engine for item in of.sets]),
        (0.27, LOOP, "plain loop", [item.speed.loop for item in of.sets]),
    ):
        places = [place + offset for place in range(len(names))]
        bars = speeds.barh(places, values, height=0.26, color=colour, label=label)
        speeds.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    speeds.set_yticks(range(len(names)), names)
    speeds.invert_yaxis()
    speeds.margins(x=0.12)
    speeds.set_xlabel("crops a second")
    speeds.legend(fontsize=7)
    every = list(dict.fromkeys(stage for item in of.sets for stage in item.stages))
    left = [0.0] * len(names)
    for number, stage in enumerate(every):
        widths = [1000 * item.stages.get(stage, 0.0) for item in of.sets]
        colour = STAGE_COLOURS[number % len(STAGE_COLOURS)]
        stages.barh(range(len(names)), widths, left=left, height=0.5, color=colour, label=stage)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for place, item in enumerate(of.sets):
        stages.plot([1000 * item.floor_seconds] * 2, [place - 0.35, place + 0.35], color="black", linewidth=2)
    stages.set_yticks(range(len(names)), names)
    stages.invert_yaxis()
    stages.set_xlabel("milliseconds a crop, each stage alone on all cores; the black line is the floor")
    stages.legend(fontsize=6, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.28))
    return _png(figure)


def steps_plot(seconds: Mapping[str, float]) -> bytes:
    """Where the time of a night goes, by step."""
    figure = _figure(2.8)
    axes = figure.subplots()
    bars = axes.barh(list(seconds), list(seconds.values()), color=ENGINE)
    axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds")
    return _png(figure)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure  # slow to import, and most processes never draw

    return Figure(figsize=(6.4, height), dpi=100, layout="constrained")


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
