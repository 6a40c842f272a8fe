"""Recipes as rows: what each is, what a fine-tuned one was trained on, and the fold recipes that judge it."""

from __future__ import annotations

from collections.abc import Iterable
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
    *,
    fold_of: str | None = None,
    fold: int | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    """Store a recipe as data; a recipe that is known stays as it is.

    Args:
        control_of: the recipe of whose pictures it embeds only the background; such a recipe is never released.
        fold_of: the fine-tuned recipe that it judges, registered before it; such a recipe is never released.
        fold: the fold of that recipe's individuals that it was trained without.
        training: of a fine-tuned recipe, JSON: `individuals` maps each individual that it was trained on to the fold
            whose recipe judges it, None where there is none; `folds` is the number of folds.
    """
    session.execute(
        insert(RecipeRow).on_conflict_do_nothing(),
        [
            {
                "id": recipe_id,
                "name": name,
                "spec": spec,
                "random_weights": random_weights,
                "control_of": control_of,
                "fold_of": fold_of,
                "fold": fold,
                "training": training,
            }
        ],
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


def training_of(session: Session, recipe_id: str) -> dict[str, Any] | None:
    """What a fine-tuned recipe was trained on, as `register_recipe` got it; None for any other recipe."""
    training = session.scalar(select(RecipeRow.training).where(RecipeRow.id == recipe_id))
    return None if training is None else dict(training)


def fold_recipes(session: Session, recipe_id: str) -> dict[int, str]:
    """Fold -> id of the recipe that was trained without its individuals; empty where there are none."""
    rows = session.execute(
        select(RecipeRow.fold, RecipeRow.id)
        .where(RecipeRow.fold_of == recipe_id, RecipeRow.fold.is_not(None))
        .order_by(RecipeRow.fold, RecipeRow.created_at, RecipeRow.id)
    )
    return {int(fold): key for fold, key in rows if fold is not None}


def fold_of_recipe(session: Session, recipe_id: str) -> str | None:
    """The fine-tuned recipe that a fold recipe judges; None for any other recipe."""
    return session.scalar(select(RecipeRow.fold_of).where(RecipeRow.id == recipe_id))


def find_recipe(session: Session, name_or_id: str, also: Iterable[str] = ()) -> str:
    """Id of the recipe that a person means: the one with this id, else the newest of this name.

    Controls and fold recipes are found by their id only.

    Args:
        also: names that the caller knows without the database; the error lists them too.

    Raises:
        DatabaseError: there is none; lists those that are known.
    """
    if session.scalar(select(RecipeRow.id).where(RecipeRow.id == name_or_id)) is not None:
        return name_or_id
    usable = (RecipeRow.control_of.is_(None), RecipeRow.fold_of.is_(None))
    newest = session.scalar(
        select(RecipeRow.id)
        .where(RecipeRow.name == name_or_id, *usable)
        .order_by(RecipeRow.created_at.desc(), RecipeRow.id)
        .limit(1)
    )
    if newest is not None:
        return newest
    names = {*also, *session.scalars(select(RecipeRow.name).where(*usable))}
    known = f"known are {', '.join(sorted(names))}, and the ids of stored ones" if names else "it has none yet"
    raise DatabaseError(f"recipe {name_or_id} is not in this database; {known}")


def tuned_recipes(session: Session) -> list[str]:
    """Ids of the fine-tuned recipes, newest first; fold recipes left out."""
    return list(
        session.scalars(
            select(RecipeRow.id)
            .where(RecipeRow.training.is_not(None), RecipeRow.fold_of.is_(None))
            .order_by(RecipeRow.created_at.desc(), RecipeRow.id)
        )
    )
