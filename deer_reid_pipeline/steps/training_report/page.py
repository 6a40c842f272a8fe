"""The page of a fine-tuning: the card's facts with plots and pictures, in one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline.reid.evaluation.blocks import fused_blocks
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.protocol import remembered
from deer_reid_pipeline.reid.evaluation.verification import verify
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.steps.report.catalogue import MEANINGS
from deer_reid_pipeline.steps.report.content import PAIRS
from deer_reid_pipeline.steps.report.page import Plot, pair_view
from deer_reid_pipeline.steps.report.pictures import PicturePair, picture_pairs
from deer_reid_pipeline.steps.report.templates import page_template
from deer_reid_pipeline.steps.report.wording import SHARE, ascii_text, count, shown, with_interval
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.training_report import embedding_map
from deer_reid_pipeline.steps.training_report.figures import Comparison, RecipeFigures, chance_of, measured_names
from deer_reid_pipeline.steps.training_report.plots import lines_of, loss_curves, validation_curves
from deer_reid_pipeline.steps.training_report.words import OVERLAP, gaps, not_compared

if TYPE_CHECKING:
    from deer_reid_pipeline.training.outcome import Outcome


def render(
    card: Mapping[str, Any],
    comparison: Comparison,
    plots: Sequence[Plot],
    hardest: tuple[Sequence[PicturePair], Sequence[PicturePair]],
    outcome: Outcome,
) -> str:
    """The page. Text that comes from outside (names, files) is escaped.

    Args:
        card: of `card.model_card`.
        hardest: pairs of `hardest_pairs`.
    """
    alike, unlike = hardest
    compared = comparison.figures
    config = outcome.plan.config
    return page_template("page.html.j2", Path(__file__).parent).render(
        card=card,
        counts=card["trained_on"]["trained_on"],
        compared=compared,
        rows=_rows(compared),
        judged=count(max((item.true for item in compared), default=0), "animal"),
        overlap=OVERLAP,
        not_compared=not_compared(comparison),
        gaps=gaps(card),
        trainings=[
            {
                **item,
                "map": "" if (value := item["validation_map"]) is None else ascii_text(shown(value, SHARE)),
                "seconds": f"{item['seconds']:,.0f}",
            }
            for item in card["trainings"]
        ],
        seconds=f"{card['seconds']:,.0f}",
        plots=plots,
        alike=[pair_view(pair) for pair in alike],
        unlike=[pair_view(pair) for pair in unlike],
        config=[
            (name, getattr(config, name), field.description or "") for name, field in type(config).model_fields.items()
        ],
    )


def hardest_pairs(
    site: Site, labelled: Labelled, fitted: FittedPolicy
) -> tuple[tuple[PicturePair, ...], tuple[PicturePair, ...]]:
    """Pictures of different animals that are most alike, and of one animal that are least alike."""
    if not len(labelled):
        return (), ()
    found = verify(labelled, remembered(fused_blocks(labelled, fitted), len(labelled)))
    return (
        picture_pairs(site, labelled, found.worst_false[:PAIRS]),
        picture_pairs(site, labelled, found.worst_missed[:PAIRS]),
    )


def draw_plots(outcome: Outcome, labelled: Labelled) -> tuple[Plot, ...]:
    """Learning curves and the map of the vectors, as far as there are any."""
    drawn = []
    lines = lines_of(outcome)
    if lines:
        drawn.append(
            Plot(
                "Training loss",
                "What training makes smaller, by epoch, on the pictures that it trains on. That it falls shows that "
                "something is learned, not that it holds for other animals.",
                "Training loss by epoch, one line a training",
                loss_curves(lines),
            )
        )
        judged = validation_curves(lines)
        if judged is not None:
            drawn.append(
                Plot(
                    "On animals that it does not train on",
                    "mAP on the animals that decide when to stop, every animal counting once. The dot is the epoch "
                    "that was kept. These animals chose the epoch, so that this is too good as a figure.",
                    "Validation mAP by epoch, one line a training",
                    judged,
                )
            )
    panels = embedding_map.panels(labelled)
    if panels:
        drawn.append(
            Plot(
                "Map of the pictures",
                "Each dot is a picture of an animal that the model was not trained on, each colour and shape an "
                f"animal; they come round again where there are many. At most {embedding_map.MOST} pictures a panel. "
                "Dots of one animal that lie together are pictures that look alike to it. Distances between groups "
                "mean little, nor does the size of a group (t-SNE of the multiscale vectors).",
                "Pictures on a plane by similarity, coloured by animal, one panel a model",
                embedding_map.draw(panels, [_panel_title(panel, outcome) for panel in panels]),
            )
        )
    return tuple(drawn)


def _panel_title(panel: embedding_map.Panel, outcome: Outcome) -> str:
    shown_of = f"{len(panel.places)} of {panel.of}" if len(panel.places) < panel.of else f"{panel.of}"
    who = f"model without fold {panel.compartment}" if panel.compartment in outcome.folds else "model that is used"
    return f"{who} ({shown_of})"


def _rows(compared: Sequence[RecipeFigures]) -> list[dict[str, Any]]:
    rows = []
    for name in measured_names(compared):
        meaning = MEANINGS[name]
        cells = []
        for item in compared:
            found = item.figures.get(name)
            value, bracket, rest = with_interval(found, meaning.unit).partition(" (")
            basis = f"n = {found.n:,}, {found.individuals:,} animals" if found is not None and bracket else ""
            cells.append({"value": value, "interval": f"({rest}" if bracket else "", "basis": basis})
        better = "" if meaning.more_is_better else " Less is better."
        rows.append(
            {
                "title": meaning.title,
                "means": meaning.means + better,
                "by_chance": chance_of(compared, name),
                "cells": cells,
            }
        )
    return rows
