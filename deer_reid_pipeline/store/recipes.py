"""Recipes as rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.models import RecipeRow


def register_recipe(
    session: Session,
    recipe_id: str,
    name: str,
    spec: dict[str, Any],
    random_weights: bool,
    control_of: str | None = None,
) -> None:
    """Store a recipe as data; a recipe that is known stays as it is.

    Args:
        control_of: the recipe of whose pictures it embeds only the background; such a recipe is never released.
    """
    session.execute(
        insert(RecipeRow).on_conflict_do_nothing(),
        [{"id": recipe_id, "name": name, "spec": spec, "random_weights": random_weights, "control_of": control_of}],
    )


def recipe_spec(session: Session, recipe_id: str) -> dict[str, Any]:
    """The stored data of a recipe.

    Raises:
        DatabaseError: the recipe is not in this database.
    """
    spec = session.scalar(select(RecipeRow.spec).where(RecipeRow.id == recipe_id))
    if spec is None:
        raise DatabaseError(f"recipe {recipe_id} is not in this database")
    return dict(spec)
