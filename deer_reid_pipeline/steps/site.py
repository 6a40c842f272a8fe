"""One installation: its settings, database, weight store and live release, opened together."""

from __future__ import annotations

import logging
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deer_reid_pipeline.errors import SettingsError, WeightsError
from deer_reid_pipeline.reid.matching import V1_POLICY, MatchPolicy, cuts_in_words
from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.policies import first_policy
from deer_reid_pipeline.store.database import Database, connect
from deer_reid_pipeline.store.recipes import find_recipe, recipe_spec, register_recipe
from deer_reid_pipeline.store.releases import add_first_release, get_release, live_recipe_id, live_release
from deer_reid_pipeline.vision.recipe import base_name

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.crops import CropSpec
    from deer_reid_pipeline.vision.embedder import Embedder
    from deer_reid_pipeline.vision.engine.options import EngineOptions
    from deer_reid_pipeline.vision.recipe import Recipe
    from deer_reid_pipeline.vision.weights import WeightStore

log = logging.getLogger(__name__)


def os_user() -> str | None:
    """Name of the OS user who runs this, for logs of who did what; None where the system knows no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


@dataclass(frozen=True)
class Matcher:
    """What decides identities in one run, fixed when the run starts.

    Attributes:
        release_id: the live release, or None for a recipe with random weights, which cannot be released.
        overrides: settings that changed the release's policy, in words.
    """

    recipe: Recipe
    policy: MatchPolicy
    release_id: int | None
    overrides: tuple[str, ...]

    def describe(self) -> str:
        """The line that the log shows at the start of a run."""
        name = "Enhanced Re-ID enabled" if self.policy.matcher != "v1_resnet50" else "Enhanced Re-ID disabled (v1)"
        name += ", fast mode" if self.policy.fast else ""
        weights = " + ".join(f"{weight:g}*{branch}" for branch, weight in self.policy.weights.items())
        if self.policy.fusion == "calibrated":
            weights = f"calibrated fusion of {' and '.join(self.policy.branches)}"
        release = f"release {self.release_id}" if self.release_id else "no release (random weights, for trials only)"
        changed = f"; overridden by {', '.join(self.overrides)}" if self.overrides else ""
        return (
            f"{name}: recipe {self.recipe.id}, {release}, {weights}, "
            f"{cuts_in_words(self.policy.threshold, self.policy.new_below)}, per {self.policy.unit}{changed}"
        )


@dataclass
class Site:
    """An open installation. `connect_site` makes one."""

    settings: Settings
    database: Database

    @property
    def weights(self) -> WeightStore:
        from deer_reid_pipeline.vision.weights import WeightStore

        return WeightStore(
            self.settings.weight_search_dirs,
            self.settings.models_dir,
            offline=self.settings.offline,
            allow_random=self.settings.allow_random_weights,
        )

    def build_recipe(self, name: str) -> Recipe:
        """Make one of the built-in recipes, of the crops that this home keeps, and register it in the database.

        Raises:
            WeightsError: its weights are neither here nor to be fetched.
        """
        from deer_reid_pipeline.vision.catalog import build_recipe

        recipe = build_recipe(name, self.weights, crop=self.crop_spec())
        with self.database.session() as session:
            register_recipe(session, recipe.id, recipe.name, recipe.to_json(), recipe.random_weights)
        return recipe

    def recipe(self, name_or_id: str) -> Recipe:
        """The recipe that a person means: a built-in one by its name, else a stored one by its id or name.

        Raises:
            DatabaseError: there is none; lists those that are known.
            RecipeError, WeightsError: it cannot be used here.
        """
        from deer_reid_pipeline.vision.catalog import RECIPE_NAMES

        if name_or_id in RECIPE_NAMES:
            return self.build_recipe(name_or_id)
        with self.database.session() as session:
            found = find_recipe(session, name_or_id, RECIPE_NAMES)
        return self.usable(self.stored_recipe(found))

    def live_recipe_name(self) -> str | None:
        """Name of the live release's recipe; None in a new home."""
        recipe = self.live_recipe()
        return None if recipe is None else recipe.name

    def live_recipe(self) -> Recipe | None:
        """The live release's recipe, whether or not it can be used here; None in a new home."""
        with self.database.session() as session:
            recipe_id = live_recipe_id(session)
        return None if recipe_id is None else self.stored_recipe(recipe_id)

    def stored_recipe(self, recipe_id: str) -> Recipe:
        """A recipe of the database by its id."""
        from deer_reid_pipeline.vision.recipe import Recipe

        with self.database.session() as session:
            return Recipe.from_json(recipe_spec(session, recipe_id))

    def crop_spec(self) -> CropSpec:
        """How the crops are cut that matching reads: as the live release's recipe has it, which is kept as long as it
        is live; in a new home as this version cuts."""
        from deer_reid_pipeline.vision.crops import NEW_HOME

        recipe = self.live_recipe()
        return NEW_HOME if recipe is None else recipe.crop_spec

    def needed_branches(self, recipe_id: str) -> tuple[str, ...]:
        """The branches that every detection is embedded in under a recipe: what the live release says of its own,
        whatever settings override; all of any other."""
        with self.database.session() as session:
            release = live_release(session)
            if release is None or release.recipe_id != recipe_id:
                return BRANCHES
            return MatchPolicy.model_validate(release.policy).needed_branches

    def matcher(self) -> Matcher:
        """What matching uses now; makes the first release of a new home.

        Raises:
            SettingsError: DEER_REID_RECIPE asks for another recipe than the live release has.
            WeightsError: a new home's recipe lacks its weights.
        """
        with self.database.session() as session:
            release = live_release(session)
            found = None if release is None else (release.id, release.recipe_id, dict(release.policy))
        if found is None:
            recipe = self.build_recipe(self.settings.recipe)
            policy = first_policy(recipe)
            if recipe.random_weights:
                return self._overridden(recipe, policy, None)
            with self.database.session() as session:
                made = add_first_release(session, recipe.id, policy, "first release of this home", os_user())
                found = (made.id, made.recipe_id, dict(made.policy))
        release_id, recipe_id, stored_policy = found
        recipe = self.usable(self.stored_recipe(recipe_id))
        if "recipe" in self.settings.model_fields_set and self.settings.recipe != base_name(recipe.name):
            raise SettingsError(
                f"DEER_REID_RECIPE={self.settings.recipe} but the live release {release_id} of this home uses "
                f"{recipe_id}, and vectors of two recipes are never compared: unset DEER_REID_RECIPE, make a release "
                f"of {self.settings.recipe} live (deer-reid reembed --recipe {self.settings.recipe}, then tune, "
                "validate and deer-reid release promote), or set DEER_REID_HOME to a new folder"
            )
        return self._overridden(recipe, MatchPolicy.model_validate(stored_policy), release_id)

    def matcher_of(self, release_id: int) -> Matcher:
        """What a release matches with, live or not; settings do not override it.

        Raises:
            DatabaseError: there is no such release.
            RecipeError, WeightsError: its recipe cannot be used here.
        """
        with self.database.session() as session:
            release = get_release(session, release_id)
            recipe_id, policy = release.recipe_id, MatchPolicy.model_validate(release.policy)
        return Matcher(self.usable(self.stored_recipe(recipe_id)), policy, release_id, ())

    def usable(self, recipe: Recipe) -> Recipe:
        """The recipe, after making sure that this version cuts its crops and that its files are here.

        Raises:
            RecipeError: it reads crops of a specification that this version does not know.
            WeightsError: a file is missing from the model store and cannot be made again.
        """
        from deer_reid_pipeline.vision.catalog import RECIPE_NAMES, build_recipe

        crop = recipe.crop_spec
        weights = self.weights
        files = [branch.projection.sha256 for branch in recipe.branches.values()]
        files += [part.weights.sha256 for part in recipe.backbones.values() if part.weights.source == "store"]
        missing = [sha256 for sha256 in dict.fromkeys(files) if not weights.models.has(sha256)]
        if missing and recipe.name not in RECIPE_NAMES:
            names = ", ".join(f"{sha256}.safetensors" for sha256 in missing)
            raise WeightsError(
                f"{names} of recipe {recipe.id} {'is' if len(missing) == 1 else 'are'} missing from "
                f"{self.settings.models_dir} and cannot be made again: restore that folder from a backup"
            )
        if missing and build_recipe(recipe.name, weights, crop=crop).id != recipe.id:
            raise WeightsError(
                f"{missing[0]}.safetensors of recipe {recipe.id} is missing from {self.settings.models_dir} and comes "
                "out differently when made again: copy it from where the recipe was made"
            )
        return recipe

    def _overridden(self, recipe: Recipe, policy: MatchPolicy, release_id: int | None) -> Matcher:
        overrides = []
        if not self.settings.use_enhanced_reid:
            policy = V1_POLICY
            overrides.append("USE_ENHANCED_REID=false")
            if recipe.backbones[recipe.branches["baseline"].backbone].arch != "resnet50":
                overrides.append("beware: old v1 vectors came from ResNet-50, this recipe's do not")
        if self.settings.reid_threshold is not None:
            policy = policy.with_threshold(self.settings.reid_threshold)
            overrides.append(f"REID_THRESHOLD={self.settings.reid_threshold:g}")
        return Matcher(recipe, policy, release_id, tuple(overrides))

    def embedder(self, recipe: Recipe) -> Embedder:
        """The loaded model of a recipe; one a process, however many ask."""
        from deer_reid_pipeline.vision.pool import get_embedder

        return get_embedder(recipe, self.weights, self.settings.device, engine_options(self.settings))


def engine_options(settings: Settings) -> EngineOptions:
    """What the settings say of how vectors are computed; on a cluster nothing is left to each machine."""
    from deer_reid_pipeline.scale_out.options import fixed
    from deer_reid_pipeline.vision.engine.options import EngineOptions

    options = EngineOptions(settings.precision, settings.backend, settings.vram_mb)
    return fixed(options) if settings.engine == "ray" else options


def connect_site(settings: Settings) -> Site:
    """Open the installation that the settings describe.

    Raises:
        DatabaseError: the database cannot be reached or is not at this version's migration.
    """
    database = connect(settings)
    database.check_revision()
    return Site(settings, database)
