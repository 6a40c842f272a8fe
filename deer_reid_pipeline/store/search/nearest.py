"""The nearest exemplars of a query: by every vector or by the index, of one branch or of several fused.

The index only proposes. What is returned is always ranked by the exact float32 cosine.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pgvector.sqlalchemy
from sqlalchemy import (
    ColumnElement,
    Integer,
    LargeBinary,
    Select,
    String,
    any_,
    bindparam,
    cast,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import RecipeMismatchError
from deer_reid_pipeline.reid.matching import MatchPolicy, fused_similarity
from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.store.models import VECTOR_SIZE, ProfileExemplar
from deer_reid_pipeline.store.search.among import EVERYONE, Among
from deer_reid_pipeline.store.search.exact import VECTOR_HEADER, Key, Score, exact_top
from deer_reid_pipeline.store.search.index import HALFVEC, VECTOR, Plan

CANDIDATES = 100
"""Exemplars that each branch proposes for a fused search."""

HALFVEC_MORE = 10
"""Further candidates that a halfvec index is asked for, because float32 ranks them a little differently."""

MAX_EF_SEARCH = 1000
"""pgvector takes no more."""

MAX_SCAN_TUPLES = 40_000
"""Exemplars that a filtered search looks at before it gives up and compares all that pass the filter."""


@dataclass(frozen=True)
class Neighbour:
    """An exemplar near a query: cosine, or what the policy makes of several branches' cosines."""

    deer_id: uuid.UUID
    detection_id: uuid.UUID
    similarity: float


def nearest(
    session: Session, plan: Plan, query: FloatArray, k: int, among: Among = EVERYONE, *, ef_search: int | None = None
) -> list[Neighbour]:
    """The k exemplars with the highest cosine to a query, best first.

    Where a filter leaves the index fewer than k, everything that passes the filter is compared instead, so that a
    narrow filter never empties the result.

    Args:
        query: float32, shape (512,), unit norm.
        ef_search: candidates that HNSW keeps while searching; the measured one unless given.
    """
    if plan.index is None:
        return _exact(session, plan, query, k, among)
    found = _by_index(session, plan, query, k, among, ef_search)
    return found if len(found) >= min(k, plan.rows) else _exact(session, plan, query, k, among)


def nearest_fused(
    session: Session,
    plans: Mapping[str, Plan],
    queries: Mapping[str, FloatArray],
    k: int,
    policy: MatchPolicy,
    among: Among = EVERYONE,
    *,
    candidates: int = CANDIDATES,
) -> list[Neighbour]:
    """The k exemplars with the highest fused similarity: the union of what each branch proposes, scored exactly.

    Args:
        plans: branch -> plan; every branch that has a weight in the policy, all of one recipe.
        queries: branch -> float32, shape (512,), unit norm.
        candidates: exemplars that each branch proposes.

    Raises:
        RecipeMismatchError: the plans are of different recipes.
    """
    recipe_id = one_recipe(plans)
    branches = sorted(policy.branches)
    rows = {branch: queries[branch][None] for branch in branches}
    if any(plans[branch].index is None for branch in branches):
        (found,) = exact_top(session, recipe_id, rows, k, scored_by(policy), among)
        return [Neighbour(deer, detection, similarity) for (deer, detection), similarity in found]
    union: set[Key] = set()
    for branch in branches:
        proposed = nearest(session, plans[branch], queries[branch], max(candidates, k), among)
        union.update((item.deer_id, item.detection_id) for item in proposed)
    keys, vectors = _vectors_of(session, recipe_id, branches, sorted(union, key=str))
    scores = scored_by(policy)({branch: rows[branch] @ vectors[branch].T for branch in branches})[0]
    order = np.argsort(-scores, kind="stable")[:k]
    return [Neighbour(keys[row][0], keys[row][1], float(scores[row])) for row in order]


def one_recipe(plans: Mapping[str, Plan]) -> str:
    """The recipe of all plans.

    Raises:
        RecipeMismatchError: there are several.
    """
    recipes = sorted({plan.recipe_id for plan in plans.values()})
    if len(recipes) != 1:
        raise RecipeMismatchError(
            f"branches of different recipes cannot be fused ({', '.join(recipes)}): "
            "re-embed one side with `deer-reid reembed`"
        )
    return recipes[0]


def scored_by(policy: MatchPolicy) -> Score:
    """The policy's fused similarity as a score of `exact_top`."""
    return lambda cosines: fused_similarity({b: np.clip(c, -1.0, 1.0) for b, c in cosines.items()}, policy)


def _exact(session: Session, plan: Plan, query: FloatArray, k: int, among: Among) -> list[Neighbour]:
    rows = session.execute(_nearest_first(None, among), _asked(plan, query, k))
    return [Neighbour(deer, detection, 1.0 - distance) for deer, detection, distance in rows]


def _by_index(
    session: Session, plan: Plan, query: FloatArray, k: int, among: Among, ef_search: int | None
) -> list[Neighbour]:
    if plan.index is None or (plan.index.measured is None and ef_search is None):
        raise ValueError("a search by index needs an index that was measured, or an ef_search")
    ef = ef_search or (plan.index.measured.ef_search if plan.index.measured else 0)
    wanted = k + HALFVEC_MORE if plan.index.kind == HALFVEC else k
    with _index_only(session, max(ef, min(wanted, MAX_EF_SEARCH)), plan.iterative):
        rows = session.execute(_nearest_first(plan.index.kind, among), _asked(plan, query, wanted)).all()
    found = [Neighbour(deer, detection, 1.0 - distance) for deer, detection, distance in rows]
    return sorted(found, key=lambda item: -item.similarity)[:k]


@cache
def _nearest_first(kind: str | None, among: Among) -> Select[Any]:
    """Exemplars with their cosine distance, in the order of an index of this kind; None: in one that no index has.

    Made once, since making it takes a tenth of a search by index. Its parameters are those of `_asked`.
    """
    query = cast(bindparam("query", type_=String), pgvector.sqlalchemy.VECTOR(VECTOR_SIZE))
    distance = ProfileExemplar.vector.cosine_distance(query)
    ordering = {
        None: (1 - distance).desc(),
        VECTOR: distance,
        HALFVEC: cast(ProfileExemplar.vector, pgvector.sqlalchemy.HALFVEC(VECTOR_SIZE)).cosine_distance(
            cast(query, pgvector.sqlalchemy.HALFVEC(VECTOR_SIZE))
        ),
    }
    return (
        among.narrow(select(ProfileExemplar.deer_id, ProfileExemplar.detection_id, distance))
        .where(ProfileExemplar.recipe_id == bindparam("recipe_id"), ProfileExemplar.branch == bindparam("branch"))
        .order_by(ordering[kind])
        .limit(bindparam("wanted", type_=Integer))
    )


def _asked(plan: Plan, query: FloatArray, wanted: int) -> dict[str, Any]:
    # Written as text at once: the types of pgvector take many times as long for it.
    return {"query": str(query.tolist()), "recipe_id": plan.recipe_id, "branch": plan.branch, "wanted": wanted}


@contextmanager
def _index_only(session: Session, ef_search: int, iterative: bool) -> Iterator[None]:
    """Let the planner take the ordered index, and pgvector go on where a filter took candidates away.

    The order is relaxed, which misses less than the strict one; the caller ranks.
    """
    values = {"enable_sort": "off", "hnsw.ef_search": str(min(ef_search, MAX_EF_SEARCH))}
    if iterative:
        values["hnsw.iterative_scan"] = "relaxed_order"
        values["hnsw.max_scan_tuples"] = str(MAX_SCAN_TUPLES)
        values["hnsw.scan_mem_multiplier"] = "8"
    _set(session, values)
    yield
    _set(session, {"enable_sort": "on"})


def _set(session: Session, values: Mapping[str, str]) -> None:
    """Settings of this transaction, in one statement."""
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in values.items())
    session.connection().exec_driver_sql(f"SELECT {calls}")


def _vectors_of(
    session: Session, recipe_id: str, branches: Sequence[str], keys: Sequence[Key]
) -> tuple[list[Key], dict[str, FloatArray]]:
    """Those of the exemplars that have every branch, and their vectors: branch -> float32 (n, 512)."""
    found: dict[str, dict[Key, FloatArray]] = {branch: {} for branch in branches}
    rows = session.execute(
        select(
            ProfileExemplar.branch,
            ProfileExemplar.deer_id,
            ProfileExemplar.detection_id,
            func.vector_send(ProfileExemplar.vector, type_=LargeBinary),
        ).where(
            ProfileExemplar.recipe_id == recipe_id,
            ProfileExemplar.branch.in_(branches),
            ProfileExemplar.deer_id == any_(_uuids({deer for deer, _ in keys})),
            ProfileExemplar.detection_id == any_(_uuids({detection for _, detection in keys})),
        )
    )
    for branch, deer, detection, vector in rows:
        found[branch][deer, detection] = np.frombuffer(vector, dtype=">f4", offset=VECTOR_HEADER).astype(np.float32)
    # Two arrays, which one scan of the primary key answers, where pairs would be a scan each.
    complete = [key for key in keys if all(key in found[branch] for branch in branches)]
    empty = np.empty((0, VECTOR_SIZE), dtype=np.float32)
    return complete, {b: np.stack([found[b][key] for key in complete]) if complete else empty for b in branches}


def _uuids(keys: Collection[uuid.UUID]) -> ColumnElement[Any]:
    return cast(sorted(map(str, keys)), ARRAY(UUID(as_uuid=False)))
