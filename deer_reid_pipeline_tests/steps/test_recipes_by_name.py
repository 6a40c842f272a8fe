"""Which recipe a name means, and whether its files are here."""

from __future__ import annotations

from pathlib import Path

import pytest

from deer_reid_pipeline.errors import DatabaseError, DeerReidError, SettingsError, WeightsError
from deer_reid_pipeline.steps.embed_folder import embed_folder
from deer_reid_pipeline.steps.policies import asked_for_as, first_policy
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.vision.recipe import Branch, Recipe, WeightsRef
from deer_reid_pipeline_tests.finetuned import finetuned
from deer_reid_pipeline_tests.sites import query, settings_for


def test_a_name_is_a_built_in_recipe_or_the_newest_stored_one(site: Site) -> None:
    final, parts = finetuned(site, 1, {"N1": 0})
    assert site.recipe("lite").id == site.matcher().recipe.id
    assert site.recipe("lite.tuned").id == site.recipe(final.id).id == final.id
    assert site.recipe(parts[0].id).id == parts[0].id
    newer = final.model_copy(update={"branches": {**final.branches, "baseline": other_projection(final)}})
    with site.database.session() as session:
        register_recipe(session, newer.id, newer.name, newer.to_json(), False, training={"individuals": {}, "folds": 0})
    assert site.recipe("lite.tuned").id == newer.id != final.id
    with pytest.raises(DatabaseError, match=r"mobil is not in this database; known are lite, lite.tuned, mobile, orig"):
        site.recipe("mobil")


def other_projection(recipe: Recipe) -> Branch:
    """The baseline with another file that is there too."""
    branch = recipe.branches["baseline"]
    other = recipe.branches["efficientnet"].projection.sha256
    return branch.model_copy(update={"projection": branch.projection.model_copy(update={"sha256": other})})


def test_an_unknown_recipe_is_refused_before_anything_is_embedded(site: Site, tmp_path: Path) -> None:
    new = settings_for(tmp_path / "new")
    with pytest.raises(DeerReidError, match=r"unknown recipe best: built in are original, .* has no database") as said:
        embed_folder(new, tmp_path, tmp_path / "v.parquet", "best", "none")
    assert "\n" not in str(said.value)
    home = settings_for(site.settings.home, database_url=site.database.url)
    with pytest.raises(DatabaseError, match="best is not in this database"):
        embed_folder(home, tmp_path, tmp_path / "v.parquet", "best", "none")


def test_a_folder_is_embedded_with_a_stored_recipe(site: Site, herd: Path, tmp_path: Path) -> None:
    final, _ = finetuned(site, 0, {})
    home = settings_for(site.settings.home, database_url=site.database.url)
    assert embed_folder(home, herd, tmp_path / "v.parquet", "lite.tuned", "none").recipe == final.id


def test_the_chosen_recipe_is_that_of_the_live_fine_tuned_one(site: Site) -> None:
    final, _ = finetuned(site, 0, {})
    query(site, "UPDATE releases SET recipe_id = :id RETURNING 1", id=final.id)
    assert site.settings.recipe == "lite"
    assert site.matcher().recipe.id == final.id
    with pytest.raises(SettingsError, match="DEER_REID_RECIPE=mobile but the live release 1"):
        Site(settings_for(site.settings.home, recipe="mobile"), site.database).matcher()


def test_files_of_a_fine_tuned_recipe_that_are_gone_are_named(site: Site) -> None:
    final, _ = finetuned(site, 0, {})
    gone = WeightsRef(name="tuned", sha256="ab" * 32, source="store")
    main = final.backbones["main"].model_copy(update={"weights": gone})
    lost = final.model_copy(update={"backbones": {**final.backbones, "main": main}})
    with pytest.raises(WeightsError, match=f"{'ab' * 32}.safetensors of recipe {lost.id} is missing .* from a backup"):
        site.usable(lost)
    assert site.usable(final) == final
    for path in site.settings.models_dir.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(WeightsError, match=f"of recipe {final.id} are missing .* cannot be made again: restore"):
        site.usable(final)


def test_a_fine_tuned_recipe_starts_with_the_policy_of_its_base(site: Site) -> None:
    lite = site.matcher().recipe
    assert first_policy(lite.model_copy(update={"name": "lite.tuned.fold0"})) == first_policy(lite)
    with pytest.raises(SettingsError, match=r"other\.tuned has no starting policy"):
        first_policy(lite.model_copy(update={"name": "other.tuned"}))


def test_a_branch_that_alone_was_trained_counts_for_more(site: Site) -> None:
    lite = site.matcher().recipe

    def with_trained(*names: str) -> Recipe:
        branches = {
            name: branch.model_copy(update={"projection": branch.projection.model_copy(update={"kind": "trained"})})
            if name in names
            else branch
            for name, branch in lite.branches.items()
        }
        return lite.model_copy(update={"branches": branches})

    before = first_policy(lite).weights
    assert first_policy(with_trained("baseline", "multiscale", "efficientnet")).weights == before
    alone = first_policy(with_trained("baseline", "multiscale")).weights
    assert alone["multiscale"] > before["multiscale"] > before["efficientnet"] > alone["efficientnet"] > 0


def test_recipes_are_asked_for_by_name_or_id() -> None:
    assert asked_for_as("lite-0123456789ab") == "lite"
    assert asked_for_as("lite.tuned-0123456789ab") == "lite.tuned-0123456789ab"
