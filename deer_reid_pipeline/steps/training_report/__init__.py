"""The report of a fine-tuning: a model card as data and as text, and one self-contained page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.steps.report.writer import dated_name, write_folder
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.training_report.card import model_card
from deer_reid_pipeline.steps.training_report.card_text import card_text
from deer_reid_pipeline.steps.training_report.figures import Comparison, RecipeFigures
from deer_reid_pipeline.steps.training_report.page import draw_plots, hardest_pairs, render

if TYPE_CHECKING:
    from deer_reid_pipeline.training.outcome import Outcome

__all__ = ["CARD", "CARD_TEXT", "PAGE", "RecipeFigures", "write_training_report"]

CARD, CARD_TEXT, PAGE = "model_card.json", "model_card.md", "report.html"


def write_training_report(
    site: Site,
    outcome: Outcome,
    compared: Comparison,
    labelled: Labelled,
    fitted: FittedPolicy,
    made_at: datetime | None = None,
) -> Path:
    """Write a fine-tuning's report into a new folder under the home, `reports/training/<UTC time>-<recipe>/`.

    It holds `model_card.json`, `model_card.md` and `report.html`. The card names no individual; the page does, beside
    its pictures.

    Args:
        compared: the fine-tuned recipe and others, all on the same individuals that no judged model was trained on.
        labelled: those individuals, with the vectors of the models that judge them.
        fitted: the policy whose similarity the hardest pairs are found by.
        made_at: UTC; None: now.

    Returns:
        The folder.

    Raises:
        DeerReidError: the disk is full or the folder cannot be written; no half report is left.
    """
    made_at = made_at or datetime.now(UTC)
    card = model_card(outcome, compared, made_at, site.settings.models_dir)
    plots = draw_plots(outcome, labelled)
    page = render(card, compared, plots, hardest_pairs(site, labelled, fitted), outcome)
    return write_folder(
        site.settings.home / "reports" / "training",
        dated_name(made_at, outcome.recipe.id),
        {
            CARD: json.dumps(card, ensure_ascii=True, indent=1, allow_nan=False) + "\n",
            CARD_TEXT: card_text(card, compared),
            PAGE: page,
        },
    )
