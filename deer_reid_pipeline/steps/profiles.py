"""`deer_profiles`: exemplars and mean directions of every individual, and the owner's vector columns."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.exemplars import choose_exemplars, mean_direction
from deer_reid_pipeline.reid.similarity import BRANCHES, FIRST_NETWORK, FloatArray
from deer_reid_pipeline.steps.embeddings import embed_detections
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import named_detections
from deer_reid_pipeline.store import columns
from deer_reid_pipeline.store import profiles as table
from deer_reid_pipeline.store.media import detections_without_vectors
from deer_reid_pipeline.store.releases import live_release
from deer_reid_pipeline.store.vectors import embedded, get_embeddings
from deer_reid_pipeline.vision.recipe import Recipe

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

LOG_EVERY = 10

STEP = "re-embedding"
"""Name of what is embedded here in progress reports."""

COLUMNS_BATCH = 50
"""Individuals whose columns follow a promotion in one transaction: a tenth of a second with three HNSW indexes."""


@dataclass
class ProfileReport:
    """Profiles made now, those that were up to date, detections embedded on the way, and what could not be."""

    made: int = 0
    unchanged: int = 0
    embedded: int = 0
    without_vectors: int = 0
    seconds: float = 0.0


def update_profiles(
    site: Site,
    recipe: Recipe,
    say: LogLine = log.info,
    *,
    again: bool = False,
    backlog: bool = False,
    branches: Sequence[str] = BRANCHES,
) -> ProfileReport:
    """Bring every individual's profile under a recipe up to date, after embedding detections that lack vectors.

    What is embedded is one stream (and another where fast mode left something out), so that a measurement pays and a
    cluster is started once; one transaction a batch, then one an individual. A profile whose detections did not change
    is left alone, so a killed run goes on where it was. The owner's columns follow when the recipe is the live one.

    Args:
        again: make every vector and profile again, of all branches.
        backlog: embed detections without an individual too, after the others.
        branches: those that every detection needs; what stands for an individual gets all.
    """
    result = ProfileReport()
    started = time.perf_counter()
    show_live_columns(site, say)
    with site.database.session() as session:
        individuals = table.individuals_with_sightings(session)
        table.remove_empty_profiles(session)
        if again:
            table.outdate_profiles(session, recipe.id)
        branches = BRANCHES if again else branches
        todo = detections_without_vectors(session, recipe.id, branches, all_again=again, assigned_only=not backlog)
    result.embedded = embed_detections(site, recipe, todo, say, STEP, branches, again).embedded
    result.embedded += embed_detections(site, recipe, lacking_second(site, recipe.id), say, STEP).embedded
    for position, (deer, name) in enumerate(individuals, start=1):
        with site.database.session() as session:
            outcome = refresh_profile(session, recipe.id, deer, again=again)
        if outcome is None:
            result.without_vectors += 1
            log.warning("individual %s has no picture that can be embedded", ascii(name))
        elif outcome:
            result.made += 1
        else:
            result.unchanged += 1
        if position % LOG_EVERY == 0 or position == len(individuals):
            share = 100 * position / len(individuals)
            say(f"profiles: {position} of {len(individuals)} ({share:.0f} %), {result.made} made")
        report("profiles", position, len(individuals))
    result.seconds = time.perf_counter() - started
    say(
        f"profiles done: {result.embedded} detections embedded, {result.made} profiles made, {result.unchanged} "
        f"unchanged, {result.seconds:.1f} s in total"
    )
    return result


def refresh_stale(session: Session, recipe_id: str) -> int:
    """Make those profiles again whose detections changed, from stored vectors, in the caller's transaction.

    Matching calls it first, so that a run which was killed between deciding and profiling, or another drop decided
    meanwhile, is seen. Its transaction may take an hour: it never asks what is live, which a promotion would have to
    wait for, and leaves the columns of `deer` to the next refresh. Returns how many were made.
    """
    table.remove_empty_profiles(session)
    stale = table.stale_profiles(session, recipe_id, live=False)
    return sum(bool(refresh_profile(session, recipe_id, deer, show=False)) for deer in stale)


def embed_unknown(site: Site, recipe: Recipe, say: LogLine = log.info) -> list[uuid.UUID]:
    """Embed individuals that were opened under another release and that the recipe does not know yet.

    Matching calls it before it begins, so that nobody is opened a second time after a promotion or a rollback.
    Returns who they were; one without a readable crop stays unknown.
    """
    with site.database.session() as session:
        unknown = table.unknown_under(session, recipe.id)
        todo = table.detections_of(session, unknown)
    if unknown:
        say(f"{len(unknown)} individuals were opened under another release: embedding them under {recipe.id}")
        embed_detections(site, recipe, todo, say, STEP)
    return unknown


def embed_lacking(site: Site, recipe: Recipe, say: LogLine = log.info) -> list[uuid.UUID]:
    """Embed what individuals were seen in and the recipe has no vectors of, as while it was not in use.

    Returns these detections; one without a readable crop stays without vectors.
    """
    with site.database.session() as session:
        lacking = table.detections_lacking(session, recipe.id)
    if lacking:
        say(f"{len(lacking)} pictures of individuals have no vectors under {recipe.id}: embedding them")
        embed_detections(site, recipe, lacking, say, STEP)
    return lacking


def embed_evidence(site: Site, recipe: Recipe, say: LogLine = log.info) -> list[uuid.UUID]:
    """Give what stands for individuals the second network's vector, which fast mode leaves out at first.

    Matching calls it before it begins, so that nobody whose run was killed is opened a second time, and at its end.
    Returns the detections that lacked one; one without a readable crop stays as it is.
    """
    with site.database.session() as session:
        lacking = table.evidence_lacking(session, recipe.id)
    embed_detections(site, recipe, lacking, say, STEP)
    return lacking


def lacking_second(site: Site, recipe_id: str) -> list[uuid.UUID]:
    """Detections that have the first network's vectors only, as fast mode leaves them, and need all: those that stand
    for individuals, and those that people named, also by comparing pictures, since all branches are judged on them."""
    named = named_detections(site)
    with site.database.session() as session:
        first = embedded(session, recipe_id, FIRST_NETWORK, named)
        lacking = first - embedded(session, recipe_id, BRANCHES, named)
        return sorted(lacking.union(table.evidence_lacking(session, recipe_id)), key=str)


def show_live_columns(site: Site, say: LogLine = log.info) -> int:
    """Let the columns of `deer` show the live release where they do not, a batch a transaction; returns of how many.

    What a promotion did not do in its own transaction, or a kill left over. Individuals that a drop in progress is
    changing are left for the next time.
    """
    done = 0
    with site.database.session() as session:
        release = live_release(session)
        due = [] if release is None else columns.columns_due(session, release.recipe_id)
    for start in range(0, len(due), COLUMNS_BATCH):
        with site.database.session() as session:
            now = live_release(session, keep=True)
            if release is None or now is None or now.recipe_id != release.recipe_id:
                break  # another promotion, whose columns are its own affair
            done += columns.show_columns(session, release.recipe_id, due[start : start + COLUMNS_BATCH])
        report("columns", min(start + COLUMNS_BATCH, len(due)), len(due))
    if done:
        say(f"the columns of {done} individuals show the live release")
    return done


def refresh_profile(
    session: Session, recipe_id: str, deer: uuid.UUID, *, again: bool = False, show: bool = True
) -> bool | None:
    """Make one profile from stored vectors if its detections changed.

    The individual is locked and its detections are read inside the caller's transaction, and whether the recipe is
    live is asked there too, so that neither another run nor a promotion in between is overwritten.

    Args:
        show: let the columns of `deer` follow where the recipe is live; no other release becomes live before the
            transaction ends. Otherwise they are only noted as being behind.

    Returns:
        Whether it was made; None where no detection has vectors.
    """
    table.lock_deer(session, deer)
    members = table.members(session, recipe_id, deer).get(deer, [])
    standing = [member for member in table.standing_for(members) if member.complete]
    have = _vectors(session, recipe_id, [member.detection_id for member in standing])
    standing = [member for member in standing if member.detection_id in have]
    if not standing:
        return None
    live = show and _is_live(session, recipe_id)
    if not again and deer not in table.stale_profiles(session, recipe_id, live=live, deer=deer):
        return False
    stacked = {branch: np.stack([have[member.detection_id][branch] for member in standing]) for branch in BRANCHES}
    chosen = choose_exemplars(
        [member.detection_id for member in standing],
        np.concatenate([stacked[branch] for branch in BRANCHES], axis=1),
        [member.viewpoint for member in standing],
        [member.by_person for member in standing],
    )
    means = {branch: mean_direction(stacked[branch]) for branch in BRANCHES}
    exemplars = [(standing[row], have[standing[row].detection_id]) for row in chosen]
    table.put_profile(session, deer, recipe_id, table.digest_of(members), len(members), means, exemplars)
    if live:
        columns.show_live(session, deer, recipe_id, means)
    elif not show:
        columns.show_again(session, deer)
    return True


def _is_live(session: Session, recipe_id: str) -> bool:
    release = live_release(session, keep=True)
    return release is not None and release.recipe_id == recipe_id


def _vectors(session: Session, recipe_id: str, ids: list[uuid.UUID]) -> dict[uuid.UUID, dict[str, FloatArray]]:
    """Vectors by detection and branch, of those detections that have all three."""
    found = {branch: get_embeddings(session, recipe_id, branch, ids) for branch in BRANCHES}
    complete = set.intersection(*(set(vectors) for vectors in found.values()))
    return {key: {branch: found[branch][key] for branch in BRANCHES} for key in complete}
