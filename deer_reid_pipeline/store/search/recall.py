"""What an index finds of the exact neighbours: measured on a sample, to choose ef_search; `watch` looks at it later.

A found neighbour counts where it is as similar as the k-th exact one, so that copies of a picture are no misses.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.store.models import Embedding, ProfileExemplar
from deer_reid_pipeline.store.search.among import EVERYONE, Among
from deer_reid_pipeline.store.search.exact import TopRows, exact_top, read_blocks, without_own
from deer_reid_pipeline.store.search.index import CurvePoint, Measured, Plan
from deer_reid_pipeline.store.search.nearest import (
    CANDIDATES,
    HALFVEC_MORE,
    Neighbour,
    nearest,
    nearest_fused,
    scored_by,
)

K = 10
"""Neighbours that recall is about."""

WANTED_RECALL = 0.98
"""Below this the watch warns."""

TARGET_RECALL = 0.99
"""What ef_search is chosen for: above what is wanted, because a sample is a sample and rows are added later."""

HALFVEC_RECALL = 0.999
"""Share of the exact neighbours that float16 must keep among its candidates to be used in an index."""

SAMPLE = 200
"""Searches behind a figure; its standard error at recall 0.99 is below 0.003."""

EF_SEARCH = (40, 60, 80, 100, 140, 200, 280, 400, 600, 800, 1000)
"""Tried in this order until the target is reached; pgvector takes 1 to 1000."""

_TIE = 1e-5


@dataclass(frozen=True)
class Probes:
    """Stored vectors to search with; each is told apart from itself by its detection.

    Attributes:
        vectors: branch -> float32 (n, 512).
    """

    detections: list[uuid.UUID]
    vectors: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.detections)


@dataclass(frozen=True)
class Truth:
    """The k exact neighbours of each probe, by how similar they are; float32 (n, at most k), best first."""

    probes: Probes
    similarities: FloatArray
    halfvec: float | None = None

    def recall(self, found: Sequence[Sequence[Neighbour]]) -> float:
        """Share of the exact neighbours that were found, 0 to 1; 1 where there are none."""
        hits = wanted = 0
        for own, exact, neighbours in zip(self.probes.detections, self.similarities, found, strict=True):
            there = exact[np.isfinite(exact)]
            others = [item.similarity for item in neighbours if item.detection_id != own][: len(there)]
            wanted += len(there)
            hits += sum(similarity >= float(there[-1]) - _TIE for similarity in others) if len(there) else 0
        return hits / wanted if wanted else 1.0


def draw_probes(session: Session, recipe_id: str, branches: Sequence[str], count: int = SAMPLE) -> Probes:
    """Detections to search with: those that are no exemplars first, as a new picture is none.

    Drawn by a hash of the detection, so that the sample is the same as long as the rows are.
    """
    drawn = func.md5(func.concat(Embedding.detection_id, recipe_id))
    is_exemplar = (
        select(ProfileExemplar.detection_id)
        .where(ProfileExemplar.detection_id == Embedding.detection_id, ProfileExemplar.recipe_id == recipe_id)
        .exists()
    )
    of_branch = select(Embedding.detection_id).where(
        Embedding.recipe_id == recipe_id, Embedding.branch == branches[0], ~is_exemplar
    )
    found: dict[uuid.UUID, dict[str, FloatArray]] = {}
    ids = list(session.scalars(of_branch.order_by(drawn).limit(count)))
    for table, wanted in ((Embedding, ids), (ProfileExemplar, None)):
        if wanted is None:
            wanted = _some_exemplars(session, recipe_id, branches[0], count - len(found))
        rows = session.execute(
            select(table.detection_id, table.branch, table.vector).where(
                table.recipe_id == recipe_id, table.branch.in_(branches), table.detection_id.in_(wanted)
            )
        )
        vectors: dict[uuid.UUID, dict[str, FloatArray]] = {key: {} for key in wanted}
        for detection, branch, vector in rows:
            vectors[detection][branch] = np.asarray(vector, dtype=np.float32)
        found.update({key: item for key, item in vectors.items() if len(item) == len(branches)})
    keys = sorted(found, key=str)
    return Probes(keys, {b: np.stack([found[key][b] for key in keys]) for b in branches} if keys else {})


def find_truth(
    session: Session,
    recipe_id: str,
    probes: Probes,
    k: int = K,
    *,
    policy: MatchPolicy | None = None,
    among: Among = EVERYONE,
) -> Truth:
    """The exact neighbours of each probe, in one pass over the vectors.

    Args:
        policy: how several branches are fused; None for one branch, where also is measured what float16 keeps.
    """
    if policy is not None:
        found = exact_top(session, recipe_id, probes.vectors, k, scored_by(policy), among, probes.detections)
        return Truth(probes, _padded([[similarity for _, similarity in items] for items in found], k))
    (branch,) = probes.vectors
    queries = probes.vectors[branch]
    full, half = TopRows(len(probes), k), TopRows(len(probes), k + HALFVEC_MORE)
    for keys, vectors in read_blocks(session, recipe_id, [branch], among):
        exact = queries @ vectors[branch].T
        full.add(keys, without_own(exact, keys, probes.detections), exact)
        rounded = _float16(queries) @ _float16(vectors[branch]).T
        half.add(keys, without_own(rounded, keys, probes.detections), exact)
    last = np.min(full.values, axis=1, initial=np.inf, where=np.isfinite(full.values))
    kept = np.sum(half.values >= last[:, None], axis=1)
    there = np.sum(np.isfinite(full.values), axis=1)
    share = float(np.minimum(kept, there).sum() / max(there.sum(), 1))
    return Truth(probes, full.values, share)


def measure_curve(session: Session, plan: Plan, truth: Truth, k: int = K, *, target: float = TARGET_RECALL) -> Measured:
    """Recall and time of an index for growing ef_search, until the target is reached."""
    curve: list[CurvePoint] = []
    (branch,) = truth.probes.vectors
    for ef_search in EF_SEARCH:

        def search(row: dict[str, FloatArray], ef: int = ef_search) -> list[Neighbour]:
            return nearest(session, plan, row[branch], k + 1, ef_search=ef)

        found, times = _timed(truth.probes, search)
        point = CurvePoint(
            ef_search=ef_search, recall=truth.recall(found), p95_ms=1000 * float(np.quantile(times, 0.95))
        )
        curve.append(point)
        if point.recall >= target:
            break
    return Measured(
        recipe_id=plan.recipe_id,
        branch=plan.branch,
        rows=plan.rows,
        k=k,
        sample=len(truth.probes),
        ef_search=curve[-1].ef_search,
        recall=curve[-1].recall,
        curve=tuple(curve),
        at=datetime.now(UTC),
    )


def fused_recall(
    session: Session,
    plans: Mapping[str, Plan],
    probes: Probes,
    policy: MatchPolicy,
    among: Among = EVERYONE,
    *,
    k: int = K,
    candidates: int = CANDIDATES,
) -> tuple[float, list[float]]:
    """Recall of the fused search against exact fused search, and the seconds of each search."""
    truth = find_truth(session, next(iter(plans.values())).recipe_id, probes, k, policy=policy, among=among)
    found, times = _timed(
        probes, lambda row: nearest_fused(session, plans, row, k + 1, policy, among, candidates=candidates)
    )
    return truth.recall(found), times


def _timed(
    probes: Probes, search: Callable[[dict[str, FloatArray]], list[Neighbour]]
) -> tuple[list[list[Neighbour]], list[float]]:
    """What each probe finds, and the seconds it took."""
    found, times = [], []
    for number in range(len(probes)):
        row = {branch: matrix[number] for branch, matrix in probes.vectors.items()}
        begun = time.perf_counter()
        found.append(search(row))
        times.append(time.perf_counter() - begun)
    return found, times


def _some_exemplars(session: Session, recipe_id: str, branch: str, count: int) -> list[uuid.UUID]:
    if count <= 0:
        return []
    drawn = func.md5(func.concat(ProfileExemplar.detection_id, recipe_id))
    of_branch = select(ProfileExemplar.detection_id).where(
        ProfileExemplar.recipe_id == recipe_id, ProfileExemplar.branch == branch
    )
    return list(session.scalars(of_branch.order_by(drawn).limit(count)))


def _float16(vectors: FloatArray) -> FloatArray:
    """Unit rows as a halfvec index holds and compares them."""
    rounded = vectors.astype(np.float16).astype(np.float32)
    return rounded / np.linalg.norm(rounded, axis=1, keepdims=True)


def _padded(rows: list[list[float]], k: int) -> FloatArray:
    result = np.full((len(rows), k), -np.inf, dtype=np.float32)
    for number, row in enumerate(rows):
        result[number, : len(row)] = row
    return result
