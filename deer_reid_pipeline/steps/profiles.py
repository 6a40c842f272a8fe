"""`deer_profiles`: exemplars and mean directions of every individual, and the owner's vector columns."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.exemplars import choose_exemplars, mean_direction
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray
from deer_reid_pipeline.steps.embeddings import embed_detections
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store import profiles as table
from deer_reid_pipeline.store.media import detections_without_vectors
from deer_reid_pipeline.store.recipes import live_release
from deer_reid_pipeline.store.vectors import get_embeddings
from deer_reid_pipeline.vision.recipe import Recipe

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

LOG_EVERY = 10


@dataclass
class ProfileReport:
    """Profiles made now, those that were up to date, detections embedded on the way, and what could not be."""

    made: int = 0
    unchanged: int = 0
    embedded: int = 0
    without_vectors: int = 0
    seconds: float = 0.0


def update_profiles(site: Site, recipe: Recipe, say: LogLine = log.info, *, again: bool = False) -> ProfileReport:
    """Bring every individual's profile under a recipe up to date, embedding detections that lack vectors.

    One transaction an individual; a profile whose detections did not change is left alone, so a killed run goes on
    where it was. The owner's columns follow when the recipe is the live one.

    Args:
        again: make every vector and profile again.
    """
    result = ProfileReport()
    started = time.perf_counter()
    with site.database.session() as session:
        individuals = table.individuals_with_sightings(session)
        digests = {} if again else table.profile_digests(session, recipe.id)
        release = live_release(session)
        table.remove_empty_profiles(session)
    live = release is not None and release.recipe_id == recipe.id
    for position, (deer, name) in enumerate(individuals, start=1):
        _update(site, recipe, deer, name, digests.get(deer), live, again, result)
        if position % LOG_EVERY == 0 or position == len(individuals):
            share = 100 * position / len(individuals)
            say(f"profiles: {position} of {len(individuals)} ({share:.0f} %), {result.made} made")
        report("profiles", position, len(individuals))
    result.seconds = time.perf_counter() - started
    mean = result.seconds / result.made if result.made else 0.0
    say(
        f"profiles done: {result.made} made, {result.unchanged} unchanged, {result.seconds:.1f} s in total, "
        f"{mean:.2f} s a profile made"
    )
    return result


def embed_backlog(site: Site, recipe: Recipe, say: LogLine = log.info, *, again: bool = False) -> int:
    """Embed what no profile covers: detections without an individual. Returns how many were embedded."""
    with site.database.session() as session:
        todo = detections_without_vectors(session, recipe.id, BRANCHES, all_again=again, unassigned_only=again)
    return embed_detections(site, recipe, todo, say, step="backlog").embedded


def _update(
    site: Site,
    recipe: Recipe,
    deer: uuid.UUID,
    name: str,
    known_digest: str | None,
    live: bool,
    again: bool,
    result: ProfileReport,
) -> None:
    with site.database.session() as session:
        members = table.members(session, deer)
        ids = [member.detection_id for member in members]
        have = _vectors(session, recipe, ids)
    lacking = ids if again else [key for key in ids if key not in have]
    if lacking:
        result.embedded += embed_detections(site, recipe, lacking, log.debug, step=None).embedded
    digest = table.digest_of(members)
    if not lacking and digest == known_digest:
        result.unchanged += 1
        return
    with site.database.session() as session:
        have = _vectors(session, recipe, ids)
        members = [member for member in members if member.detection_id in have]
        if not members:
            result.without_vectors += 1
            log.warning("individual %s has no picture that can be embedded", name)
            return
        stacked = {branch: np.stack([have[member.detection_id][branch] for member in members]) for branch in BRANCHES}
        chosen = choose_exemplars(
            [member.detection_id for member in members],
            np.concatenate([stacked[branch] for branch in BRANCHES], axis=1),
            [member.viewpoint for member in members],
            [member.by_person for member in members],
        )
        means = {branch: mean_direction(stacked[branch]) for branch in BRANCHES}
        exemplars = [(members[row], have[members[row].detection_id]) for row in chosen]
        table.put_profile(session, deer, recipe.id, digest, len(members), means, exemplars)
        if live:
            table.show_live(session, deer, recipe.id, means)
    result.made += 1


def _vectors(session: Session, recipe: Recipe, ids: list[uuid.UUID]) -> dict[uuid.UUID, dict[str, FloatArray]]:
    """Vectors by detection and branch, of those detections that have all three."""
    found = {branch: get_embeddings(session, recipe.id, branch, ids) for branch in BRANCHES}
    complete = set.intersection(*(set(vectors) for vectors in found.values()))
    return {key: {branch: found[branch][key] for branch in BRANCHES} for key in complete}
