"""Figures as the Dagster UI shows them: markdown tables and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from deer_reid_pipeline.reid.evaluation.criteria import Finding
from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.steps.summary import markdown_text

MARKS = {True: "shown", False: "refuted", None: "not shown"}


class WeightRow(Protocol):
    """A row of the owner's table of weights."""

    @property
    def weights(self) -> Mapping[str, float]: ...
    @property
    def roc_auc(self) -> Estimate: ...
    @property
    def threshold(self) -> float: ...
    @property
    def tpr(self) -> Estimate: ...
    @property
    def fpr(self) -> Estimate: ...
    @property
    def f1_threshold(self) -> float: ...


def estimate_lines(estimates: Mapping[str, Estimate]) -> str:
    """Each figure with its interval and what it was measured on, one after the other."""
    return "; ".join(
        f"{name} {item.value:.3f} (95 %: {item.low:.3f} to {item.high:.3f}, n = {item.n})"
        if item.n
        else f"{name} not measured"
        for name, item in estimates.items()
    )


def findings_table(findings: Sequence[Finding]) -> str:
    """What was shown, refuted, or could not be told."""
    lines = ["| claim | | |", "|---|---|---|"]
    lines += [f"| {item.name} | {MARKS[item.ok]} | {markdown_text(item.text)} |" for item in findings]
    return "\n".join(lines)


def grid_table(rows: Sequence[WeightRow]) -> str:
    """The owner's table: pairs accepted with less than 5 % of false ones, by fusion weights."""
    lines = ["| weights | ROC-AUC | true pairs accepted | from | false pairs | F1 from |", "|---|---|---|---|---|---|"]
    for row in rows:
        weights = " + ".join(f"{weight:.2f} {branch}" for branch, weight in row.weights.items())
        lines.append(
            f"| {weights} | {_short(row.roc_auc)} | {_short(row.tpr)} | {row.threshold:.3f} | {_short(row.fpr)} | "
            f"{row.f1_threshold:.3f} |"
        )
    return "\n".join(lines)


def _short(item: Estimate) -> str:
    return f"{item.value:.3f} ({item.low:.3f} to {item.high:.3f})"


def comparison_table(compared: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each recipe, a column for each figure with its interval, in percent.

    Args:
        compared: by recipe, as `RecipeFigures.as_json` gives it.
    """
    if not compared:
        return "Nothing could be compared."
    names = list(dict.fromkeys(name for item in compared.values() for name in item["figures"]))
    lines = [f"| recipe | | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for recipe, item in compared.items():
        cells = [_cell(item["figures"].get(name)) for name in names]
        lines.append(f"| {recipe} | {item['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "not measured"
    return f"{100 * figure['value']:.1f} % ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
