"""`resnet50_embeddings`, `multiscale_embeddings`, `efficientnet_embeddings`: vectors of detections, by recipe."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.steps.crops import SPEC, store_crops
from deer_reid_pipeline.steps.images import in_batches
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.media import crop_jobs, detections_without_vectors
from deer_reid_pipeline.store.vectors import put_embeddings
from deer_reid_pipeline.vision.crops import Pixels, decode_crop
from deer_reid_pipeline.vision.decode import ImageError
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.recipe import Recipe

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)


@dataclass
class EmbeddingReport:
    """Detections embedded now, those without a crop, and seconds by branch."""

    embedded: int = 0
    without_crop: int = 0
    seconds: Counter[str] = field(default_factory=Counter)


def embed_drop(site: Site, recipe: Recipe, drop_key: str, say: LogLine = log.info) -> EmbeddingReport:
    """Embed the detections of a drop that lack vectors under the recipe."""
    with site.database.session() as session:
        todo = detections_without_vectors(session, recipe.id, BRANCHES, drop_key=drop_key)
    return embed_detections(site, recipe, todo, say)


def embed_detections(
    site: Site,
    recipe: Recipe,
    todo: Sequence[uuid.UUID],
    say: LogLine = log.info,
    step: str | None = "embeddings",
) -> EmbeddingReport:
    """Embed these detections from their crops, one transaction a batch, so that a killed run loses one batch.

    Args:
        say: gets one line a batch with the extraction time of each branch.
        step: name for progress reports; None reports nothing.
    """
    result = EmbeddingReport()
    if not todo:
        return result
    embedder = site.embedder(recipe)
    for batch in in_batches(todo, site.settings.batch_size):
        ids, crops = _load(site, batch)
        result.without_crop += len(batch) - len(ids)
        if ids:
            _embed_batch(site, recipe, embedder, ids, crops, result, say)
        if step is not None:
            report(step, result.embedded + result.without_crop, len(todo))
    return result


def _embed_batch(
    site: Site,
    recipe: Recipe,
    embedder: Embedder,
    ids: list[uuid.UUID],
    crops: list[Pixels],
    result: EmbeddingReport,
    say: LogLine,
) -> None:
    made = embedder.embed(crops)
    with site.database.session() as session:
        put_embeddings(session, recipe.id, ids, made.vectors)
    result.embedded += len(ids)
    result.seconds.update(made.branch_seconds)
    times = ", ".join(f"{branch} {1000 * made.branch_seconds[branch]:.0f} ms" for branch in BRANCHES)
    say(f"embedded {len(ids)} crops: {times} (branches that share a backbone each count its one pass)")


def _load(site: Site, batch: Sequence[uuid.UUID]) -> tuple[list[uuid.UUID], list[Pixels]]:
    """Read the crops of a batch, cutting those that are not there; detections without one are left out."""
    store_crops_quietly(site, batch)
    with site.database.session() as session:
        jobs = crop_jobs(session, SPEC.id, detections=batch)
    by_id = {job.detection_id: job for job in jobs}
    ids: list[uuid.UUID] = []
    crops: list[Pixels] = []
    for key in batch:
        job = by_id.get(key)
        if job is None or job.crop_file is None:
            continue
        try:
            crops.append(decode_crop(Path(site.settings.crops_dir / job.crop_file)))
        except (ImageError, OSError) as error:
            log.warning("crop %s cannot be read: %s", job.crop_file, error)
            continue
        ids.append(key)
    return ids, crops


def store_crops_quietly(site: Site, batch: Sequence[uuid.UUID]) -> None:
    """Make sure that the crops of a batch are on disk; what cannot be cut is found missing afterwards."""
    for name in store_crops(site, detections=batch).lost:
        log.warning("no crop: %s", name)
