"""The policy that a recipe starts with in a new home, before anything was measured on the home's own animals."""

from __future__ import annotations

from deer_reid_pipeline.errors import SettingsError
from deer_reid_pipeline.reid.matching import MatchPolicy

_FIRST = {
    # The owner's design to the letter: each picture by itself against one vector a deer, one cut at 0.40.
    "original": MatchPolicy(threshold=0.40, new_below=0.40, unit="picture", gallery="profile"),
    "reference": MatchPolicy(threshold=0.80, new_below=0.30),
    "lite": MatchPolicy(threshold=0.80, new_below=0.30),
    "mobile": MatchPolicy(threshold=0.80, new_below=0.30),
}


def first_policy(recipe_name: str) -> MatchPolicy:
    """The starting policy of a built-in recipe.

    Raises:
        SettingsError: the recipe is not a built-in one; such a recipe comes with a release of its own.
    """
    policy = _FIRST.get(recipe_name)
    if policy is None:
        raise SettingsError(f"recipe {recipe_name} has no starting policy; known: {', '.join(_FIRST)}")
    return policy
