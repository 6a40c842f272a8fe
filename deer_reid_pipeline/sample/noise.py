"""Smooth random textures, made from small random grids that Pillow enlarges.

Everything drawn takes its randomness from `generator`, so that one seed and one path of integers name one
stream whatever else is drawn before it.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]


def generator(*path: int) -> np.random.Generator:
    """A random stream named by non-negative integers (seed first)."""
    return np.random.default_rng([int(part) for part in path])


def resized(plane: Array, size: tuple[int, int]) -> Array:
    """One float plane (h, w) enlarged or reduced smoothly to `size` = (width, height)."""
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.array(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)


def value_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Smooth noise of `size` = (width, height) with `cells` (columns, rows) bumps, values -1..1 or so."""
    columns, rows = max(2, cells[0]), max(2, cells[1])
    grid = rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)
    return resized(grid, size)


def fbm(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int], octaves: int = 4) -> Array:
    """Fractal noise: octaves of value noise, each twice as fine and 0.55 as strong; values around -1..1."""
    total = np.zeros((size[1], size[0]), np.float32)
    gain = 1.0
    for octave in range(octaves):
        columns, rows = cells[0] << octave, cells[1] << octave
        if columns > size[0] and rows > size[1]:
            break
        total += gain * value_noise(rng, size, (min(columns, size[0]), min(rows, size[1])))
        gain *= 0.55
    return total / np.float32(1.6)


def smoothstep(low: float, high: float, values: NDArray[np.floating]) -> Array:
    """0 below `low`, 1 above `high`, smooth between (low < high)."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return (t * t * (3.0 - 2.0 * t)).astype(np.float32)
