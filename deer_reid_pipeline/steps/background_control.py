"""Vectors of the background alone, under a recipe of their own that can never be released.

The control recipe is the recipe it controls with another crop: the surroundings of each animal, the animal blanked. Its
vectors stand beside all others and are made once a detection, so that the next validation finds them.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.fitted import fold_of
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray, VectorSet
from deer_reid_pipeline.steps.crops import box_in_shares, find_picture
from deer_reid_pipeline.steps.drops import in_transaction
from deer_reid_pipeline.steps.fold_models import by_judge, fold_models
from deer_reid_pipeline.steps.images import ascii_line, in_batches
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.drops import places_of
from deer_reid_pipeline.store.media import CropJob, boxes_in, crop_jobs
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.store.vectors import embedded, get_embeddings, put_embeddings
from deer_reid_pipeline.vision.background import BackgroundSpec, cut_background
from deer_reid_pipeline.vision.crops import Pixels, decode_crop, encode_crop
from deer_reid_pipeline.vision.decode import ImageError, decode_image
from deer_reid_pipeline.vision.recipe import Recipe

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

LIMIT = 400
"""Detections whose background is embedded: enough to tell chance from a leak, and half a minute on two cores."""

SHARES = 1 << 30
"""Individuals take part in the order of a hash of their name among this many values."""


@dataclass(frozen=True)
class Control:
    """Background vectors of some labelled detections.

    Attributes:
        labelled: those detections, under the control recipe.
        rim_only: share of them whose picture is a body crop, of which only the rim could be used.
        lost: pictures that could not be read any more.
    """

    labelled: Labelled
    rim_only: float
    lost: int


def control_recipe(recipe: Recipe) -> Recipe:
    """The recipe that embeds only the background of what this one embeds."""
    return recipe.model_copy(update={"name": f"{recipe.name}.background"[:40], "crop": background_spec(recipe).id})


def background_spec(recipe: Recipe) -> BackgroundSpec:
    """Background that is shrunk as the crops are that the recipe reads."""
    return BackgroundSpec(shrinking=recipe.crop_spec.shrinking)


def control_vectors(
    site: Site, recipe: Recipe, labelled: Labelled, *, limit: int = LIMIT, say: LogLine = log.info
) -> Control | None:
    """Background vectors of whole individuals that were met twice or more, up to about `limit` detections.

    With compartments it is as many more as give about as many pairs, since pairs are what is compared. Vectors that
    were made before are used again. None where no picture can be read. Under a fine-tuned recipe the background of an
    individual is embedded by the control of the model that judges the individual: one that was trained on it may know
    its places by heart.

    Raises:
        WeightsError: the recipe's weights are not here.
    """
    compartments = len(np.unique(labelled.compartments[labelled.individual])) if len(labelled) else 1
    chosen = _chosen(labelled, round(limit * compartments**0.5))
    if not chosen.any():
        return None
    keys = [key for key, kept in zip(labelled.keys, chosen, strict=True) if kept and isinstance(key, uuid.UUID)]
    found: dict[str, dict[uuid.UUID, FloatArray]] = {branch: {} for branch in BRANCHES}
    jobs: dict[uuid.UUID, CropJob] = {}
    for judge, members in _by_judge(site, recipe, labelled, keys):
        for branch, made in _vectors(site, judge, members, jobs, say).items():
            found[branch].update(made)
    complete = set.intersection(*(set(made) for made in found.values()))
    if not complete:
        return None
    part = labelled.rows(np.array([key in complete for key in labelled.keys], dtype=bool))
    control = control_recipe(recipe)
    vectors = {
        branch: VectorSet(control.id, branch, np.stack([found[branch][key] for key in part.keys]))  # type: ignore[index]
        for branch in BRANCHES
    }
    rims = sum(_is_body_crop(jobs[key]) for key in part.keys)  # type: ignore[index]
    return Control(replace(part, vectors=vectors, galleries={}), rims / len(part), len(keys) - len(part))


def _by_judge(
    site: Site, recipe: Recipe, labelled: Labelled, keys: Sequence[uuid.UUID]
) -> list[tuple[Recipe, list[uuid.UUID]]]:
    """The recipes whose controls embed these detections, each with its own; those whom nobody judges are left out."""
    with site.database.session() as session:
        models = fold_models(session, recipe.id)
    if models is None:
        return [(recipe, list(keys))]
    members = by_judge(models, labelled, keys)
    return [(recipe if judge == recipe.id else site.stored_recipe(judge), of) for judge, of in members.items()]


def _vectors(
    site: Site, recipe: Recipe, keys: list[uuid.UUID], jobs: dict[uuid.UUID, CropJob], say: LogLine
) -> dict[str, dict[uuid.UUID, FloatArray]]:
    """Background vectors under the control of one recipe, branch by branch; makes those that are not there.

    Args:
        jobs: gets where these detections' pictures are.
    """
    control = control_recipe(recipe)
    with site.database.session() as session:
        register_recipe(session, control.id, control.name, control.to_json(), control.random_weights, recipe.id)
        jobs.update({job.detection_id: job for job in crop_jobs(session, recipe.crop, detections=keys)})
        have = embedded(session, control.id, BRANCHES, keys)
    lacking = [jobs[key] for key in keys if key in jobs and key not in have]
    if lacking:
        say(f"embedding the background of {len(lacking)} detections under {control.id}")
        _embed(site, control, background_spec(recipe), lacking)
    with site.database.session() as session:
        return {branch: get_embeddings(session, control.id, branch, keys) for branch in BRANCHES}


def _chosen(labelled: Labelled, limit: int) -> np.ndarray:
    """Rows of individuals with two encounters or more, whole individuals in an order that stays as data grows."""
    met = np.zeros(labelled.individuals, dtype=np.int64)
    pairs = np.unique(np.stack([labelled.individual, labelled.burst]), axis=1)
    np.add.at(met, pairs[0], 1)
    rows = np.bincount(labelled.individual, minlength=labelled.individuals)
    order = sorted(range(labelled.individuals), key=lambda code: fold_of(labelled.names[code], SHARES, "background"))
    taken = np.zeros(labelled.individuals, dtype=bool)
    total = 0
    for code in order:
        if met[code] >= 2 and total < limit:
            taken[code] = True
            total += int(rows[code])
    return taken[labelled.individual]


def _is_body_crop(job: CropJob) -> bool:
    """Whether the box is nearly the whole picture, so that there are no surroundings."""
    _, _, width, height = job.box
    area = width * height
    window = min(1.0, area * (1 + 2 * BackgroundSpec.margin) ** 2) or 1.0
    return area * (1 + 2 * BackgroundSpec.blanked) ** 2 / window > 1 - BackgroundSpec.least


def _embed(site: Site, control: Recipe, spec: BackgroundSpec, jobs: Sequence[CropJob]) -> None:
    embedder = site.embedder(control)
    done = 0
    for batch in in_batches(jobs, site.settings.batch_size):
        cut = _backgrounds(site, spec, batch)
        if cut:
            keys = list(cut)
            made = embedder.embed([cut[key] for key in keys])
            in_transaction(site.database, lambda session: put_embeddings(session, control.id, keys, made.vectors))  # noqa: B023
        done += len(batch)
        report("background", done, len(jobs))


def _backgrounds(site: Site, spec: BackgroundSpec, jobs: Sequence[CropJob]) -> dict[uuid.UUID, Pixels]:
    """Background pixels by detection; a picture that cannot be read is left out and said."""
    pictures: dict[uuid.UUID, list[CropJob]] = defaultdict(list)
    for job in jobs:
        pictures[job.image_id].append(job)
    with site.database.session() as session:
        places = places_of(session, list(pictures))
        boxes = boxes_in(session, list(pictures))
    result: dict[uuid.UUID, Pixels] = {}
    for image, members in pictures.items():
        known = [members[0].path, *places.get(image, [])]
        path, reason = find_picture(known, members[0].image_sha256)
        if path is None:
            log.warning("no background: %s", ascii_line(f"{Path(known[0]).name}: {reason}"))
            continue
        try:
            pixels = decode_image(path)
            animals = [item.box for item in boxes.get(image, []) if not item.superseded and item.box[2] > 0]
            for job in members:
                box = box_in_shares(job, path)
                if box is not None:
                    # Through JPEG like every crop, so that the control sees what the recipe sees.
                    seen = cut_background(pixels, box, animals, spec).pixels
                    result[job.detection_id] = decode_crop(encode_crop(seen))
        except (ImageError, OSError) as error:
            log.warning("no background: %s", ascii_line(f"{path.name}: {error}"))
    return result
