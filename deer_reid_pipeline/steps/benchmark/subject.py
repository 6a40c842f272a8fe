"""Which recipe is measured, and by which policy it matches. Nothing is released on the way."""

from __future__ import annotations

from dataclasses import dataclass

from deer_reid_pipeline.errors import SettingsError, WeightsError
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.steps.policies import first_policy
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.vision.recipe import Recipe, base_name


@dataclass(frozen=True)
class Subject:
    """A recipe with a policy to match by; `release_id`: of the release that they come from, None where it is none."""

    recipe: Recipe
    policy: MatchPolicy
    release_id: int | None = None


def subject(site: Site, name: str = "") -> Subject:
    """The live release's recipe; in a new home what DEER_REID_RECIPE says; or the one that is named.

    Raises:
        DatabaseError: no recipe of this name or id is stored.
        RecipeError, WeightsError: it cannot be used here.
    """
    if not name and site.live_recipe_name() is not None:
        matcher = site.matcher()
        return Subject(matcher.recipe, matcher.policy, matcher.release_id)
    recipe = site.recipe(name) if name else site.build_recipe(site.settings.recipe)
    if site.live_recipe_name() is not None:
        matcher = site.matcher()
        if matcher.recipe.id == recipe.id:
            return Subject(recipe, matcher.policy, matcher.release_id)
    try:
        return Subject(recipe, first_policy(recipe))
    except SettingsError:  # neither built in nor made from a built-in one
        return Subject(recipe, MatchPolicy(threshold=0.9, new_below=-1.0))


def name_or_fallback(site: Site, name: str, fallback: str | None) -> tuple[str, str]:
    """The recipe to measure by name, and why it is not the one that was meant; '' where it is.

    Raises:
        WeightsError: the weights are missing, and there is no fallback or it lacks its own.
    """
    try:
        subject(site, name)
        return name, ""
    except WeightsError as error:
        if fallback is None or name:
            raise
        site.recipe(fallback)
        reason = f"{str(error).rstrip('.')}. Measuring the recipe '{fallback}', whose weights are installed."
        return fallback, reason


def built_in_name(site: Site, name: str = "") -> str:
    """The built-in recipe that a new home gets to work like this one: a fine-tuned one's base has the same networks.

    Raises:
        DatabaseError, WeightsError: see `subject`.
    """
    return base_name(subject(site, name).recipe.name)
