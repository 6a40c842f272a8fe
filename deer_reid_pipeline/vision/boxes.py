"""Detected boxes and the arithmetic on them. No torch, no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.vision.decode import Pixels

CATEGORIES = ("animal", "person", "vehicle")
"""MegaDetector's three categories; only 'animal' boxes are deer candidates."""


@dataclass(frozen=True)
class DetectedBox:
    """A box as shares (0 to 1) of the upright picture, x and y its top left corner; confidence 0 to 1."""

    x: float
    y: float
    width: float
    height: float
    confidence: float
    category: str = "animal"

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        return (self.x, self.y, self.width, self.height)


class Detector(Protocol):
    """Finds animals, people and vehicles in one picture.

    `name` goes into the database beside each box. `detect` takes uint8 [h, w, 3] RGB and returns boxes by
    falling confidence, of all `CATEGORIES`: who wants deer keeps the animals.
    """

    @property
    def name(self) -> str: ...

    def detect(self, pixels: Pixels) -> list[DetectedBox]: ...


def iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union, [n, m], of boxes [n, 4] and [m, 4] given as left, top, right, bottom."""
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    return np.where(areas > 0, overlap / np.where(areas > 0, areas, 1), 0.0)


def non_maximum_suppression(corners: NDArray[np.floating], scores: NDArray[np.floating], threshold: float) -> list[int]:
    """Indices of the boxes kept, by falling score: each box drops the later ones whose IoU with it is above
    `threshold`.

    Args:
        corners: [n, 4] left, top, right, bottom; scores: [n]. Equal scores keep their order.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: list[int] = []
    while order.size:
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        order = rest[iou(corners[[best]], corners[rest])[0] <= threshold]
    return kept


def clipped_box(
    left: float, top: float, right: float, bottom: float, confidence: float, category: str
) -> DetectedBox | None:
    """A box cut to the picture (shares of it), or None where nothing of it is left."""
    left, top, right, bottom = (min(1.0, max(0.0, float(value))) for value in (left, top, right, bottom))
    if right - left <= 0 or bottom - top <= 0:
        return None
    return DetectedBox(left, top, right - left, bottom - top, min(1.0, max(0.0, float(confidence))), category)
