"""Pairs of crops that the matcher got most wrong, as thumbnails for the report."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.thumbnails import GONE, Thumbnail, thumbnails

DETAILS = ("light", "sex", "camera")
"""Strata named in a caption, beside the viewpoint."""

ScoredPair = tuple[int, int, float]
"""Two rows of `Labelled` and their similarity."""


@dataclass(frozen=True)
class Shot:
    """One picture of a pair.

    Attributes:
        name: the animal that it shows, as a person said.
        image: the thumbnail as a data URI; "" where it cannot be shown.
        missing: why it cannot be shown.
        details: flank, light, camera, as far as they are known.
    """

    name: str
    file: str
    details: str
    image: str = ""
    missing: str = ""


@dataclass(frozen=True)
class PicturePair:
    """Two pictures and the similarity that the matcher gave them."""

    left: Shot
    right: Shot
    score: float


def picture_pairs(site: Site, labelled: Labelled, pairs: Sequence[ScoredPair]) -> tuple[PicturePair, ...]:
    """Thumbnails and captions of these pairs. A crop whose file is gone becomes a pair member without picture."""
    rows = sorted({row for first, second, _ in pairs for row in (first, second)})
    keys = {row: key for row in rows if isinstance(key := labelled.keys[row], uuid.UUID)}
    with site.database.session() as session:
        pictures = thumbnails(site, session, keys.values())
    shots = {row: _shot(labelled, row, pictures[keys[row]] if row in keys else GONE) for row in rows}
    return tuple(PicturePair(shots[first], shots[second], score) for first, second, score in pairs)


def _shot(labelled: Labelled, row: int, picture: Thumbnail) -> Shot:
    known = [labelled.viewpoints[row], *(labelled.strata[name][row] for name in DETAILS if name in labelled.strata)]
    name = labelled.names[int(labelled.individual[row])]
    details = ", ".join(dict.fromkeys(str(value) for value in known if value))
    return Shot(name, picture.file, details, picture.image, picture.missing)
