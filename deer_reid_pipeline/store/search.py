"""Nearest exemplars, exactly or through HNSW, behind one function; and the gallery that matching reads."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.matching import Gallery, Known, MatchPolicy, Query
from deer_reid_pipeline.reid.similarity import BASELINE, FloatArray, VectorSet
from deer_reid_pipeline.reid.vocabulary import sex_of
from deer_reid_pipeline.store.models import Deer, Profile, ProfileExemplar

EXACT_LIMIT = 100_000
"""Up to this many exemplars of a branch every one is compared; above it HNSW proposes the candidates."""

HNSW_M, HNSW_EF_CONSTRUCTION = 16, 64


@dataclass(frozen=True)
class Neighbour:
    """An exemplar near a query: cosine similarity, -1 to 1."""

    deer_id: uuid.UUID
    detection_id: uuid.UUID
    similarity: float


def count_exemplars(session: Session, recipe_id: str, branch: str) -> int:
    """Number of exemplars of a recipe and branch."""
    return (
        session.scalar(
            select(func.count())
            .select_from(ProfileExemplar)
            .where(ProfileExemplar.recipe_id == recipe_id, ProfileExemplar.branch == branch)
        )
        or 0
    )


def nearest(
    session: Session,
    recipe_id: str,
    branch: str,
    query: FloatArray,
    k: int,
    *,
    method: str = "auto",
    ef_search: int = 100,
) -> list[Neighbour]:
    """The k exemplars of a recipe and branch with the highest cosine to a query.

    Args:
        query: float32, shape (512,), unit norm.
        method: "exact" compares with every exemplar; "hnsw" uses the index of `ensure_hnsw` with iterative scan, so
            that filters cannot empty the result; "auto" is exact up to `EXACT_LIMIT` exemplars.
        ef_search: candidates that HNSW keeps while searching; more is slower and misses less.

    Raises:
        ValueError: unknown method.
    """
    if method == "auto":
        method = "exact" if count_exemplars(session, recipe_id, branch) <= EXACT_LIMIT else "hnsw"
    if method == "exact":
        session.execute(text("SET LOCAL enable_indexscan = off"))
    elif method == "hnsw":
        session.execute(text("SET LOCAL enable_indexscan = on"))
        session.execute(text(f"SET LOCAL hnsw.ef_search = {int(ef_search)}"))
        session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
    else:
        raise ValueError(f"unknown search method {method!r}: use auto, exact or hnsw")
    distance = ProfileExemplar.vector.cosine_distance(query)
    rows = session.execute(
        select(ProfileExemplar.deer_id, ProfileExemplar.detection_id, distance)
        .where(ProfileExemplar.recipe_id == recipe_id, ProfileExemplar.branch == branch)
        .order_by(distance)
        .limit(k)
    ).all()
    session.execute(text("SET LOCAL enable_indexscan = on"))
    return [Neighbour(deer, detection, 1.0 - float(d)) for deer, detection, d in rows]


def hnsw_index_name(recipe_id: str, branch: str) -> str:
    """Name of the partial HNSW index of a recipe and branch."""
    return "ix_exemplars_hnsw_" + hashlib.sha256(f"{recipe_id}/{branch}".encode()).hexdigest()[:12]


def ensure_hnsw(session: Session, recipe_id: str, branch: str) -> str:
    """Build the HNSW index over the exemplars of a recipe and branch, if it is not there; returns its name."""
    name = hnsw_index_name(recipe_id, branch)
    literal = {"recipe": recipe_id, "branch": branch}
    where = session.scalar(
        text("SELECT format('recipe_id = %L AND branch = %L', CAST(:recipe AS text), CAST(:branch AS text))"),
        literal,
    )
    session.connection().exec_driver_sql(
        f"CREATE INDEX IF NOT EXISTS {name} ON profile_exemplars USING hnsw (vector vector_cosine_ops) "
        f"WITH (m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION}) WHERE {where}".replace("%", "%%")
    )
    return name


def open_gallery(session: Session, recipe_id: str, policy: MatchPolicy) -> GallerySource:
    """The gallery that a policy asks for, under a recipe."""
    branches = sorted({BASELINE, *(branch for branch, weight in policy.weights.items() if weight)})
    if policy.matcher == "v1_resnet50":
        return GallerySource(session, recipe_id, policy, branches, _v1_column(session, recipe_id))
    if policy.gallery == "profile":
        return GallerySource(session, recipe_id, policy, branches, _profiles(session, recipe_id, branches))
    if max((count_exemplars(session, recipe_id, branch) for branch in branches), default=0) > EXACT_LIMIT:
        for branch in branches:
            if policy.weights.get(branch):
                ensure_hnsw(session, recipe_id, branch)
        return GallerySource(session, recipe_id, policy, branches, None)
    return GallerySource(session, recipe_id, policy, branches, load_exemplars(session, recipe_id, branches))


class GallerySource:
    """Gives each query the individuals worth comparing, and learns individuals opened during a run."""

    def __init__(
        self,
        session: Session,
        recipe_id: str,
        policy: MatchPolicy,
        branches: Sequence[str],
        known: list[Known] | None,
    ) -> None:
        self._session = session
        self._recipe_id = recipe_id
        self._branches = branches
        self._proposing = [branch for branch in branches if policy.weights.get(branch)]
        self._whole = None if known is None else Gallery(known)
        self._learned: dict[Hashable, Known] = {}

    def for_query(self, query: Query, candidates: int = 50) -> Gallery:
        """All individuals up to `EXACT_LIMIT` exemplars; above it the union of the nearest of each branch."""
        if self._whole is not None:
            return self._whole
        owners: set[uuid.UUID] = set()
        for branch in self._proposing:
            for vector in query.vectors[branch].vectors:
                found = nearest(self._session, self._recipe_id, branch, vector, candidates, method="hnsw")
                owners.update(item.deer_id for item in found)
        known = load_exemplars(self._session, self._recipe_id, self._branches, sorted(owners, key=str))
        stored = [item for item in known if item.key not in self._learned]
        return Gallery([*stored, *self._learned.values()])

    def learn(self, known: Known) -> None:
        """Let later queries of this run see an individual; one with the same key gains exemplars."""
        gallery = self._whole
        before = gallery.get(known.key) if gallery is not None else self._learned.get(known.key)
        if before is not None:
            vectors = {
                branch: VectorSet(
                    known.vectors[branch].recipe_id,
                    branch,
                    np.concatenate([before.vectors[branch].vectors, known.vectors[branch].vectors]),
                )
                for branch in self._branches
            }
            sex = known.sex if before.sex == "unknown" else before.sex
            known = Known(known.key, known.name, sex, vectors, [*before.viewpoints, *known.viewpoints])
        if gallery is not None:
            gallery.add(known)
        else:
            self._learned[known.key] = known


def load_exemplars(
    session: Session, recipe_id: str, branches: Sequence[str], deer: Sequence[uuid.UUID] | None = None
) -> list[Known]:
    """Individuals (all, or these) with their exemplars under a recipe, ordered by name and id."""
    query = (
        select(ProfileExemplar, Deer.name, Deer.sex)
        .join(Deer, Deer.id == ProfileExemplar.deer_id)
        .where(ProfileExemplar.recipe_id == recipe_id, ProfileExemplar.branch.in_(branches))
        .order_by(Deer.name, Deer.id, ProfileExemplar.detection_id)
    )
    if deer is not None:
        query = query.where(ProfileExemplar.deer_id.in_(deer))
    grouped: dict[uuid.UUID, dict[str, list[ProfileExemplar]]] = defaultdict(lambda: defaultdict(list))
    about: dict[uuid.UUID, tuple[str, str]] = {}
    for exemplar, name, sex in session.execute(query):
        grouped[exemplar.deer_id][exemplar.branch].append(exemplar)
        about[exemplar.deer_id] = (name or str(exemplar.deer_id)[:8], sex_of(sex))
    result = []
    for key, by_branch in grouped.items():
        shared = set.intersection(*({e.detection_id for e in by_branch[branch]} for branch in branches))
        rows = {b: [e for e in by_branch[b] if e.detection_id in shared] for b in branches}
        if shared:
            vectors = {b: VectorSet(recipe_id, b, _stack([e.vector for e in items])) for b, items in rows.items()}
            result.append(Known(key, *about[key], vectors, [e.viewpoint for e in rows[branches[0]]]))
    return result


def _profiles(session: Session, recipe_id: str, branches: Sequence[str]) -> list[Known]:
    """One vector an individual: its mean direction under the recipe."""
    rows = session.execute(
        select(Profile, Deer.name, Deer.sex)
        .join(Deer, Deer.id == Profile.deer_id)
        .where(Profile.recipe_id == recipe_id, Profile.branch.in_(branches))
        .order_by(Deer.name, Deer.id)
    )
    grouped: dict[uuid.UUID, dict[str, VectorSet]] = defaultdict(dict)
    about: dict[uuid.UUID, tuple[str, str]] = {}
    for profile, name, sex in rows:
        grouped[profile.deer_id][profile.branch] = VectorSet(recipe_id, profile.branch, _stack([profile.vector]))
        about[profile.deer_id] = (name or str(profile.deer_id)[:8], sex_of(sex))
    return [
        Known(key, *about[key], vectors, [None]) for key, vectors in grouped.items() if len(vectors) == len(branches)
    ]


def _v1_column(session: Session, recipe_id: str) -> list[Known]:
    """deer.feature_vector as the owner's matcher used it.

    Vectors from before the enhancement have no recipe. Asking for the v1 matcher is asking to compare with them, so
    they are taken to be of the present baseline branch; vectors known to be of another recipe are left out.
    """
    rows = session.execute(
        select(Deer.id, Deer.name, Deer.sex, Deer.feature_vector)
        .where(
            Deer.feature_vector.is_not(None),
            (Deer.vector_recipe_id.is_(None)) | (Deer.vector_recipe_id == recipe_id),
        )
        .order_by(Deer.name, Deer.id)
    )
    return [
        Known(
            key,
            name or str(key)[:8],
            sex_of(sex),
            {BASELINE: VectorSet(recipe_id, BASELINE, _normalised(vector))},
            [None],
        )
        for key, name, sex, vector in rows
    ]


def _stack(vectors: Sequence[object]) -> FloatArray:
    return np.stack([np.asarray(vector, dtype=np.float32) for vector in vectors])


def _normalised(vector: object) -> FloatArray:
    """The owner's cosine ignores length, and stored v1 vectors may have any."""
    row = _stack([vector])
    norm = float(np.linalg.norm(row))
    return row / np.float32(norm) if norm > 0 else row
