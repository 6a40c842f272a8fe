"""`deer_matches`: which individual each encounter of a drop is, with every decision in the log.

The step: one transaction, and the order in which encounters are decided. How a drop becomes encounters is in
`encounter_groups`, how one is decided in `deciding`; it never writes a decision itself.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.encounters import EncounterGroup
from deer_reid_pipeline.reid.matching import score_individuals
from deer_reid_pipeline.steps.ab import SideBySide, open_test
from deer_reid_pipeline.steps.deciding import Deciding, LogLine, MatchReport, decide_one, query_of
from deer_reid_pipeline.steps.embeddings import complete_drop
from deer_reid_pipeline.steps.encounter_groups import DropToDecide, compared_branches, encounters_of, load_drop
from deer_reid_pipeline.steps.profiles import embed_evidence, embed_unknown, refresh_stale
from deer_reid_pipeline.steps.search import ready_to_search
from deer_reid_pipeline.steps.site import Matcher, Site
from deer_reid_pipeline.store import decisions as log_book
from deer_reid_pipeline.store.profiles import evidence_lacking, unknown_under
from deer_reid_pipeline.store.search import GallerySource, open_gallery

__all__ = ["MatchReport", "match_drop"]

log = logging.getLogger(__name__)

LOG_EVERY = 100

ROUNDS = 5
"""How often a run embeds individuals that other drops opened meanwhile, before it gives up."""


def match_drop(
    site: Site, matcher: Matcher, drop_key: str, run_id: str | None = None, say: LogLine = log.info
) -> MatchReport:
    """Decide every undecided encounter of a drop, in one transaction and one drop at a time.

    Identities that a person gave come first; the rest is decided event by event in time order, against everything
    known by then. Running it again decides nothing twice.

    What opened an individual in fast mode gets the second network's vector right after.

    Raises:
        DatabaseError: a detection has no vectors under the recipe, or other drops kept opening individuals that it has
            not all vectors of while this one waited for its turn.
    """
    say(matcher.describe())
    result = MatchReport()
    for _ in range(ROUNDS):
        if _decide_in_turn(site, matcher, drop_key, run_id, say, result):
            break
    else:
        raise DatabaseError(
            f"drop {drop_key} was not decided: {ROUNDS} times, another drop opened individuals while it waited that "
            f"{matcher.recipe.id} has not all vectors of yet; run it again when the others are done"
        )
    embed_evidence(site, matcher.recipe, say)
    say(
        f"{result.decided} encounters decided: {result.outcomes['matched']} matched, "
        f"{result.outcomes['new_individual']} new, {result.outcomes['uncertain']} uncertain "
        f"({result.by_person} by a person)"
    )
    return result


def _decide_in_turn(
    site: Site, matcher: Matcher, drop_key: str, run_id: str | None, say: LogLine, result: MatchReport
) -> bool:
    """Decide the drop when its turn comes; False, and nothing decided, where somebody has to be embedded first.

    Embedding takes long and stays outside the lock. Whom another drop opened under another release, or in fast mode,
    before it let go of the lock is therefore looked for again inside.
    """
    complete_drop(site, matcher.recipe, drop_key, compared_branches(matcher), say)
    tried = {*embed_unknown(site, matcher.recipe, say), *embed_evidence(site, matcher.recipe, say)}
    test = open_test(site, matcher, drop_key, say)
    ready_to_search(site, matcher.recipe.id, matcher.policy, say)
    with site.database.session() as session:
        log_book.lock_matching(session, say)
        behind = {*unknown_under(session, matcher.recipe.id), *evidence_lacking(session, matcher.recipe.id)} - tried
        if behind or (test is not None and test.is_behind(session)):
            say("another drop opened individuals meanwhile that this release cannot compare yet: embedding them first")
            return False
        refresh_stale(session, matcher.recipe.id)
        drop = load_drop(session, matcher, drop_key)
        groups = encounters_of(drop, matcher)
        if groups:
            _decide_all(session, Deciding(matcher, drop, run_id, say, result), groups, test)
    return True


def _decide_all(
    session: Session, work: Deciding, groups: Sequence[EncounterGroup], test: SideBySide | None = None
) -> None:
    deciding = {sighting.key for group in groups for sighting in group.sightings}
    gallery = open_gallery(session, work.matcher.recipe.id, work.matcher.policy, without=deciding)
    ordinal = log_book.next_ordinal(session, work.drop.key)
    taken = _animals_by_picture(session, work.drop, groups)
    if test is not None:
        test.begin(session, work, deciding)
    decide = decide_one if test is None else test.decide
    for position, group in enumerate(_best_first(work, gallery, groups)):
        decide(session, work, gallery, group, ordinal + position, taken)
        if (position + 1) % LOG_EVERY == 0 or position + 1 == len(groups):
            work.say(f"{position + 1} of {len(groups)} encounters decided; {_comparison(work.result)}")
        report("matches", position + 1, len(groups))


def _animals_by_picture(
    session: Session, drop: DropToDecide, groups: Sequence[EncounterGroup]
) -> dict[object, set[object]]:
    """Individuals already identified in the drop's pictures: another box of the same picture cannot be them."""
    undecided = {sighting.key for group in groups for sighting in group.sightings}
    images = {drop.rows[key].image_id for key in undecided}  # type: ignore[index]
    taken: dict[object, set[object]] = defaultdict(set)
    for image, deer in log_book.identified_in_pictures(session, sorted(images, key=str), undecided):
        taken[image].add(deer)
    return taken


def _best_first(work: Deciding, gallery: GallerySource, groups: Sequence[EncounterGroup]) -> list[EncounterGroup]:
    """Keep the order, in which an event's groups are neighbours, but let the clearest animal of each choose first."""
    result: list[EncounterGroup] = []
    index = 0
    while index < len(groups):
        shared = [groups[index]]
        while (
            index + len(shared) < len(groups)
            and groups[index + len(shared)].event == shared[0].event
            and (groups[index + len(shared)].individual is None) == (shared[0].individual is None)
        ):
            shared.append(groups[index + len(shared)])
        if len(shared) > 1 and shared[0].individual is None:
            shared.sort(key=lambda group: -_top_score(work, gallery, group))
        result += shared
        index += len(shared)
    return result


def _top_score(work: Deciding, gallery: GallerySource, group: EncounterGroup) -> float:
    query = query_of(work, group)
    scores = score_individuals(query, gallery.for_query(query), work.matcher.policy)
    known = scores[np.isfinite(scores)]
    return float(known.max()) if len(known) else -1.0


def _comparison(result: MatchReport) -> str:
    if not result.scores:
        return "no machine decision had a candidate yet"
    live, v1 = float(np.mean(result.scores)), float(np.mean(result.baseline_scores))
    return f"mean similarity to the best candidate: live {live:.4f}, v1 {v1:.4f}"
