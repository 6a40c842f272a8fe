"""Recipes and releases as rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.store.models import RecipeRow, Release

_RELEASE_LOCK = 0x0DEE_0001


def register_recipe(session: Session, recipe_id: str, name: str, spec: dict[str, Any], random_weights: bool) -> None:
    """Store a recipe as data; a recipe that is known stays as it is."""
    session.execute(
        insert(RecipeRow).on_conflict_do_nothing(),
        [{"id": recipe_id, "name": name, "spec": spec, "random_weights": random_weights}],
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


def live_release(session: Session, *, keep: bool = False) -> Release | None:
    """The release that matching uses, or None in a new home.

    Args:
        keep: let no other release become live before this transaction ends.
    """
    query = select(Release).where(Release.live)
    return session.scalar(query.with_for_update(read=True) if keep else query)


def add_first_release(session: Session, recipe_id: str, policy: MatchPolicy, reason: str) -> Release:
    """Make the first release of a home live; when another process was faster, its release is returned.

    Raises:
        DatabaseError: the recipe has random weights, which can never be released.
    """
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _RELEASE_LOCK})
    existing = live_release(session)
    if existing is not None:
        return existing
    if session.scalar(select(RecipeRow.random_weights).where(RecipeRow.id == recipe_id)):
        raise DatabaseError(f"recipe {recipe_id} has random weights and can never be released")
    release = Release(recipe_id=recipe_id, policy=policy.model_dump(), live=True, reason=reason)
    session.add(release)
    session.flush()
    return release
