"""What searches by index find of what exact search finds: each branch alone, and the gallery that matching is given.

Measured on a sample of stored vectors as they are now, each taken for a picture of unknown sex and flank.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.matching import MatchPolicy, Query
from deer_reid_pipeline.reid.similarity import VectorSet
from deer_reid_pipeline.store.search.exact import exact_top
from deer_reid_pipeline.store.search.gallery import GallerySource, open_gallery
from deer_reid_pipeline.store.search.index import plan_search
from deer_reid_pipeline.store.search.nearest import Neighbour, nearest, scored_by
from deer_reid_pipeline.store.search.recall import SAMPLE, WANTED_RECALL, K, Probes, Truth, draw_probes, find_truth

MATCHING, BEST_INDIVIDUAL = "matching", "best_individual"
"""What is watched of the gallery: the exemplars that score highest, and whose the highest is."""


@dataclass(frozen=True)
class Watched:
    """Recall of one branch, or of what matching is given, as it is now.

    Attributes:
        what: a branch, or `MATCHING` or `BEST_INDIVIDUAL`.
        indexed: HNSW proposes; otherwise every exemplar is compared and nothing can be missed.
        ef_search: of the branch's index.
        recall: share of the k best exemplars that were found, 0 to 1.
    """

    what: str
    rows: int
    indexed: bool
    ef_search: int | None
    recall: float
    sample: int
    k: int = K

    @property
    def holds(self) -> bool:
        return self.recall >= WANTED_RECALL


def watch_recall(
    session: Session,
    recipe_id: str,
    policy: MatchPolicy,
    *,
    sample: int = SAMPLE // 4,
    exact_limit: int | None = None,
) -> list[Watched]:
    """Compare searches of a policy's branches, and the gallery that matching is given, with exact search.

    Each branch takes a pass over its vectors, the gallery two over those of all branches.

    Args:
        sample: searches; none is made where every exemplar is compared anyway.
    """
    branches = sorted(policy.branches)
    plans = {branch: plan_search(session, recipe_id, branch, exact_limit) for branch in branches}
    if all(plan.index is None for plan in plans.values()):
        return [Watched(branch, plan.rows, False, None, 1.0, 0) for branch, plan in plans.items()]
    probes = draw_probes(session, recipe_id, branches, sample)
    result = []
    for branch, plan in plans.items():
        measured = None if plan.index is None else plan.index.measured
        if measured is None:
            result.append(Watched(branch, plan.rows, False, None, 1.0, 0))
            continue
        one = Probes(probes.detections, {branch: probes.vectors[branch]})
        found = [nearest(session, plan, row, K + 1) for row in one.vectors[branch]]
        recall = find_truth(session, recipe_id, one).recall(found)
        result.append(Watched(branch, plan.rows, True, measured.ef_search, recall, len(probes)))
    source = open_gallery(session, recipe_id, policy, exact_limit=exact_limit)
    truth, compared = _given_to_matching(session, source, recipe_id, policy, probes)
    rows = max(plan.rows for plan in plans.values())
    for what, k in ((MATCHING, K), (BEST_INDIVIDUAL, 1)):
        recall = Truth(probes, truth.similarities[:, :k]).recall(compared)
        result.append(Watched(what, rows, True, None, recall, len(probes), k))
    return result


def _given_to_matching(
    session: Session, source: GallerySource, recipe_id: str, policy: MatchPolicy, probes: Probes
) -> tuple[Truth, list[list[Neighbour]]]:
    """The best exemplars of each probe by the policy: of all, and of the individuals that its gallery holds.

    A gallery holds every exemplar of the individuals that the branches propose. Whom the probe's own exemplar alone
    proposes does not count: a new picture is none.
    """
    held: list[set[uuid.UUID]] = []
    for number, own in enumerate(probes.detections):
        rows = {branch: matrix[number : number + 1] for branch, matrix in probes.vectors.items()}
        query = Query({branch: VectorSet(recipe_id, branch, row) for branch, row in rows.items()}, [None])
        held.append({item.deer_id for item in source.proposed(query) if item.detection_id != own})
    best = exact_top(
        session, recipe_id, probes.vectors, K, scored_by(policy), without=probes.detections, individuals=held
    )
    compared = [[Neighbour(deer, detection, score) for (deer, detection), score in found] for found in best]
    return find_truth(session, recipe_id, probes, policy=policy), compared
