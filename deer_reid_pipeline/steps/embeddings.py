"""`resnet50_embeddings`, `multiscale_embeddings`, `efficientnet_embeddings`: vectors of detections, by recipe."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.similarity import BRANCHES, EFFICIENTNET, FIRST_NETWORK
from deer_reid_pipeline.scale_out.stream import embed_on_cluster
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.drops import in_transaction
from deer_reid_pipeline.steps.images import ascii_line, in_batches
from deer_reid_pipeline.steps.site import Site, engine_options
from deer_reid_pipeline.store.media import CropJob, crop_jobs, detections_without_vectors, forget_crops
from deer_reid_pipeline.store.vectors import embedded, put_embeddings
from deer_reid_pipeline.vision.crops import Pixels, decode_crop
from deer_reid_pipeline.vision.decode import ImageError
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.engine.settling import settle
from deer_reid_pipeline.vision.engine.stream import StreamedBatch, embed_jobs
from deer_reid_pipeline.vision.recipe import Recipe

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

CUT_AHEAD = 64
"""Detections whose crops are looked up, and cut where they are missing, at once."""


@dataclass
class EmbeddingReport:
    """Detections embedded now, those without a crop, and vectors and seconds by branch."""

    embedded: int = 0
    without_crop: int = 0
    vectors: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)


def embed_drop(
    site: Site, recipe: Recipe, drop_key: str, say: LogLine = log.info, branches: Sequence[str] = BRANCHES
) -> EmbeddingReport:
    """Embed the detections of a drop that lack vectors of these branches under the recipe."""
    with site.database.session() as session:
        todo = detections_without_vectors(session, recipe.id, branches, drop_key=drop_key)
    return embed_detections(site, recipe, todo, say, branches=branches)


def complete_drop(
    site: Site, recipe: Recipe, drop_key: str, branches: Sequence[str], say: LogLine = log.info
) -> EmbeddingReport:
    """Give the detections of a drop that a fast release embedded the vectors of these branches that they lack.

    What was not embedded at all is left alone.
    """
    with site.database.session() as session:
        todo = detections_without_vectors(session, recipe.id, branches, drop_key=drop_key)
        half = embedded(session, recipe.id, FIRST_NETWORK, todo)
    return embed_detections(site, recipe, [key for key in todo if key in half], say, branches=branches)


def embed_detections(
    site: Site,
    recipe: Recipe,
    todo: Sequence[uuid.UUID],
    say: LogLine = log.info,
    step: str = "embeddings",
    branches: Sequence[str] = BRANCHES,
    again: bool = False,
) -> EmbeddingReport:
    """Embed these detections from their crops, one transaction a batch, so that a killed run loses a batch or two.

    Those that a fast release left without the second network's vector get that one alone.

    Args:
        say: gets one line a batch with the extraction time of each branch.
        step: name for progress reports.
        branches: those to be made.
        again: make all of them, whatever is stored.
    """
    result = EmbeddingReport()
    for some, lacking in _by_lacking(site, recipe, todo, branches, again):
        before = result.embedded
        for batch in _stream(site, recipe, some, lacking, result, say):
            _store_batch(site, recipe, batch, lacking, result, say)
            report(step, result.embedded + result.without_crop, len(todo))
        if result.embedded == before:
            report(step, result.embedded + result.without_crop, len(todo))
    return result


def _by_lacking(
    site: Site, recipe: Recipe, todo: Sequence[uuid.UUID], branches: Sequence[str], again: bool
) -> Iterator[tuple[list[uuid.UUID], Sequence[str]]]:
    """The detections that need all the branches, then those that lack the second network's alone."""
    half: set[uuid.UUID] = set()
    if not again and EFFICIENTNET in branches and len(branches) > 1:
        with site.database.session() as session:
            half = embedded(session, recipe.id, FIRST_NETWORK, todo)
    for some, lacking in (
        ([key for key in todo if key not in half], branches),
        ([key for key in todo if key in half], (EFFICIENTNET,)),
    ):
        if some:
            yield some, lacking


def _stream(
    site: Site,
    recipe: Recipe,
    todo: Sequence[uuid.UUID],
    branches: Sequence[str],
    result: EmbeddingReport,
    say: LogLine,
) -> Iterator[StreamedBatch[uuid.UUID]]:
    """Vectors of the crops by the engine of the settings; no more than a batch is not worth starting workers for."""
    settings, options = site.settings, engine_options(site.settings)
    size, jobs = settings.batch_size, _jobs(site, recipe, todo, result)
    if settings.engine == "ray" and len(todo) > size:
        return embed_on_cluster(recipe, site.weights, jobs, size, settings.device, options, say, branches)
    embedder = site.embedder(recipe)
    settle(embedder, settings.models_dir, options, len(todo), say)
    if embedder.device.type == "cuda":
        size = max(size, embedder.limit.crops)
    return embed_jobs(embedder.only(branches), jobs, size)


def _jobs(site: Site, recipe: Recipe, todo: Sequence[uuid.UUID], result: EmbeddingReport) -> Iterator[Job[uuid.UUID]]:
    """The stored crop of every detection; those that have none are counted in `result`."""
    for batch in in_batches(todo, CUT_AHEAD):
        store_crops_quietly(site, recipe, batch)
        with site.database.session() as session:
            found = {job.detection_id: job for job in crop_jobs(session, recipe.crop, detections=batch)}
        for key in batch:
            job = found.get(key)
            if job is None or job.crop_file is None:
                result.without_crop += 1
            else:
                yield Job(key, site.settings.crops_dir / job.crop_file, sha256=job.crop_sha256 or "")


def _store_batch(
    site: Site,
    recipe: Recipe,
    batch: StreamedBatch[uuid.UUID],
    branches: Sequence[str],
    result: EmbeddingReport,
    say: LogLine,
) -> None:
    """Store the vectors of a batch; crops of it that cannot be used are cut again, once."""
    made = [(batch.keys, batch.made)]
    if batch.failed:
        again, crops = load_crops(site, recipe, [key for key, _ in batch.failed])
        result.without_crop += len(batch.failed) - len(again)
        made.append((again, site.embedder(recipe).only(branches).embed(crops)))

    def store(session: Session) -> None:
        for ids, each in made:
            put_embeddings(session, recipe.id, ids, each.vectors)

    in_transaction(site.database, store)
    count = sum(len(ids) for ids, _ in made)
    seconds = sum((Counter(each.branch_seconds) for _, each in made), Counter[str]())
    result.embedded += count
    result.vectors.update(dict.fromkeys(branches, count))
    result.seconds.update(seconds)
    times = ", ".join(f"{branch} {1000 * seconds[branch]:.0f} ms" for branch in branches)
    say(f"embedded {count} crops: {times} (branches that share a backbone each count its one pass)")


def load_crops(site: Site, recipe: Recipe, batch: Sequence[uuid.UUID]) -> tuple[list[uuid.UUID], list[Pixels]]:
    """The crops of a batch as a recipe reads them; those that are not there are cut. Detections without one are left
    out.

    A crop file that is not what was written is cut again, once.
    """
    found = _read(site, recipe, batch)
    damaged = [key for key, pixels in found.items() if pixels is None]
    if damaged:
        with site.database.session() as session:
            forget_crops(session, recipe.crop, damaged)
        found.update(_read(site, recipe, damaged))
    good = {key: pixels for key in batch if (pixels := found.get(key)) is not None}
    return list(good), list(good.values())


def _read(site: Site, recipe: Recipe, batch: Sequence[uuid.UUID]) -> dict[uuid.UUID, Pixels | None]:
    """Crops by detection; None where the file is not what was written, no entry where there is no crop."""
    store_crops_quietly(site, recipe, batch)
    with site.database.session() as session:
        jobs = crop_jobs(session, recipe.crop, detections=batch)
    return {job.detection_id: _pixels(site, job) for job in jobs if job.crop_file is not None}


def _pixels(site: Site, job: CropJob) -> Pixels | None:
    assert job.crop_file is not None
    try:
        content = (site.settings.crops_dir / job.crop_file).read_bytes()
        if hashlib.sha256(content).hexdigest() == job.crop_sha256:
            return decode_crop(content)
        reason = "it is not the file that was written"
    except (ImageError, OSError) as error:
        reason = str(error)
    log.warning("crop %s cannot be used: %s", job.crop_file, ascii_line(reason))
    return None


def store_crops_quietly(site: Site, recipe: Recipe, batch: Sequence[uuid.UUID]) -> None:
    """Make sure that the crops of a batch are on disk; what cannot be cut is found missing afterwards."""
    for line in store_crops(site, detections=batch, spec=recipe.crop_spec).lost:
        log.warning("no crop: %s", line)
