"""The HNSW indexes over exemplars: one for each recipe and branch, with what was measured of it in its comment.

The comment goes wherever the index goes: it survives restarts and dumps, and is gone with the index. Nothing here
builds an index; that is `building`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, func, select, text
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.models import ProfileExemplar

EXACT_LIMIT = 100_000
"""Up to this many exemplars of a branch every one is compared; above it HNSW proposes the candidates."""

VECTOR, HALFVEC = "vector", "halfvec"
"""What an index holds: the stored float32, or their float16, at half the size."""

HNSW_M, HNSW_EF_CONSTRUCTION = 32, 400
"""Neighbours of an element, and candidates looked at to find them; docs/search.md has what they gave."""

HALFVEC_SINCE, ITERATIVE_SINCE = (0, 7), (0, 8)
"""Versions of pgvector."""

PREFIX = "ix_exemplars_hnsw_"
_SUFFIX = {VECTOR: "", HALFVEC: "_half"}


class CurvePoint(BaseModel):
    """What a search with one ef_search found of the exact neighbours, and how long it took."""

    model_config = ConfigDict(frozen=True)

    ef_search: int = Field(description="Candidates that HNSW keeps while searching.")
    recall: float = Field(description="Share of the k exact neighbours that were found, 0 to 1.")
    p95_ms: float = Field(description="Milliseconds that 95 % of the searches stay under.")


class Measured(BaseModel):
    """What an index was found to do when it was measured last."""

    model_config = ConfigDict(frozen=True)

    recipe_id: str
    branch: str
    rows: int = Field(description="Exemplars of the recipe and branch at that time.")
    k: int = Field(description="Neighbours asked for.")
    sample: int = Field(description="Searches behind each point of the curve.")
    ef_search: int = Field(description="The smallest on the curve that reaches the target, else the largest.")
    recall: float = Field(description="At that ef_search, 0 to 1.")
    curve: tuple[CurvePoint, ...]
    at: datetime


@dataclass(frozen=True)
class StoredIndex:
    """An HNSW index as the database has it.

    Attributes:
        valid: it was built to the end.
        measured: None where a build or a measurement was cut short.
    """

    name: str
    kind: str
    valid: bool
    bytes: int
    measured: Measured | None


@dataclass(frozen=True)
class Plan:
    """How exemplars of a recipe and branch are searched.

    Attributes:
        rows: exemplars at the time of planning.
        index: None where every exemplar is compared.
        iterative: the server can go on searching where a filter took candidates away.
        large: there are more than are loaded and compared at once.
    """

    recipe_id: str
    branch: str
    rows: int
    index: StoredIndex | None
    iterative: bool = True
    large: bool = False


def count_exemplars(session: Session | Connection, recipe_id: str, branch: str) -> int:
    """Number of exemplars of a recipe and branch."""
    query = select(func.count()).select_from(ProfileExemplar)
    of_branch = query.where(ProfileExemplar.recipe_id == recipe_id, ProfileExemplar.branch == branch)
    return session.scalar(of_branch) or 0


def plan_search(session: Session, recipe_id: str, branch: str, exact_limit: int | None = None) -> Plan:
    """Exact up to the limit; above it by the index, where there is one that was measured; else exact and slow.

    Args:
        exact_limit: `EXACT_LIMIT` unless given.
    """
    rows = count_exemplars(session, recipe_id, branch)
    large = rows > (EXACT_LIMIT if exact_limit is None else exact_limit)
    index = None
    if large:
        found = [item for item in indexes_of(session, recipe_id, branch) if item.valid and item.measured is not None]
        index = found[0] if found else None
    return Plan(recipe_id, branch, rows, index, pgvector_version(session) >= ITERATIVE_SINCE, large)


def index_name(recipe_id: str, branch: str, kind: str) -> str:
    """Name of the index of a recipe and branch."""
    return PREFIX + hashlib.sha256(f"{recipe_id}/{branch}".encode()).hexdigest()[:12] + _SUFFIX[kind]


def indexes_of(session: Session | Connection, recipe_id: str, branch: str) -> list[StoredIndex]:
    """The indexes of a recipe and branch, half finished ones included; a halfvec one first."""
    names = {index_name(recipe_id, branch, kind) for kind in (HALFVEC, VECTOR)}
    of_this = [item for item in all_indexes(session) if item.name in names]
    return [item if _is_of(item, recipe_id, branch) else _unmeasured(item) for item in of_this]


def all_indexes(session: Session | Connection) -> list[StoredIndex]:
    """Every index of this module, half finished ones included, by name from the last."""
    rows = session.execute(
        text(
            "SELECT c.relname, i.indisvalid, obj_description(c.oid, 'pg_class'), pg_relation_size(c.oid) "
            "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE i.indrelid = to_regclass('profile_exemplars') AND starts_with(c.relname, :prefix) "
            "ORDER BY c.relname DESC"
        ),
        {"prefix": PREFIX},
    )
    return [
        StoredIndex(name, HALFVEC if name.endswith(_SUFFIX[HALFVEC]) else VECTOR, valid, size, _measured(comment))
        for name, valid, comment, size in rows
    ]


def keep_measured(connection: Connection, name: str, measured: Measured) -> None:
    """Write what was measured into the index's comment."""
    quoted = connection.scalar(text("SELECT quote_literal(:value)"), {"value": measured.model_dump_json()})
    connection.exec_driver_sql(f"COMMENT ON INDEX {name} IS {quoted}".replace("%", "%%"))


def lacking_recipes(session: Session | Connection, indexes: Sequence[StoredIndex]) -> list[str]:
    """Names of those indexes whose recipe and branch have no exemplar any more."""
    there = select(ProfileExemplar.recipe_id, ProfileExemplar.branch).distinct()
    wanted = {
        index_name(recipe, branch, kind) for recipe, branch in session.execute(there) for kind in (VECTOR, HALFVEC)
    }
    return [item.name for item in indexes if item.name not in wanted]


def pgvector_version(session: Session | Connection) -> tuple[int, ...]:
    """Version of the extension in this database, such as (0, 8, 5)."""
    found = session.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    return tuple(int(part) for part in re.findall(r"\d+", found or "")[:3])


def _measured(comment: str | None) -> Measured | None:
    try:
        return None if comment is None else Measured.model_validate_json(comment)
    except ValidationError:
        return None  # not written by this version: it is measured anew


def _is_of(item: StoredIndex, recipe_id: str, branch: str) -> bool:
    return item.measured is not None and (item.measured.recipe_id, item.measured.branch) == (recipe_id, branch)


def _unmeasured(item: StoredIndex) -> StoredIndex:
    return StoredIndex(item.name, item.kind, item.valid, item.bytes, None)
