"""What the checks measure: numbers read back from the store, never from what a step says of itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.reid.similarity import BASELINE, BRANCHES, UNIT_NORM_TOLERANCE
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store import checks as stored
from deer_reid_pipeline.store.columns import live_columns
from deer_reid_pipeline.store.releases import live_release
from deer_reid_pipeline.store.vectors import count_embeddings


@dataclass(frozen=True)
class VectorCheck:
    """Vectors of one branch of a drop: how many, how many detections lack one, how many are not sound."""

    vectors: int
    missing: int
    off_norm: int
    not_finite: int
    digest: str


def check_vectors(site: Site, recipe_id: str, branch: str, drop_key: str) -> VectorCheck:
    """Look at the stored vectors of a drop under a recipe and branch."""
    with site.database.session() as session:
        rows = stored.vectors_of_drop(session, recipe_id, branch, drop_key)
        wanted = stored.cropped_detections(session, drop_key)
    digest = hashlib.sha256()
    off_norm = not_finite = 0
    for key, vector in rows:
        digest.update(key.bytes)
        if not np.all(np.isfinite(vector)):
            not_finite += 1
        elif abs(float(np.linalg.norm(vector)) - 1.0) > UNIT_NORM_TOLERANCE:
            off_norm += 1
    missing = len(wanted - {key for key, _ in rows})
    return VectorCheck(len(rows), missing, off_norm, not_finite, digest.hexdigest()[:16])


def undecided_encounters(site: Site, drop_key: str) -> int:
    """Encounters of a drop without a decision, plus detections with vectors but without an encounter."""
    with site.database.session() as session:
        return stored.undecided(session, drop_key)


def shared_pictures(site: Site, drop_key: str) -> list[str]:
    """Pictures of a drop in which one individual was found twice."""
    with site.database.session() as session:
        return stored.pictures_with_an_individual_twice(session, drop_key)


@dataclass(frozen=True)
class ProfileCheck:
    """The live profiles: how many, which lack a vector, show another version or recipe, or have a wrong norm."""

    individuals: int
    exemplars: int
    without_vectors: list[str]
    wrong_version: list[str]
    off_norm: int
    digest: str


def check_profiles(site: Site) -> ProfileCheck:
    """Look at the vector columns of `deer` and at the profiles of the live recipe.

    Without a live release (a recipe with random weights) the columns are not looked at: nothing may stand there.
    """
    with site.database.session() as session:
        release = live_release(session)
        individuals = stored.individuals_with_sightings(session)
        if release is None:
            return ProfileCheck(individuals, 0, [], [], 0, "no-release")
        rows = live_columns(session, release.recipe_id)
        exemplars = stored.exemplar_count(session, release.recipe_id)
    without = [row.name for row in rows if any(row.vectors[branch] is None for branch in BRANCHES)]
    wrong = [row.name for row in rows if row.version != "v3_ensemble" or row.recipe != release.recipe_id]
    off_norm = 0
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.name.encode())
        for branch in BRANCHES:
            vector = row.vectors[branch]
            if vector is None:
                continue
            if not (branch == BASELINE and row.old_v1):
                off_norm += abs(float(np.linalg.norm(vector)) - 1.0) > UNIT_NORM_TOLERANCE
            digest.update(np.asarray(vector, dtype=np.float32).round(4).tobytes())
    return ProfileCheck(individuals, exemplars, without, wrong, off_norm, digest.hexdigest()[:16])


def vector_counts(site: Site, recipe_id: str) -> dict[str, int]:
    """Number of vectors of each branch under a recipe."""
    with site.database.session() as session:
        return count_embeddings(session, recipe_id)
