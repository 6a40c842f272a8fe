"""The figures of the recipes that a fine-tuned one is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.steps.report.catalogue import MEANINGS
from deer_reid_pipeline.steps.report.wording import ascii_text, shown

FINE_TUNED, STARTED_FROM, LIVE, EARLIER = "fine-tuned", "started from", "live", "earlier"

FIRST = ("rank1", "rank5", "map", "roc_auc", "fnir_at_fpir_5", "ari", "pair_precision", "pair_recall")
"""Figures that come first, in this order."""


@dataclass(frozen=True)
class RecipeFigures:
    """How good a recipe is on individuals that none of the fine-tuned models was trained on.

    Attributes:
        recipe: its id.
        what: FINE_TUNED, STARTED_FROM, LIVE or EARLIER.
        figures: metric -> its value with its interval.
        made, true: individuals that it makes of the detections by itself, and how many there are.
        by_chance: metric -> what guessing would reach among the same pictures, where that depends on them.
    """

    recipe: str
    what: str
    figures: Mapping[str, Estimate]
    made: int
    true: int
    by_chance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.figures) - set(MEANINGS))
        if unknown:
            raise ValueError(f"nobody can read these figures, they have no meaning in MEANINGS: {', '.join(unknown)}")

    def as_json(self) -> dict[str, Any]:
        """For JSON: what is not a number becomes None."""
        return {
            "recipe": self.recipe,
            "what": self.what,
            "individuals_made": self.made,
            "individuals_true": self.true,
            "by_chance": dict(self.by_chance),
            "figures": {name: found.as_dict() for name, found in self.figures.items()},
        }


@dataclass(frozen=True)
class NotCompared:
    """A recipe before a fine-tuned one whose figures are not beside those of it.

    Attributes:
        recipe: its id.
        why: in words.
        card: its own model card, relative to the home; None where there is none.
    """

    recipe: str
    why: str
    card: str | None

    @property
    def sentence(self) -> str:
        """For people."""
        own = "it has no model card" if self.card is None else f"its own figures are in {self.card}"
        return f"{self.recipe}: {self.why}; {own}."


@dataclass(frozen=True)
class Comparison:
    """A fine-tuned recipe beside those before it.

    Attributes:
        figures: its own first; nothing where nobody could be judged.
        left_out: recipes before it that are not among them.
    """

    figures: tuple[RecipeFigures, ...] = ()
    left_out: tuple[NotCompared, ...] = ()


def measured_names(compared: Sequence[RecipeFigures]) -> tuple[str, ...]:
    """Metrics that any of them has, the usual ones first."""
    found = {name for item in compared for name in item.figures}
    return tuple(name for name in dict.fromkeys((*FIRST, *MEANINGS)) if name in found)


def chance_of(compared: Sequence[RecipeFigures], name: str) -> str:
    """What guessing would reach in a metric, in words; "" where that is not known.

    All recipes are judged on the same pictures, so that one figure holds for them.
    """
    meaning = MEANINGS[name]
    level = next((item.by_chance[name] for item in compared if name in item.by_chance), meaning.chance)
    return "" if level is None else ascii_text(f"by chance {shown(level, meaning.unit)}")
