"""Deterministic identifiers: a run that is repeated after a crash makes the same rows, not more rows."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

_NAMESPACE = uuid.UUID("5f1f4b1e-3a0c-5c39-9a35-8f3f5f6f2d10")


def _make(kind: str, *parts: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, "\x1f".join((kind, *parts)))


def image_id(sha256: str) -> uuid.UUID:
    """Id of the picture with this content."""
    return _make("image", sha256)


def detection_id(image: uuid.UUID, box: Sequence[float]) -> uuid.UUID:
    """Id of a box (x, y, width, height; shares of the picture) in a picture, equal to 4 decimals."""
    return _make("detection", str(image), *(f"{round(value * 10_000):d}" for value in box))


def encounter_id(drop_key: str, detections: Sequence[uuid.UUID]) -> uuid.UUID:
    """Id of the encounter of a drop made of these detections."""
    return _make("encounter", drop_key, *sorted(str(item) for item in detections))


def named_deer_id(name: str) -> uuid.UUID:
    """Id of an individual that a person named."""
    return _make("deer-named", name)


def opened_deer_id(encounter: uuid.UUID) -> uuid.UUID:
    """Id of an individual that the matcher opened for this encounter."""
    return _make("deer-opened", str(encounter))
