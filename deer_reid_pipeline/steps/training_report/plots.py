"""How the trainings went: loss, and mAP on the animals that decide when to stop, by epoch."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deer_reid_pipeline.steps.report.plots import drawn, svg
from deer_reid_pipeline.training.scoring import STOPS_BY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deer_reid_pipeline.training.outcome import Outcome

MOST_NAMED = 8
"""Trainings of one network that a legend names."""
STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Line:
    """One training.

    Attributes:
        label: what it was trained on.
        whole: whether it made the model that is used.
        epochs, loss, validation: number of each epoch, its loss, and its mAP on the validation animals (0 to 1); NaN
            where there is none.
        best: number of the epoch that was kept.
    """

    label: str
    whole: bool
    epochs: Sequence[int]
    loss: Sequence[float]
    validation: Sequence[float]
    best: int

    @property
    def validated(self) -> bool:
        """Whether there were animals that decided when to stop."""
        return any(map(math.isfinite, self.validation))


def lines_of(outcome: Outcome) -> dict[str, list[Line]]:
    """Network -> its trainings that left a log."""
    found: dict[str, list[Line]] = {}
    for job in outcome.plan.jobs():
        log = outcome.logs.get(job.name) or []
        if not log:
            continue
        label = f"fold {job.fold}" if job.fold is not None else "all animals" if job.split is None else "training part"
        arch = outcome.plan.base.backbones[job.backbone].arch
        found.setdefault(f"{arch} ({job.backbone})", []).append(
            Line(
                label,
                job.fold is None,
                [int(entry["number"]) for entry in log],
                [_number(entry, "loss") for entry in log],
                [_number(entry["figures"], STOPS_BY) for entry in log],
                outcome.results[job.name].epoch,
            )
        )
    return found


def loss_curves(found: Mapping[str, Sequence[Line]]) -> str:
    """Training loss by epoch, one panel a network; SVG."""
    with drawn(0.3 + 2.6 * len(found), len(found)) as (figure, axes):
        places = np.atleast_1d(axes).ravel()
        for place, (name, lines) in zip(places, found.items(), strict=True):
            _draw_loss(place, name, lines)
        return svg(figure)


def validation_curves(found: Mapping[str, Sequence[Line]]) -> str | None:
    """Validation mAP by epoch, one panel a network, with a dot at the epoch that was kept; SVG, None without any."""
    judged = {name: lines for name, lines in found.items() if any(line.validated for line in lines)}
    if not judged:
        return None
    with drawn(0.3 + 2.6 * len(judged), len(judged)) as (figure, axes):
        places = np.atleast_1d(axes).ravel()
        for place, (name, lines) in zip(places, judged.items(), strict=True):
            _draw_validation(place, name, lines)
        return svg(figure)


def learning_curves(outcome: Outcome) -> bytes | None:
    """Loss and validation mAP side by side, one row a network; PNG, None where nothing was logged."""
    found = lines_of(outcome)
    if not found:
        return None
    with drawn(0.3 + 2.6 * len(found), len(found), 2) as (figure, axes):
        figure.set_figwidth(9)
        for (left, right), (name, lines) in zip(np.atleast_2d(axes), found.items(), strict=True):
            _draw_loss(left, name, lines)
            _draw_validation(right, name, lines)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=90)
        return stream.getvalue()


def _draw_loss(place: Axes, name: str, lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        place.plot(line.epochs, line.loss, **_style(number, line))
    _finish(place, name, "training loss", len(lines))


def _draw_validation(place: Axes, name: str, lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        if line.validated:
            style = _style(number, line)
            place.plot(line.epochs, line.validation, **style)
            if line.best in line.epochs:
                best = line.validation[list(line.epochs).index(line.best)]
                place.plot([line.best], [best], "o", color=style["color"], markersize=5)
    place.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.6g} %")
    _finish(place, name, "validation mAP", sum(line.validated for line in lines))


def _style(number: int, line: Line) -> dict[str, Any]:
    return {
        "color": "black" if line.whole else f"C{number % 10}",
        "linestyle": STYLES[number // 10 % len(STYLES)],
        "linewidth": 2 if line.whole else 1.3,
        "marker": "" if len(line.epochs) > 1 else ".",
        "label": line.label,
    }


def _finish(place: Axes, name: str, axis_label: str, lines: int) -> None:
    from matplotlib.ticker import MaxNLocator

    place.set_title(name, loc="left", fontsize=10)
    place.set_xlabel("epoch")
    place.set_ylabel(axis_label)
    place.xaxis.set_major_locator(MaxNLocator(integer=True))
    if 0 < lines <= MOST_NAMED:
        place.legend(fontsize=8, ncols=2)


def _number(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(name)
    return math.nan if value is None else float(value)
