"""Vectors of a folder's detections as a Parquet file: no database, nothing stored."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.ingest import BoxRecord, MediaRecord, read_drop, seal_drop
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.detections import asks_detector, detect_boxes
from deer_reid_pipeline.steps.site import connect_site, engine_options
from deer_reid_pipeline.store.drops import QuarantineRow
from deer_reid_pipeline.vision.catalog import RECIPE_NAMES, build_recipe
from deer_reid_pipeline.vision.crops import CropSpec, cut_crops, decode_crop
from deer_reid_pipeline.vision.decode import ImageError, inspect_image
from deer_reid_pipeline.vision.detectors import Detector, open_detector
from deer_reid_pipeline.vision.engine.settling import settle
from deer_reid_pipeline.vision.engine.stream import Loaded, embed_stream
from deer_reid_pipeline.vision.pool import get_embedder
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore

_Found = tuple[str, BoxRecord]
"""A detection: its picture's name in the drop, and its box."""

_VECTOR = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("filePath", pa.string()),
        ("bboxX", pa.float64()),
        ("bboxY", pa.float64()),
        ("bboxWidth", pa.float64()),
        ("bboxHeight", pa.float64()),
        ("individualID", pa.string()),
        ("viewpoint", pa.string()),
        ("recipe", pa.string()),
        ("multiscale", _VECTOR),
        ("efficientnet", _VECTOR),
        ("baseline", _VECTOR),
    ]
)


@dataclass
class EmbedResult:
    """Rows written, the recipe, and what was quarantined."""

    recipe: str
    rows: int = 0
    quarantined: list[QuarantineRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def embed_folder(
    settings: Settings, folder: Path, output: Path, recipe_name: str | None, detector_name: str
) -> EmbedResult:
    """Embed every detection of a folder into a Parquet file, batch by batch in bounded memory.

    Args:
        recipe_name: a built-in recipe, which needs no database, or the name or id of one that this home has stored.

    Raises:
        DropError: the folder has no usable picture.
        WeightsError: the recipe lacks its weights.
        DatabaseError: no such recipe is stored, or the database cannot be used.
        DeerReidError: there is neither such a built-in recipe nor a database, or the file cannot be written.
    """
    store = WeightStore(
        settings.weight_search_dirs,
        settings.models_dir,
        offline=settings.offline,
        allow_random=settings.allow_random_weights,
    )
    recipe = _recipe(settings, store, recipe_name)
    sealed = seal_drop(folder, progress=lambda done, total: report("sealing", done, total))
    contents = read_drop(sealed, min_confidence=settings.min_confidence)
    result = EmbedResult(recipe.id, warnings=list(contents.warnings))
    result.quarantined += [QuarantineRow(e.file, e.code, e.reason) for e in contents.quarantined]
    detector = None
    if any(_asks(media, detector_name) for media in contents.media):
        detector = open_detector(detector_name, settings.weight_search_dirs)
    asked = _Asked(sealed.root, detector_name, detector)
    options = engine_options(settings)
    embedder = get_embedder(recipe, store, settings.device, options)
    settle(embedder, settings.models_dir, options, sum(len(m.boxes or (0,)) for m in contents.media))
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(part, SCHEMA) as writer:
            load = partial(_crops, settings, recipe.crop_spec, asked)
            for batch in embed_stream(embedder, contents.media, load, settings.batch_size):
                result.quarantined += [key for key, _ in batch.failed if isinstance(key, QuarantineRow)]
                found = [key for key in batch.keys if not isinstance(key, QuarantineRow)]
                if found:
                    _write(writer, recipe.id, batch.made.vectors, found)
                result.rows += len(found)
                report("embedding", batch.taken, len(contents.media))
        part.replace(output)
    except OSError as error:
        raise DeerReidError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return result


def _recipe(settings: Settings, store: WeightStore, name: str | None) -> Recipe:
    """The recipe that was asked for; else the live release's, so that the vectors can be compared with stored ones.

    In a new home that is the built-in one that its first release will have.
    """
    new_home = settings.database_url is None and not (settings.home / "postgres").exists()
    if name in RECIPE_NAMES or (name is None and new_home):
        return build_recipe(name or settings.recipe, store)
    if new_home:
        raise DeerReidError(
            f"unknown recipe {name}: built in are {', '.join(RECIPE_NAMES)}, and the home {settings.home} has no "
            "database with others"
        )
    site = connect_site(settings)
    return site.matcher().recipe if name is None else site.recipe(name)


@dataclass(frozen=True)
class _Asked:
    """Where the pictures are, and the detector that was asked for."""

    root: Path
    name: str
    detector: Detector | None


def _crops(settings: Settings, spec: CropSpec, asked: _Asked, media: MediaRecord) -> Loaded[_Found | QuarantineRow]:
    """The crop of every detection of a picture, those that `process` would store; or why the picture has none."""
    path = asked.root / media.file_path
    try:
        inspect_image(path)
        boxes = list(media.boxes or ())
        if asked.detector is not None and _asks(media, asked.name):
            boxes = detect_boxes(asked.detector, path, settings.min_confidence)
        if not boxes:
            return []
        crops = cut_crops(path, [(box.x, box.y, box.width, box.height) for box in boxes], spec)
        return [((media.file_path, box), decode_crop(content)) for box, content in zip(boxes, crops, strict=True)]
    except ImageError as error:
        return [(QuarantineRow(media.file_path, error.code, str(error)), error)]
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return [(QuarantineRow(media.file_path, "unreadable", reason), error)]


def _asks(media: MediaRecord, detector_name: str) -> bool:
    boxes = None if media.boxes is None else [box.to_json() for box in media.boxes]
    return asks_detector(boxes, detector_name)


def _write(
    writer: pq.ParquetWriter,
    recipe_id: str,
    vectors: Mapping[str, FloatArray],
    found: Sequence[_Found],
) -> None:
    boxes = [box for _, box in found]
    writer.write_table(
        pa.table(
            {
                "filePath": [name for name, _ in found],
                "bboxX": [box.x for box in boxes],
                "bboxY": [box.y for box in boxes],
                "bboxWidth": [box.width for box in boxes],
                "bboxHeight": [box.height for box in boxes],
                "individualID": [box.individual_id for box in boxes],
                "viewpoint": [box.viewpoint for box in boxes],
                "recipe": [recipe_id] * len(boxes),
                **{branch: list(vectors[branch]) for branch in ("multiscale", "efficientnet", "baseline")},
            },
            schema=SCHEMA,
        )
    )
