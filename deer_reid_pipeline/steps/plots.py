"""Plots small enough to be kept with a run."""

from __future__ import annotations

import io

from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.decisions import machine_scores

COLOURS = {"matched": "#2e8b57", "uncertain": "#e0a030", "new_individual": "#4070b0"}


def similarity_plot(site: Site, drop_key: str) -> bytes | None:
    """Histogram of each machine decision's similarity to its best candidate, with the cuts that decided; PNG.

    None when no machine decision of the drop had a candidate.
    """
    with site.database.session() as session:
        rows = machine_scores(session, drop_key)
    if not rows:
        return None
    from matplotlib.figure import Figure  # slow to import, and most processes never draw
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.2, 2.6), dpi=90, layout="constrained")
    axes = figure.subplots()
    names = [name for name in COLOURS if any(row.decision == name for row in rows)]
    axes.hist(
        [[row.score for row in rows if row.decision == name] for name in names],
        bins=30,
        stacked=True,
        color=[COLOURS[name] for name in names],
        label=[name.replace("_", " ") for name in names],
    )
    for value, text in cuts(rows[-1].threshold, rows[-1].new_below):
        axes.axvline(value, color="black", linestyle="--", linewidth=1)
        axes.annotate(
            text,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -3),
            textcoords="offset points",
            rotation=90,
            va="top",
            fontsize=7,
        )
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel("fused similarity to the best candidate")
    axes.set_ylabel("encounters")
    axes.legend(fontsize=7)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def cuts(threshold: float | None, new_below: float | None) -> list[tuple[float, str]]:
    """The cuts in force and their labels; one label where both are the same."""
    if threshold is not None and threshold == new_below:
        return [(threshold, "matched from, else new")]
    return [
        (value, text) for value, text in ((threshold, "matched from"), (new_below, "new below")) if value is not None
    ]
