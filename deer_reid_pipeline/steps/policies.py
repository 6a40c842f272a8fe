"""The policy that a recipe starts with in a new home, before anything was measured on the home's own animals."""

from __future__ import annotations

from deer_reid_pipeline.errors import SettingsError
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.vision.recipe import Recipe, base_name

# Until a calibration is measured on a home's own animals, a first release abstains. On Nyala (1,138 pictures, 142
# individuals, encounters in time order, 110 known on average) frozen features put the right individual first in 7 % of
# the returning encounters, and no wrong individual reached 0.90 (lite) or 0.86 (mobile) in 567 searches. Returning
# encounters scored 0.48 and more in 99 of 100 cases, but on other pictures (the drawn herd) far lower, so that only an
# animal unlike everything known is opened as new. Everything between is a ranked shortlist for a person.
_ABSTAINING = MatchPolicy(threshold=0.90, new_below=0.20)

_FIRST = {
    # The owner's design to the letter: each picture by itself against one vector a deer, one cut at 0.40.
    "original": MatchPolicy(threshold=0.40, new_below=0.40, unit="picture", gallery="profile"),
    "reference": _ABSTAINING,
    "lite": _ABSTAINING,
    "mobile": _ABSTAINING,
}


_ONE_TRAINED = {"multiscale": 0.9, "efficientnet": 0.1}
"""A branch that learned the animals counts for more than one that did not: on Nyala, judged by five folds, these
weights gave mAP 31.4 % and ROC-AUC 0.821, and 0.6 and 0.4 gave 30.7 % and 0.812 (docs/accuracy.md)."""


ENHANCED, FAST = "enhanced", "fast"
"""Modes: two branches are fused, or the multi-scale one decides alone and the second network is mostly left out."""


def starting_from(base: MatchPolicy, recipe: Recipe, *, fast: bool, fresh: bool) -> MatchPolicy:
    """The policy that a fit begins with: the base's rules, and weights for the recipe in this mode.

    Args:
        fresh: the recipe is not that of the base, whose weights mean nothing for it.
    """
    if fast == base.fast and (fast or not fresh):
        return base
    weights = {"multiscale": 1.0} if fast else first_policy(recipe).weights
    return base.model_copy(update={"weights": weights, "fusion": "weighted_sum", "calibration": None, "odds": None})


def asked_for_as(recipe_id: str) -> str:
    """What a person gives to `--recipe` for a recipe: its name; its id where trainings share the name."""
    name = recipe_id.rpartition("-")[0]
    return name if name == base_name(name) else recipe_id


def first_policy(recipe: Recipe) -> MatchPolicy:
    """The starting policy of a built-in recipe, and of what was fine-tuned from it.

    Raises:
        SettingsError: the recipe is neither; such a recipe comes with a release of its own.
    """
    policy = _FIRST.get(base_name(recipe.name))
    if policy is None:
        raise SettingsError(f"recipe {recipe.name} has no starting policy; known: {', '.join(_FIRST)}")
    trained = {name for name, branch in recipe.branches.items() if branch.projection.kind == "trained"}
    if set(policy.weights) & trained == {"multiscale"}:
        return policy.model_copy(update={"weights": _ONE_TRAINED})
    return policy
