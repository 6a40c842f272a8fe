"""A home whose only recipe is small, random and quick: speed is measured, vectors mean nothing."""

from __future__ import annotations

from pathlib import Path

from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.sites import settings_for
from deer_reid_pipeline_tests.vision.conftest import make_small_recipe, save_stand_in


def small_site(home: Path, database: Database) -> tuple[Site, str]:
    """The installation and its recipe's id. Weights are made unless the home has them."""
    if not (home / "weights").exists():
        save_stand_in(home / "weights", "mobilenet_v2")
    recipe = make_small_recipe(WeightStore([home / "weights"], home / "models", offline=True))
    with database.session() as session:
        register_recipe(session, recipe.id, recipe.name, recipe.to_json(), recipe.random_weights)
    return Site(settings_for(home), database), recipe.id


def quick(recipe: str, **changes: object) -> BenchmarkConfig:
    """Settings of a benchmark of seconds."""
    values = {
        "recipe": recipe,
        "pictures": 8,
        "drawn": True,
        "megapixels": [0.02],
        "ahead": 0,
        "rounds": 1,
        "loop_pictures": 2,
        "batches": [1, 4],
        "starts": False,
    }
    return BenchmarkConfig.model_validate({**values, **changes})
