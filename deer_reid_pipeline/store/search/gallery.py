"""The gallery that matching reads: whole and in memory while it is small, what the indexes propose when it is large."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import cached_property
from itertools import groupby

import numpy as np
from sqlalchemy import LargeBinary, case, func, select
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.matching import Gallery, Known, MatchPolicy, Query, flank_signs, joined
from deer_reid_pipeline.reid.similarity import BASELINE, FloatArray, VectorSet
from deer_reid_pipeline.reid.vocabulary import sex_of
from deer_reid_pipeline.store.models import VECTOR_SIZE, Deer, Detection, Profile, ProfileExemplar
from deer_reid_pipeline.store.search.among import Among
from deer_reid_pipeline.store.search.exact import FETCH_ROWS, VECTOR_HEADER
from deer_reid_pipeline.store.search.index import Plan, plan_search
from deer_reid_pipeline.store.search.nearest import Neighbour, nearest

PROPOSED = 50
"""Exemplars that each branch proposes for each picture of an encounter."""


def _proposing(policy: MatchPolicy) -> list[str]:
    return sorted(policy.branches)


def open_gallery(
    session: Session,
    recipe_id: str,
    policy: MatchPolicy,
    without: Collection[Hashable] = frozenset(),
    *,
    exact_limit: int | None = None,
) -> GallerySource:
    """The gallery that a policy asks for, under a recipe.

    Args:
        without: detections that do not count as exemplars, because they are about to be decided.
        exact_limit: exemplars of a branch up to which all are loaded; `EXACT_LIMIT` unless given.
    """
    branches = sorted({BASELINE, *_proposing(policy)})
    if policy.matcher == "v1_resnet50":
        return GallerySource(session, recipe_id, policy, branches, _v1_column(session, recipe_id))
    if policy.gallery == "profile":
        return GallerySource(session, recipe_id, policy, branches, _profiles(session, recipe_id, branches))
    plans = {branch: plan_search(session, recipe_id, branch, exact_limit) for branch in _proposing(policy)}
    if any(plan.large for plan in plans.values()):
        return GallerySource(session, recipe_id, policy, branches, None, without, plans)
    known = load_exemplars(session, recipe_id, branches, without=without)
    return GallerySource(session, recipe_id, policy, branches, known)


class _Census:
    """Sex and flanks of every individual with an exemplar, without vectors: whom a query leaves uncompared."""

    def __init__(self, known: Sequence[tuple[Hashable, str, Sequence[str | None]]]) -> None:
        self._place = {key: place for place, (key, _, _) in enumerate(known)}
        self._sex = np.array([sex for _, sex, _ in known], dtype="U7")
        flanks = [set(flank_signs(views).tolist()) for _, _, views in known]
        self._only = {sign: np.array([found == {sign} for found in flanks], dtype=bool) for sign in (1, -1)}

    def beside(self, compared: Collection[Hashable], sex: str, viewpoints: Sequence[str | None]) -> tuple[int, int]:
        """How many others may be meant: known by a comparable flank, and only by the other one.

        Args:
            sex: of the query; those of the other sex cannot be meant. Unknown where the policy does not care.
        """
        rest = np.isin(self._sex, (sex, "unknown")) if sex != "unknown" else np.ones(len(self._sex), dtype=bool)
        rest[[self._place[key] for key in compared if key in self._place]] = False
        signs = set(flank_signs(viewpoints).tolist())
        other = int(np.sum(rest & self._only[-signs.pop()])) if len(signs) == 1 and signs != {0} else 0
        return int(np.sum(rest)) - other, other


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
        plans: Mapping[str, Plan] | None = None,
    ) -> None:
        self._session = session
        self._recipe_id = recipe_id
        self._policy = policy
        self._branches = branches
        self._without = without
        self._plans = plans or {}
        self._whole = None if known is None else Gallery(known)
        self._learned: dict[Hashable, Known] = {}

    def for_query(self, query: Query) -> Gallery:
        """All individuals of a small gallery; of a large one those that are proposed, with all their exemplars."""
        if self._whole is not None:
            return self._whole
        sex = self._sex_asked(query)
        owners = {item.deer_id for item in self.proposed(query)}
        stored = self._stored(sorted(owners - self._learned.keys(), key=str))
        left_out, other_flank = self._census.beside({*owners, *self._learned}, sex, query.viewpoints)
        return Gallery([*stored, *self._learned.values()], left_out=left_out, incomparable=other_flank)

    def proposed(self, query: Query) -> list[Neighbour]:
        """The nearest exemplars of each branch to each picture of a query; none of a small gallery, which is whole.

        The index is asked under the policy's rules of sex and flank, so that whom they rule out takes nobody's place.
        """
        sex = self._sex_asked(query)
        return [
            item
            for branch, plan in self._plans.items()
            for vector, viewpoint in zip(query.vectors[branch].vectors, query.viewpoints, strict=True)
            for item in nearest(self._session, plan, vector, PROPOSED, Among(sex, viewpoint))
        ]

    def _sex_asked(self, query: Query) -> str:
        return query.sex if self._policy.sex_rule == "narrow" else "unknown"

    @cached_property
    def _census(self) -> _Census:
        rows = self._session.execute(
            select(ProfileExemplar.deer_id, Deer.sex, func.array_agg(func.distinct(ProfileExemplar.viewpoint)))
            .join(Deer, Deer.id == ProfileExemplar.deer_id)
            .where(ProfileExemplar.recipe_id == self._recipe_id, ProfileExemplar.branch == next(iter(self._plans)))
            .group_by(ProfileExemplar.deer_id, Deer.sex)
        )
        return _Census([(key, sex_of(sex), views) for key, sex, views in rows])

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
                matrix[index] = np.frombuffer(vector, dtype=">f4", offset=VECTOR_HEADER)
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
