"""The search indexes of an installation: made ready before matching, and watched after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.releases import live_release
from deer_reid_pipeline.store.search import WANTED_RECALL, Plan, Watched, prepare_search, watch_recall

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)


def ready_to_search(site: Site, recipe_id: str, policy: MatchPolicy, say: LogLine = log.info) -> None:
    """Bring the indexes of a policy's gallery up to date; never inside a transaction.

    Where memory or disk is short the run goes on without: its search is exact then, and slow, and the log says why.
    """
    try:
        prepare_search(site.database, recipe_id, policy, say)
    except DatabaseError as error:
        log.warning("%s. Until then every exemplar is compared, which is exact and slow", error)


def search_recall(site: Site, sample: int = 50) -> list[Watched]:
    """Recall of the live release's searches beside exact search; empty where nothing is searched by exemplars.

    Args:
        sample: searches compared; none where every exemplar is compared anyway.
    """
    with site.database.session() as session:
        release = live_release(session)
        if release is None:
            return []
        policy = MatchPolicy.model_validate(release.policy)
        if policy.gallery != "exemplars" or policy.matcher == "v1_resnet50":
            return []
        return watch_recall(session, release.recipe_id, policy, sample=sample)


def recall_in_words(found: Sequence[Watched]) -> str:
    """What `search_recall` found, in one sentence for each thing searched."""
    if not any(item.indexed for item in found):
        return "Every exemplar is compared, so that nothing can be missed."
    said = "; ".join(map(_one_in_words, found))
    low = [item for item in found if not item.holds]
    if not low:
        return said
    fix = "run deer-reid search index --again"
    if all(item.ef_search is None for item in low):
        fix = "the indexes hold, but matching compares too few of this herd; report it with these figures"
    return f"{said}. Below {WANTED_RECALL} ({', '.join(item.what for item in low)}): {fix}"


def _one_in_words(item: Watched) -> str:
    if not item.indexed:
        return f"{item.what}: every exemplar is compared"
    sought = "the nearest" if item.k == 1 else f"the {item.k} nearest"
    return f"{item.what}: {item.sample} searches found {item.recall:.3f} of {sought} of {item.rows} exemplars"


def index_for_search(site: Site, recipe: str = "", say: LogLine = log.info, *, again: bool = False) -> list[Plan]:
    """Bring the indexes of a recipe's exemplars up to date, under the live release's policy.

    Args:
        recipe: name or id; empty: the live release's.
        again: build and measure again what is there already.

    Raises:
        DatabaseError: memory or disk is short, or the recipe is not known.
    """
    matcher = site.matcher()
    recipe_id = site.recipe(recipe).id if recipe else matcher.recipe.id
    return prepare_search(site.database, recipe_id, matcher.policy, say, again=again)


def described(plan: Plan) -> dict[str, Any]:
    """How a branch is searched, as JSON."""
    index = plan.index
    measured = None if index is None else index.measured
    return {
        "branch": plan.branch,
        "exemplars": plan.rows,
        "method": "exact" if index is None else "hnsw",
        "holds": None if index is None else index.kind,
        "bytes": None if index is None else index.bytes,
        "ef_search": None if measured is None else measured.ef_search,
        "recall": None if measured is None else measured.recall,
        "curve": [] if measured is None else [point.model_dump() for point in measured.curve],
    }
