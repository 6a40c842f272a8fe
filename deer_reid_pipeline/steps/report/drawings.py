"""Which plots the report has, and where their numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deer_reid_pipeline.reid.evaluation.blocks import branch_blocks
from deer_reid_pipeline.reid.evaluation.estimates import Estimate, estimate
from deer_reid_pipeline.reid.evaluation.evaluation import Raw
from deer_reid_pipeline.reid.evaluation.identification import det, fpir_at_size, project_fpir
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.reliability import reliability
from deer_reid_pipeline.reid.evaluation.verification import Verification, verify
from deer_reid_pipeline.reid.matching import V1_POLICY
from deer_reid_pipeline.reid.similarity import BASELINE
from deer_reid_pipeline.steps.report import plots
from deer_reid_pipeline.steps.report.measured import Judged
from deer_reid_pipeline.steps.report.page import Plot
from deer_reid_pipeline.steps.report.plots import Curve, Dot, GallerySeries, Histogram

GROWTH = 10
"""The projection of FPIR reaches galleries this many times as large as the real one."""

HISTOGRAM_ROWS = 3000
"""Detections behind the histogram of v1, which is drawn and not judged: millions of pairs already."""

MOST_VALUES = 8
"""Values shown of one stratum: those with the most queries."""

_NOTHING = Estimate(float("nan"), 0.0, 1.0, 0, 0)

STRATA_ORDER = ("flank", "light", "sex", "sightings", "camera")


def draw_plots(sides: Sequence[Judged], bound: float) -> tuple[Plot, ...]:
    """All plots that the data allow.

    Args:
        sides: the live release, and the candidate where there is one.
        bound: of the FPIR, 0 to 1.
    """
    with_raw = [(side, raw) for side in sides if (raw := side.evaluation.raw) is not None]
    drawn: list[Plot | None] = [
        _pairs_plot(with_raw),
        _tradeoff_plot(with_raw),
        _scores_plot(with_raw),
        *(_calibration_plot(side.label, raw) for side, raw in with_raw),
        _gallery_plot(with_raw, bound),
        _strata_plot([side.measured.strata for side in sides]),
    ]
    return tuple(plot for plot in drawn if plot is not None)


_WithRaw = Sequence[tuple[Judged, Raw]]


def _has_pairs(found: Verification) -> bool:
    return bool(found.genuine_pairs and found.impostor_pairs)


def _pairs_plot(sides: _WithRaw) -> Plot | None:
    curves = []
    for side, raw in sides:
        if _has_pairs(raw.verification):
            _, fmr, fnmr = raw.verification.curve()
            curves.append(Curve(side.label, fmr, fnmr))
    if not curves:
        return None
    return Plot(
        "Recognising pairs (ROC)",
        "Every pair of pictures at every threshold. The closer to the top left corner, the better; on the dotted line "
        "it only guesses.",
        "ROC curve: share of true pairs recognised against share of false pairs accepted",
        plots.roc(curves),
    )


def _tradeoff_plot(sides: _WithRaw) -> Plot | None:
    curves = []
    for side, raw in sides:
        if _has_pairs(raw.verification):
            _, fmr, fnmr = raw.verification.curve()
            curves.append(Curve(f"{side.label}: pairs (1:1)", fmr, fnmr))
            curve = det(raw.searches)
            curves.append(Curve(f"{side.label}: whole gallery (1:N)", curve.fpir, curve.fnir))
    if not curves:
        return None
    return Plot(
        "Misses against false alarms (DET)",
        "Lower left is better. Searching the whole gallery gives a stranger many chances to look like somebody, so the "
        "dashed line lies higher.",
        "DET curve on normal-deviate axes, for pairs and for searches in the whole gallery",
        plots.det(curves),
    )


def _scores_plot(sides: _WithRaw) -> Plot | None:
    panels = []
    if sides:
        labelled = sides[0][1].labelled
        if BASELINE in labelled.vectors:
            part = _sampled(labelled)
            before = verify(part, branch_blocks(part, BASELINE))
            panels.append(_histogram("before: v1, one vector of the whole crop", before, V1_POLICY.threshold))
        for side, raw in sides:
            policy = side.evaluation.policies.policy
            scale = ", as a probability" if policy.scale == "probability" else ""
            panels.append(_histogram(f"now: fused{scale}, {side.label}", raw.verification, policy.threshold))
    panels = [panel for panel in panels if panel.genuine.sum() and panel.impostor.sum()]
    if not panels:
        return None
    return Plot(
        "Scores before and now",
        "What matters is how little the two overlap, not how high they are. The dashed line is the score from which an "
        "encounter is given a name.",
        "Histograms of similarity: pairs of one animal and of two animals, before and after the enhancement",
        plots.histograms(panels),
    )


def _sampled(labelled: Labelled) -> Labelled:
    """Every k-th detection, so that at most HISTOGRAM_ROWS remain."""
    step = -(-len(labelled) // HISTOGRAM_ROWS)
    return labelled if step <= 1 else labelled.rows(np.arange(len(labelled)) % step == 0)


def _histogram(title: str, found: Verification, threshold: float) -> Histogram:
    edges, genuine, impostor = found.histograms()
    return Histogram(title, edges, genuine, impostor, threshold)


def _calibration_plot(label: str, raw: Raw) -> Plot | None:
    said = raw.stated
    if not said.any:
        return None
    found = reliability(said.probability, said.right, said.individual, raw.labelled.individuals)
    return Plot(
        f"Stated probabilities, {label}",
        "A probability of 80 % should be right 80 times in 100: then its dot lies on the dotted line. Dots below it "
        "are overconfident.",
        "Reliability diagram: stated probability against the share that was right, with 95 % intervals",
        plots.reliability(found.curve()),
    )


def _gallery_plot(sides: _WithRaw, bound: float) -> Plot | None:
    series = []
    for side, raw in sides:
        searches, size = raw.searches, raw.searches.gallery_size
        now = side.measured.figures.get("fpir")
        if size < 1 or now is None or not now.n:
            continue
        cuts = np.array([side.evaluation.policies.judging(int(fold)).threshold for fold in searches.fold])
        smaller = _sizes(1, size)[:-1]
        larger = _sizes(size, GROWTH * size)
        estimates = [estimate(fpir_at_size(searches, cuts, number)) for number in smaller]
        estimates += [project_fpir(now, size, number) for number in larger]
        series.append(GallerySeries(side.label, [*smaller, *larger], estimates, size))
    if not series:
        return None
    return Plot(
        "A growing herd",
        "How often a stranger is given somebody's name. Up to the dotted line it is measured on parts of the gallery; "
        "beyond it is an upper bound for a larger herd, with its interval.",
        "False-positive identification rate against the number of animals in the gallery",
        plots.fpir_by_size(series, bound),
    )


def _sizes(low: int, high: int, count: int = 8) -> list[int]:
    """Sizes from low to high, both included, evenly on a logarithmic scale."""
    return np.unique(np.round(np.geomspace(low, high, count)).astype(int)).tolist()


def _strata_plot(found: Sequence[Mapping[str, Mapping[str, Estimate]]]) -> Plot | None:
    groups = []
    known = [name for name in STRATA_ORDER if found and name in found[0]]
    for name in [*known, *sorted(set(found[0] if found else ()) - set(known))]:
        values = [value for value, item in found[0][name].items() if item.n and value]
        shown = sorted(values, key=lambda value: -found[0][name][value].n)[:MOST_VALUES]
        if len(values) < 2:
            continue
        title = (
            name if len(values) <= MOST_VALUES else f"{name} (the {MOST_VALUES} of {len(values)} with most pictures)"
        )
        dots = [
            [Dot(_label(value), side.get(name, {}).get(value, _NOTHING)) for value in sorted(shown)] for side in found
        ]
        groups.append((title, dots))
    if not groups:
        return None
    colours = " Blue: live; orange: candidate." if len(found) > 1 else ""
    return Plot(
        "Where it works better or worse",
        "How often the right animal comes first, with the number of queries in brackets. Wide intervals mean few "
        f"animals.{colours}",
        "Rank-1 by flank, light, sex, number of sightings and camera, with 95 % intervals",
        plots.strata(groups, "right animal first (rank-1)"),
    )


def _label(value: str) -> str:
    """Names come from outside: no control characters, which an SVG must not hold, and not too long."""
    return "".join(character for character in value if character.isprintable())[:24]
