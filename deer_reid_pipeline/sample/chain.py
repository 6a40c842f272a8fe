"""Chains of balls: the one shape that every part of an animal is made of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.sample.noise import Array

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One chain. `points` (n, 3), `radii` (n,), `texture` see `coat`.

    `squash` is thickness across the body over the radius, `blend` how softly it melts into what is there,
    `fade` the share of its length over which its colour takes over from the part below.
    """

    points: Points
    radii: Points
    texture: Array
    squash: float = 0.8
    blend: float = 0.0
    fade: float = 0.0


def dense_curve(points: Points, radii: Points, steps: int) -> tuple[Points, Points]:
    """Catmull-Rom through the points, so that backs and necks have no corners."""
    both = np.column_stack([points, radii])
    padded = np.vstack([2 * both[0] - both[1], both, 2 * both[-1] - both[-2]])
    rows = []
    for i in range(1, len(padded) - 2):
        p0, p1, p2, p3 = padded[i - 1 : i + 3]
        for t in np.arange(steps) / steps:
            rows.append(
                0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2)
                + 0.5 * (3 * p1 - p0 - 3 * p2 + p3) * t**3
            )
    rows.append(both[-1])
    curve = np.array(rows)
    return curve[:, :3], np.maximum(curve[:, 3], 0.002)


def curve(rows: list[tuple[float, float, float, float]], steps: int = 3) -> tuple[Points, Points]:
    table = np.array(rows, np.float64)
    return dense_curve(table[:, :3], table[:, 3], steps)
