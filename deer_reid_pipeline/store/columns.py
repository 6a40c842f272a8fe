"""The vector columns of `deer`, which show the live release's profiles.

The profiles are the truth and stay, whatever is live; the columns are what an application of the owner's reads. A v1
vector from before the enhancement has no recipe and is never overwritten.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgvector.sqlalchemy import Vector
from sqlalchemy import ColumnElement, ScalarSelect, and_, case, func, literal, or_, select, update
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.similarity import BASELINE, EFFICIENTNET, MULTISCALE, FloatArray
from deer_reid_pipeline.store.models import VECTOR_SIZE, Deer, Detection, Embedding, Profile


def show_live(session: Session, deer: uuid.UUID, recipe_id: str, means: Mapping[str, FloatArray]) -> None:
    """Show the live release's vectors in the owner's columns.

    A v1 vector from before the enhancement (no recipe) is never overwritten: it is what a rollback returns to.
    """
    old_v1 = Deer.feature_vector.is_not(None) & Deer.vector_recipe_id.is_(None)
    session.execute(
        update(Deer)
        .where(Deer.id == deer)
        .values(
            feature_vector=case((old_v1, Deer.feature_vector), else_=literal(means[BASELINE], Vector(VECTOR_SIZE))),
            feature_vector_multiscale=means[MULTISCALE],
            feature_vector_efficientnet=means[EFFICIENTNET],
            embedding_version="v3_ensemble",
            vector_recipe_id=case((old_v1, Deer.vector_recipe_id), else_=recipe_id),
            columns_recipe_id=recipe_id,
        )
    )


def show_again(session: Session, deer: uuid.UUID) -> None:
    """Note that an individual's columns are behind its profile; `show_columns` or the next refresh brings them up."""
    session.execute(update(Deer).where(Deer.id == deer).values(columns_recipe_id=None))


def columns_due(session: Session, recipe_id: str, limit: int | None = None) -> list[uuid.UUID]:
    """Individuals whose columns do not show the recipe: by id, at most `limit`.

    Those without a profile under it are due where their columns show another recipe of ours. Vectors that are not known
    to be ours (no recipe noted) are left to who made them.
    """
    others = or_(Deer.columns_recipe_id != recipe_id, Deer.vector_recipe_id != recipe_id)
    due = or_(and_(profiled(recipe_id), ~shown(recipe_id)), and_(~profiled(recipe_id), func.coalesce(others, False)))
    return list(session.scalars(select(Deer.id).where(due).order_by(Deer.id).limit(limit)))


def show_columns(session: Session, recipe_id: str, deer: Sequence[uuid.UUID]) -> int:
    """Show the profiles of the live recipe in the columns of these individuals; returns of how many.

    Where there is no profile, the columns that show another recipe become empty: what a recipe made stays in its
    profiles. A v1 vector from before the enhancement is never overwritten. An individual that another transaction is
    changing is left out, never waited for: it stays due.
    """
    free = select(Deer.id).where(Deer.id.in_(deer)).with_for_update(skip_locked=True, key_share=True).cte("free")
    old_v1 = Deer.feature_vector.is_not(None) & Deer.vector_recipe_id.is_(None)
    complete = profiled(recipe_id)
    result = session.execute(
        update(Deer)
        .where(Deer.id.in_(select(free.c.id)))
        .values(
            feature_vector=case((old_v1, Deer.feature_vector), else_=_profile_vector(recipe_id, BASELINE)),
            feature_vector_multiscale=_profile_vector(recipe_id, MULTISCALE),
            feature_vector_efficientnet=_profile_vector(recipe_id, EFFICIENTNET),
            embedding_version=case((complete, "v3_ensemble"), else_="v1_resnet50"),
            vector_recipe_id=case((~old_v1 & complete, recipe_id), else_=None),
            columns_recipe_id=case((complete, recipe_id), else_=None),
        )
        .execution_options(synchronize_session=False)
    )
    return int(getattr(result, "rowcount", 0))


def _profile_vector(recipe_id: str, branch: str) -> ScalarSelect[object]:
    """The profile vector of the individual of the enclosing query."""
    return (
        select(Profile.vector)
        .where(Profile.deer_id == Deer.id, Profile.recipe_id == recipe_id, Profile.branch == branch)
        .correlate(Deer)
        .scalar_subquery()
    )


def profiled(recipe_id: str) -> ColumnElement[bool]:
    """The individual has a profile under the recipe; its three branches are always written together."""
    return (
        select(Profile.deer_id)
        .where(Profile.deer_id == Deer.id, Profile.recipe_id == recipe_id, Profile.branch == MULTISCALE)
        .correlate(Deer)
        .exists()
    )


def shown(recipe_id: str) -> ColumnElement[bool]:
    """The columns of the individual show the recipe; never null."""
    return and_(
        Deer.columns_recipe_id.is_not_distinct_from(recipe_id),
        func.coalesce(Deer.vector_recipe_id, recipe_id) == recipe_id,
        Deer.feature_vector.is_not(None),
        Deer.feature_vector_multiscale.is_not(None),
        Deer.feature_vector_efficientnet.is_not(None),
    )


@dataclass(frozen=True)
class LiveColumns:
    """The vector columns of an individual with embedded sightings.

    Attributes:
        old_v1: feature_vector is from before the enhancement and may have any length.
        recipe: of the multiscale and efficientnet columns; None where they are to be shown again.
    """

    name: str
    vectors: dict[str, FloatArray | None]
    old_v1: bool
    version: str | None
    recipe: str | None


def live_columns(session: Session, recipe_id: str) -> list[LiveColumns]:
    """What the columns of `deer` show of every individual with a standing detection that has all vectors of the
    recipe."""
    sighted = (
        select(Detection.deer_id)
        .join(Embedding, Embedding.detection_id == Detection.id)
        .where(
            Detection.deer_id.is_not(None),
            ~Detection.superseded,
            Embedding.recipe_id == recipe_id,
            Embedding.branch == EFFICIENTNET,  # made last, where it is not made together with the others
        )
    )
    rows = session.execute(
        select(
            Deer.id,
            Deer.name,
            Deer.feature_vector,
            Deer.feature_vector_multiscale,
            Deer.feature_vector_efficientnet,
            Deer.vector_recipe_id,
            Deer.embedding_version,
            Deer.columns_recipe_id,
        )
        .where(Deer.id.in_(sighted))
        .order_by(Deer.name, Deer.id)
    )
    return [
        LiveColumns(
            name or str(key),
            {BASELINE: v1, MULTISCALE: multiscale, EFFICIENTNET: efficientnet},
            recipe is None,
            version,
            shown,
        )
        for key, name, v1, multiscale, efficientnet, recipe, version, shown in rows
    ]
