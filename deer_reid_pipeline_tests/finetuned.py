"""Fine-tuned recipes for tests: stored as training stores them, without anything having been trained."""

from __future__ import annotations

from collections.abc import Mapping

from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.vision.recipe import Recipe


def finetuned(
    site: Site, folds: int, individuals: Mapping[str, int | None], name: str = "lite.tuned"
) -> tuple[Recipe, list[Recipe]]:
    """A fine-tuned recipe and its fold recipes, the live recipe under other names.

    Args:
        individuals: individual that it was trained on -> its fold.
    """
    base = site.matcher().recipe
    final = base.model_copy(update={"name": name})
    parts = [base.model_copy(update={"name": f"{name}.fold{fold}"}) for fold in range(folds)]
    training = {"individuals": dict(individuals), "folds": folds, "salt": "s", "base": base.id}
    with site.database.session() as session:
        register_recipe(session, final.id, name, final.to_json(), False, training=training)
        for fold, part in enumerate(parts):
            register_recipe(session, part.id, part.name, part.to_json(), False, fold_of=final.id, fold=fold)
    return final, parts
