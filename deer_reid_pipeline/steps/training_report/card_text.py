"""The model card for people: one short page of Markdown, in ASCII."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deer_reid_pipeline.steps.report.assignment import markdown_table
from deer_reid_pipeline.steps.report.catalogue import MEANINGS
from deer_reid_pipeline.steps.report.wording import ascii_text, count, with_interval
from deer_reid_pipeline.steps.training_report.figures import Comparison, RecipeFigures, chance_of, measured_names
from deer_reid_pipeline.steps.training_report.words import OVERLAP, gaps, not_compared


def card_text(card: Mapping[str, Any], compared: Comparison) -> str:
    """The card of `card.model_card` as Markdown."""
    counts = card["trained_on"]["trained_on"]
    lines = [
        f"# Model card: {card['recipe']}",
        "",
        "After Mitchell et al. (2019), Model Cards for Model Reporting. model_card.json beside it holds everything, "
        "report.html the plots and pictures.",
        "",
        "## The model",
        "",
        f"Fine-tuned from {card['base']} by {card['program']}, {card['made_at']}, in "
        f"{count(len(card['trainings']), 'training')} of together {card['seconds']:,.0f} s on "
        f"{', '.join(card['devices'])}. It turns the crop of an animal into three vectors, which are compared with "
        "those of other crops.",
        "",
        card["validation"],
        "",
        "## What it is for",
        "",
        *(f"- {line}" for line in card["use"]),
        "",
        "## What it was trained on",
        "",
        f"{count(counts['pictures'], 'picture')} of {count(counts['individuals'], 'animal')} in "
        f"{count(counts['encounters'], 'encounter')}, named by a person; "
        f"{counts['returning_individuals']:,} of them met twice or more from one flank. Digest of the data: "
        f"{card['trained_on']['seen_digest']}.",
        "",
        *(line for sentence in gaps(card) for line in (sentence, "")),
        *markdown_table(
            ("Flank", "pictures", "animals", "encounters", "animals met twice or more"),
            [(flank, *each.values()) for flank, each in card["trained_on"]["by_flank"].items()],
        ),
        "## How it was judged",
        "",
        *(f"- {line}" for line in card["protocol"]),
        "",
        "## Figures",
        "",
        *_figures(compared),
        "## Limits",
        "",
        *(f"- {line}" for line in card["limits"]),
        "",
        "## Where the weights come from",
        "",
        *(f"- {line}" for line in card["licence"]),
        "",
        *markdown_table(
            ("Part", "architecture", "sha256"),
            [
                (item["part"] + ("" if item["trained"] else " (not trained)"), item["architecture"], item["sha256"])
                for item in card["weights"]
                if item["recipe"] == card["recipe"]
            ],
        ),
    ]
    return "".join(ascii_text(line) + "\n" for line in lines)


def _figures(comparison: Comparison) -> list[str]:
    compared = comparison.figures
    names = measured_names(compared)
    if not names:
        return ["Nothing was measured, so nothing is known of how good it is.", ""]
    return [
        f"On {count(max(item.true for item in compared), 'animal')} that the judged models were not trained on, with "
        f"95 % intervals. {OVERLAP}",
        "",
        *markdown_table(
            ("Figure", *(f"{item.what}: {item.recipe}" for item in compared)),
            [
                *(
                    (
                        _titled(compared, name),
                        *(with_interval(item.figures.get(name), MEANINGS[name].unit) for item in compared),
                    )
                    for name in names
                ),
                (
                    "Animals that it opens by itself (what it leaves uncertain counts for none)",
                    *(f"{item.made:,} of {item.true:,}" for item in compared),
                ),
            ],
        ),
        *(line for sentence in not_compared(comparison) for line in (sentence, "")),
    ]


def _titled(compared: Sequence[RecipeFigures], name: str) -> str:
    guess = chance_of(compared, name)
    return f"{MEANINGS[name].title} ({guess})" if guess else MEANINGS[name].title
