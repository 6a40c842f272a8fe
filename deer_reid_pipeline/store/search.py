"""Nearest exemplars, exactly or through HNSW, behind one function; and the gallery that matching reads."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from sqlalchemy import LargeBinary, case, func, select, text
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.matching import Gallery, Known, MatchPolicy, Query, joined
from deer_reid_pipeline.reid.similarity import BASELINE, FloatArray, VectorSet
from deer_reid_pipeline.reid.vocabulary import sex_of
from deer_reid_pipeline.store.models import VECTOR_SIZE, Deer, Detection, Profile, ProfileExemplar

EXACT_LIMIT = 100_000
"""Up to this many exemplars of a branch every one is compared; above it HNSW proposes the candidates."""

HNSW_M, HNSW_EF_CONSTRUCTION = 16, 64

FETCH_ROWS = 2000
"""Vectors are fetched in portions of this many rows."""

_VECTOR_HEADER = 4
"""Bytes before the numbers of a vector in pgvector's binary form, which numpy reads without parsing text."""

_INDEX_LOCK = 0x0DEE_0003


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


def prepare_search(session: Session, recipe_id: str, policy: MatchPolicy) -> None:
    """Build the HNSW indexes that a policy's gallery needs, if they are not there.

    To be called in a transaction of its own before matching: building takes long and keeps others from writing
    exemplars. Matching itself never builds an index; without one its search is exact, and slow.
    """
    proposing = _proposing(policy)
    if policy.gallery != "exemplars" or not _is_large(session, recipe_id, proposing):
        return
    lacking = [b for b in proposing if session.scalar(select(func.to_regclass(hnsw_index_name(recipe_id, b)))) is None]
    if lacking:
        session.execute(select(func.pg_advisory_xact_lock(_INDEX_LOCK)))  # two processes do not build it at once
    for branch in lacking:
        ensure_hnsw(session, recipe_id, branch)


def _proposing(policy: MatchPolicy) -> list[str]:
    return sorted(branch for branch, weight in policy.weights.items() if weight)


def _is_large(session: Session, recipe_id: str, branches: Sequence[str]) -> bool:
    return max((count_exemplars(session, recipe_id, branch) for branch in branches), default=0) > EXACT_LIMIT


def open_gallery(
    session: Session, recipe_id: str, policy: MatchPolicy, without: Collection[Hashable] = frozenset()
) -> GallerySource:
    """The gallery that a policy asks for, under a recipe.

    Args:
        without: detections that do not count as exemplars, because they are about to be decided.
    """
    branches = sorted({BASELINE, *_proposing(policy)})
    if policy.matcher == "v1_resnet50":
        return GallerySource(session, recipe_id, policy, branches, _v1_column(session, recipe_id))
    if policy.gallery == "profile":
        return GallerySource(session, recipe_id, policy, branches, _profiles(session, recipe_id, branches))
    if _is_large(session, recipe_id, branches):
        return GallerySource(session, recipe_id, policy, branches, None, without)
    known = load_exemplars(session, recipe_id, branches, without=without)
    return GallerySource(session, recipe_id, policy, branches, known)


class GallerySource:
    """Gives each query the individuals worth comparing, and learns individuals opened during a run."""

    def __init__(
        self,
        session: Session,
        recipe_id: str,
        policy: MatchPolicy,
        branches: Sequence[str],
        known: list[Known] | None,
        without: Collection[Hashable] = frozenset(),
    ) -> None:
        self._session = session
        self._recipe_id = recipe_id
        self._branches = branches
        self._proposing = _proposing(policy)
        self._without = without
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
        stored = self._stored(sorted(owners - self._learned.keys(), key=str))
        return Gallery([*stored, *self._learned.values()], left_out=len(self._everyone - owners - self._learned.keys()))

    @cached_property
    def _everyone(self) -> set[Hashable]:
        """Individuals with an exemplar under the recipe, proposed or not."""
        return set(
            self._session.scalars(
                select(ProfileExemplar.deer_id).where(ProfileExemplar.recipe_id == self._recipe_id).distinct()
            )
        )

    def learn(self, known: Known) -> None:
        """Let later queries of this run see an individual; one that is known gains exemplars."""
        if self._whole is not None:
            self._whole.extend(known)
            return
        before = self._learned.get(known.key)
        if before is None and isinstance(known.key, uuid.UUID):
            before = next(iter(self._stored([known.key])), None)
        self._learned[known.key] = known if before is None else joined(before, known)

    def _stored(self, deer: Sequence[uuid.UUID]) -> list[Known]:
        return load_exemplars(self._session, self._recipe_id, self._branches, deer, self._without)


def load_exemplars(
    session: Session,
    recipe_id: str,
    branches: Sequence[str],
    deer: Sequence[uuid.UUID] | None = None,
    without: Collection[Hashable] = frozenset(),
) -> list[Known]:
    """Individuals (all, or these) with their exemplars under a recipe, ordered by name and id.

    An exemplar counts while its detection stands and is still that individual's, and where every branch has it. The
    vectors of an individual are rows of one array a branch, so that 100,000 exemplars fit into memory.

    Args:
        without: detections that do not count.
    """
    if deer is not None and not deer:
        return []
    exemplars = (
        select(ProfileExemplar.deer_id, ProfileExemplar.detection_id)
        .join(Detection, Detection.id == ProfileExemplar.detection_id)
        .where(
            ProfileExemplar.recipe_id == recipe_id,
            Detection.deer_id == ProfileExemplar.deer_id,
            ~Detection.superseded,
        )
    )
    if deer is not None:
        exemplars = exemplars.where(ProfileExemplar.deer_id.in_(deer))
    listed = session.execute(
        exemplars.add_columns(ProfileExemplar.viewpoint, Deer.name, Deer.sex)
        .join(Deer, Deer.id == ProfileExemplar.deer_id)
        .where(ProfileExemplar.branch == branches[0])
        .order_by(Deer.name, Deer.id, ProfileExemplar.detection_id)
    ).all()
    rows = [row for row in listed if row.detection_id not in without]
    place = {(row.deer_id, row.detection_id): index for index, row in enumerate(rows)}
    matrices = {branch: np.empty((len(rows), VECTOR_SIZE), dtype=np.float32) for branch in branches}
    complete = np.ones(len(rows), dtype=bool)
    for branch, matrix in matrices.items():
        found = np.zeros(len(rows), dtype=bool)
        for key, detection, vector in session.execute(
            exemplars.add_columns(func.vector_send(ProfileExemplar.vector, type_=LargeBinary)).where(
                ProfileExemplar.branch == branch
            ),
            execution_options={"yield_per": FETCH_ROWS},
        ):
            index = place.get((key, detection))
            if index is not None:
                matrix[index] = np.frombuffer(vector, dtype=">f4", offset=_VECTOR_HEADER)
                found[index] = True
        complete &= found
    if not complete.all():
        rows = [row for row, kept in zip(rows, complete, strict=True) if kept]
        matrices = {branch: matrix[complete] for branch, matrix in matrices.items()}
    result = []
    start = 0
    for key, members in groupby(rows, key=lambda row: row.deer_id):
        items = list(members)
        part = slice(start, start + len(items))
        vectors = {branch: VectorSet(recipe_id, branch, matrix[part]) for branch, matrix in matrices.items()}
        name, sex = items[0].name or str(key)[:8], sex_of(items[0].sex)
        result.append(Known(key, name, sex, vectors, [item.viewpoint for item in items]))
        start = part.stop
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
    """deer.feature_vector as the owner's matcher used it, one vector an individual.

    Vectors from before the enhancement have no recipe. Asking for the v1 matcher is asking to compare with them, so
    they are taken to be of the present baseline branch. Where the column shows a recipe, the individual's profile under
    this one is taken, which is the same vector while it is live and stays when another release becomes live.
    """
    old_v1 = Deer.feature_vector.is_not(None) & Deer.vector_recipe_id.is_(None)
    profile = (Profile.deer_id == Deer.id) & (Profile.recipe_id == recipe_id) & (Profile.branch == BASELINE)
    rows = session.execute(
        select(Deer.id, Deer.name, Deer.sex, case((old_v1, Deer.feature_vector), else_=Profile.vector))
        .outerjoin(Profile, profile)
        .where(old_v1 | Profile.vector.is_not(None))
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
