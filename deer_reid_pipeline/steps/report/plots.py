"""The report's plots, each a small SVG without fonts or scripts, drawn from plain arrays."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deer_reid_pipeline.reid.evaluation.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

COLOURS = ("#1f5f99", "#c2571a")
"""Live, candidate: told apart by the colour-blind too; line styles differ besides."""
GENUINE, IMPOSTOR = "#1f5f99", "#b9b2a6"
GREY = "#6b6b6b"
STYLES = ("-", "--")
POINTS = 300
"""Most points of a curve: more cannot be seen, and would only make the page heavy."""
DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Curve:
    """Error rates over all thresholds.

    Attributes:
        false_positive: FMR or FPIR, 0 to 1; (n,).
        false_negative: FNMR or FNIR at the same thresholds; (n,).
    """

    label: str
    false_positive: Floats
    false_negative: Floats


@dataclass(frozen=True)
class Histogram:
    """How often scores fall between `edges` (k+1,): counts of genuine and impostor pairs, each (k,).

    `threshold` is the score from which the release gives a name; None where it has nothing to do with these scores.
    """

    title: str
    edges: Floats
    genuine: Floats
    impostor: Floats
    threshold: float | None = None


@dataclass(frozen=True)
class Dot:
    """A figure and its interval beside a label."""

    label: str
    estimate: Estimate


@dataclass(frozen=True)
class GallerySeries:
    """FPIR over gallery sizes: measured up to the real size, projected beyond."""

    label: str
    sizes: Sequence[int]
    estimates: Sequence[Estimate]
    real_size: int


def roc(curves: Sequence[Curve]) -> str:
    """True against false matches over all thresholds; SVG."""
    with drawn(4.6) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance")
        for curve, colour, style in zip(curves, COLOURS, STYLES, strict=False):
            chosen = _thinned(curve.false_positive, 1 - curve.false_negative)
            axes.plot(*chosen, color=colour, linestyle=style, label=curve.label)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        axes.set_xlabel("pairs of two animals taken for one (FMR)")
        axes.set_ylabel("pairs of one animal recognised")
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.legend(loc="lower right")
        return svg(figure)


def det(curves: Sequence[Curve]) -> str:
    """Misses against false alarms on normal-deviate axes (Martin et al. 1997, Eurospeech); SVG."""
    with drawn(4.6) as (figure, axes):
        low, high = stats.norm.ppf((DET_TICKS[0], DET_TICKS[-1]))
        axes.plot([low, high], [high, low], color=GREY, linewidth=1, linestyle=":", label="chance (pairs)")
        for index, curve in enumerate(curves):
            x, y = (np.clip(stats.norm.ppf(part), low, high) for part in (curve.false_positive, curve.false_negative))
            axes.plot(*_thinned(x, y), color=COLOURS[index // 2 % 2], linestyle=STYLES[index % 2], label=curve.label)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(stats.norm.ppf(DET_TICKS), [f"{tick * 100:g}" for tick in DET_TICKS])
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set_xlabel("false alarms, %")
        axes.set_ylabel("misses, %")
        axes.legend(loc="lower left")
        return svg(figure)


def histograms(items: Sequence[Histogram]) -> str:
    """Scores of true and false pairs, one panel a matcher, each distribution scaled to its own total; SVG."""
    with drawn(1.1 + 1.8 * len(items), rows=len(items)) as (figure, panels):
        for axes, item in zip(np.atleast_1d(panels), items, strict=True):
            for counts, colour, label, filled in (
                (item.impostor, IMPOSTOR, "two animals", True),
                (item.genuine, GENUINE, "one animal", False),
            ):
                share = counts / max(1.0, float(counts.sum())) / np.diff(item.edges)
                axes.stairs(share, item.edges, color=colour, fill=filled, linewidth=1.6, label=label)
            shown = np.flatnonzero(item.genuine + item.impostor)
            if len(shown):
                left, right = item.edges[shown[0]], item.edges[shown[-1] + 1]
                if item.threshold is not None:
                    left, right = min(left, item.threshold), max(right, item.threshold)
                    axes.axvline(item.threshold, color="black", linestyle="--", linewidth=1.2, label="named from here")
                room = 0.03 * (right - left)
                axes.set_xlim(left - room, right + room)
            axes.set_title(item.title, loc="left", fontsize=10)
            axes.set_yticks([])
            axes.legend(loc="best", fontsize=8.5)
        np.atleast_1d(panels)[-1].set_xlabel("score of a pair")
        return svg(figure)


def reliability(bins: Sequence[tuple[float, Estimate]]) -> str:
    """Stated probability against how often it was right, with intervals; SVG.

    Args:
        bins: mean stated probability, and the share that was right, of each bin.
    """
    with drawn(4.6) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="perfectly calibrated")
        stated = np.array([x for x, _ in bins])
        values = np.array([item.value for _, item in bins])
        axes.errorbar(stated, values, yerr=_arms([item for _, item in bins]), **_dots(COLOURS[0]), label="measured")
        furthest = max([*stated.tolist(), *(item.high for _, item in bins)], default=1.0)
        end = min(1.02, max(0.2, 1.15 * furthest))
        axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end), aspect="equal")
        axes.set_xlabel("stated probability")
        axes.set_ylabel("share that was right")
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.legend(loc="upper left")
        return svg(figure)


def fpir_by_size(series: Sequence[GallerySeries], bound: float) -> str:
    """How often a stranger is given a name as the gallery grows; SVG."""
    with drawn(3.6) as (figure, axes):
        top = bound
        for item, colour, style in zip(series, COLOURS, STYLES, strict=False):
            low, value, high = (
                np.array([getattr(e, part) for e in item.estimates]) for part in ("low", "value", "high")
            )
            axes.fill_between(item.sizes, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(item.sizes, value, color=colour, linestyle=style, label=item.label)
            top = max(top, float(np.nanmax(high, initial=0.0)))
        if series:
            axes.axvline(series[0].real_size, color=GREY, linewidth=1, linestyle=":")
            axes.annotate(
                f"now: {series[0].real_size:,}", (series[0].real_size, 0.98), xycoords=("data", "axes fraction"),
                rotation=90, va="top", ha="right", fontsize=9, color=GREY,
            )  # fmt: skip
            axes.set_xscale("log")
            sizes = _round_sizes(min(min(item.sizes) for item in series), max(max(item.sizes) for item in series))
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.xaxis.set_ticks([], minor=True)
        axes.axhline(bound, color="black", linewidth=1.2, linestyle="--", label=f"bound {bound * 100:g} %")
        axes.set_ylim(0, min(1.02, top * 1.1))
        axes.set_xlabel("animals in the gallery")
        axes.set_ylabel("strangers given a name (FPIR)")
        _percent(axes.yaxis)
        axes.legend(loc="upper left")
        return svg(figure)


def strata(groups: Sequence[tuple[str, Sequence[Sequence[Dot]]]], axis_label: str) -> str:
    """A figure by flank, light, sex and so on, as dots with intervals; SVG.

    Args:
        groups: name of the stratum and, for each matcher (live, candidate), one dot a value, in the same order.
    """
    rows = sum(len(dots[0]) + 1 for _, dots in groups)
    with drawn(0.9 + 0.25 * rows) as (figure, axes):
        place, ticks, labels = 0.0, [], []
        for name, matchers in groups:
            axes.text(0.0, place, name, fontweight="bold", va="center", ha="left", transform=axes.get_yaxis_transform())
            for index, dot in enumerate(matchers[0]):
                ticks.append(place - 1 - index)
                labels.append(f"{dot.label} ({dot.estimate.n:,})")
            for which, dots in enumerate(matchers):
                shift = (0.0 if len(matchers) == 1 else (0.16, -0.16)[which]) - 1
                heights = [place + shift - index for index in range(len(dots))]
                found = [(dot.estimate, height) for dot, height in zip(dots, heights, strict=True) if dot.estimate.n]
                if found:
                    estimates, heights = [e for e, _ in found], [h for _, h in found]
                    axes.errorbar([e.value for e in estimates], heights, xerr=_arms(estimates), **_dots(COLOURS[which]))
            place -= len(matchers[0]) + 1
        axes.set_yticks(ticks, labels)
        axes.set_ylim(place + 0.4, 0.7)
        highest = max((dot.estimate.high for _, matchers in groups for dots in matchers for dot in dots), default=1.0)
        axes.set_xlim(-0.01, min(1.01, 1.05 * highest))
        axes.set_xlabel(axis_label)
        axes.tick_params(axis="y", length=0)
        _percent(axes.xaxis)
        return svg(figure)


@contextmanager
def drawn(height: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Figure, Any]]:
    """A figure as wide as a phone can show with its letters still readable, and its axes.

    Args:
        height: inches.
    """
    import matplotlib as mpl  # slow to import, and most processes never draw
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "deer-reid",
        "text.parse_math": False,  # names of cameras come from outside, and may hold a dollar sign
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e0d8",
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.8,
        "legend.fontsize": 9,
        "legend.framealpha": 0.85,
        "legend.edgecolor": "#e4e0d8",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.8, height), layout="constrained")
        yield figure, figure.subplots(rows, columns)


def svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same figure."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The curve with at most POINTS points, spread over its length so that steep parts keep theirs."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) <= POINTS:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(0, len(x) - 1))
    return x[chosen], y[chosen]


def _arms(estimates: Sequence[Estimate]) -> Floats:
    """Lengths below and above each value, as errorbar wants them; (2, n)."""
    return np.array([[max(0.0, e.value - e.low) for e in estimates], [max(0.0, e.high - e.value) for e in estimates]])


def _dots(colour: str) -> dict[str, Any]:
    return {"fmt": "o", "color": colour, "markersize": 5, "linewidth": 1.4, "capsize": 2.5}


def _percent(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{value * 100:.6g} %")


def _round_sizes(low: int, high: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... from low to high; every second one where they would crowd."""
    sizes = [step * 10**power for power in range(7) for step in (1, 2, 5) if low <= step * 10**power <= high]
    return sizes if len(sizes) <= 7 else [size for size in sizes if str(size)[0] == "1"]
