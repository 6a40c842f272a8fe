"""Coats: textures that are wrapped round the parts of an animal.

A texture is (rows, columns, 3) float32, 0..1 RGB reflectance in daylight. Columns run along the part (rump to
chest, shoulder to hoof, poll to nose), rows run round its visible side (spine to belly, front to back of a
leg). Left and right flank are drawn from two streams: as in real deer, one is not the mirror image of the
other.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deer_reid_pipeline.sample.individual import Individual
from deer_reid_pipeline.sample.noise import Array, fbm, generator, smoothstep, value_noise

Flank = Literal["left", "right"]
WIDTH, HEIGHT = 720, 360
WHITE = np.array([0.88, 0.83, 0.74], np.float32)
DARK = np.array([0.10, 0.075, 0.06], np.float32)


def _mix(base: Array, colour: Array, weight: NDArray[np.floating]) -> Array:
    return (base + (colour - base) * weight[..., None]).astype(np.float32)


def _grid(width: int, height: int) -> tuple[Array, Array]:
    across = np.linspace(0.0, 1.0, width, dtype=np.float32)[None, :]
    down = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    return np.broadcast_to(across, (height, width)), np.broadcast_to(down, (height, width))


def _fur(rng: np.random.Generator, width: int, height: int) -> Array:
    """Short hairs lying along the part, as a multiplier around 1."""
    coarse = value_noise(rng, (width, height), (width // 22, height // 4))
    fine = value_noise(rng, (width, height), (width // 7, height // 2))
    return (1.0 + 0.085 * coarse + 0.10 * fine).astype(np.float32)


def _marks(animal: Individual, rng: np.random.Generator) -> Array:
    """The white marks of one flank as a weight (HEIGHT, WIDTH) in 0..1."""
    image = Image.new("L", (WIDTH, HEIGHT), 0)
    draw = ImageDraw.Draw(image)

    def spot(u: float, row: float, along: float, across: float, strength: float) -> None:
        x, y = u * WIDTH, row * HEIGHT
        box = (x - along * WIDTH, y - across * HEIGHT, x + along * WIDTH, y + across * HEIGHT)
        draw.ellipse(box, fill=int(255 * strength))

    size, density = 0.0125 * animal.spot_size, animal.spot_density
    if animal.pattern in ("rows", "broken_stripes"):
        rows = int(rng.integers(5, 7))
        for number in range(rows):
            base = 0.14 + number * 0.50 / rows + rng.uniform(-0.012, 0.012)
            bend, u = rng.uniform(-0.05, 0.05), 0.05 + rng.uniform(0, 0.05)
            while u < 0.90:
                row = base + bend * np.sin(u * 3.1) + rng.uniform(-0.018, 0.018)
                along, across = size * rng.uniform(0.75, 1.35), size * rng.uniform(1.5, 2.5)
                if animal.pattern == "broken_stripes":
                    along *= rng.uniform(1.4, 4.2)
                    across *= 0.75
                if rng.random() < 0.90:
                    spot(u, row, along, across, rng.uniform(0.72, 1.0))
                u += 2.0 * along + rng.uniform(0.016, 0.055) / density
    elif animal.pattern == "scatter":
        for _ in range(int(100 * density)):
            row = 0.13 + 0.52 * rng.random() ** 1.1
            grow = rng.uniform(0.55, 1.3)
            spot(rng.uniform(0.04, 0.92), row, size * grow, size * grow * 2.0, rng.uniform(0.65, 1.0))
    else:
        for _ in range(int(17 * density)):
            u, row = rng.uniform(0.05, 0.90), rng.uniform(0.16, 0.60)
            for _ in range(int(rng.integers(2, 6))):
                grow = rng.uniform(0.8, 1.9)
                spot(u + rng.normal(0, 0.02), row + rng.normal(0, 0.035), size * grow, size * grow * 2.0, 0.95)
    # The pale line that many fallow deer carry low on the flank, whole or broken.
    if rng.random() < 0.6:
        start, stop, row = rng.uniform(0.15, 0.4), rng.uniform(0.6, 0.85), rng.uniform(0.66, 0.71)
        xs = np.linspace(start, stop, 24)
        line = [(x * WIDTH, (row + 0.02 * np.sin(9 * x)) * HEIGHT) for x in xs]
        draw.line(line, fill=200, width=int(rng.integers(4, 9)))
    weight = np.asarray(image.filter(ImageFilter.GaussianBlur(2.2)), np.float32) / 255.0
    ragged = value_noise(rng, (WIDTH, HEIGHT), (WIDTH // 5, HEIGHT // 3))
    return np.clip(smoothstep(0.2, 0.75, weight + 0.20 * ragged * (weight > 0.03)), 0.0, 1.0)


def _scars(count: int, rng: np.random.Generator) -> Array:
    image = Image.new("L", (WIDTH, HEIGHT), 0)
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        x, y, angle = rng.uniform(0.2, 0.75), rng.uniform(0.25, 0.55), rng.uniform(0, np.pi)
        steps = np.linspace(-0.06, 0.06, 7)
        points = [
            ((x + s * np.cos(angle)) * WIDTH, (y + 2 * s * np.sin(angle) + rng.uniform(-0.01, 0.01)) * HEIGHT)
            for s in steps
        ]
        draw.line(points, fill=255, width=int(rng.integers(4, 8)), joint="curve")
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1.4)), np.float32) / 255.0


# Three megabytes a flank: enough for a small herd, bounded for a large one.
@lru_cache(maxsize=24)
def torso_coat(animal: Individual, flank: Flank) -> Array:
    """One flank: columns rump to chest, rows spine to belly, (360, 720, 3)."""
    rng = generator(*animal.key, 21, 0 if flank == "left" else 1)
    u, row = _grid(WIDTH, HEIGHT)
    tone = np.array(animal.tone, np.float32)
    mottle = fbm(rng, (WIDTH, HEIGHT), (7, 4), 4)
    coat = np.broadcast_to(tone, (HEIGHT, WIDTH, 3)) * (1.0 + 0.13 * mottle)[..., None]
    coat = _mix(coat, tone * 1.22 + 0.03, 0.75 * smoothstep(0.35, 0.72, row + 0.05 * mottle))
    coat = _mix(coat, tone * 0.42, 0.85 * (1.0 - smoothstep(0.055, 0.12, row + 0.02 * mottle)))
    coat = _mix(coat, WHITE, _marks(animal, rng) * animal.spot_strength)
    coat = _mix(coat, tone * 0.35, 0.85 * _scars(animal.scars[0 if flank == "left" else 1], rng))
    belly = smoothstep(animal.belly - 0.05, animal.belly + 0.08, row + 0.05 * mottle)
    coat = _mix(coat, WHITE * 0.94, belly * (1.0 - 0.6 * smoothstep(0.80, 0.97, u)))
    # The white rump patch with its dark rim.
    edge = u + 0.02 * mottle - 0.055 * np.clip(1.0 - np.abs(row - 0.5) * 2.4, 0.0, 1.0)
    coat = _mix(coat, DARK, 0.8 * (1.0 - smoothstep(0.012, 0.03, edge)) * (row < 0.72))
    coat = _mix(coat, WHITE, 1.0 - smoothstep(-0.008, 0.006, edge))
    return np.clip(coat * _fur(rng, WIDTH, HEIGHT)[..., None], 0.02, 0.98).astype(np.float32)


@lru_cache(maxsize=48)
def neck_coat(animal: Individual, flank: Flank) -> Array:
    """Neck: columns from the shoulder to the head, rows from the mane to the throat, (128, 192, 3)."""
    rng = generator(*animal.key, 22, 0 if flank == "left" else 1)
    u, row = _grid(192, 128)
    tone = np.array(animal.tone, np.float32)
    mottle = fbm(rng, (192, 128), (4, 3), 3)
    coat = np.broadcast_to(tone, (128, 192, 3)) * (1.0 + 0.12 * mottle)[..., None]
    coat = _mix(coat, tone * 0.5, 0.7 * (1.0 - smoothstep(0.06, 0.2, row)))
    throat = smoothstep(0.70, 0.9, row + 0.05 * mottle) * smoothstep(0.25, 0.6, u)
    coat = _mix(coat, WHITE * 0.9, throat * 0.85)
    return np.clip(coat * _fur(rng, 192, 128)[..., None], 0.02, 0.98).astype(np.float32)


@lru_cache(maxsize=48)
def head_coat(animal: Individual) -> Array:
    """Head: columns from the poll to the nose, rows from the forehead to the chin, (96, 160, 3)."""
    rng = generator(*animal.key, 23)
    u, row = _grid(160, 96)
    tone = np.array(animal.tone, np.float32)
    mottle = fbm(rng, (160, 96), (5, 4), 3)
    coat = np.broadcast_to(tone * 0.97 + 0.02, (96, 160, 3)) * (1.0 + 0.1 * mottle)[..., None]
    coat = _mix(coat, tone * 0.55, 0.8 * (1.0 - smoothstep(0.12, 0.34, row)) * (1.0 - smoothstep(0.7, 0.9, u)))
    coat = _mix(coat, tone * 1.2 + 0.06, 0.6 * smoothstep(0.45, 0.65, row) * (1.0 - smoothstep(0.5, 0.75, u)))
    muzzle = smoothstep(0.70, 0.80, u) * (1.0 - smoothstep(0.86, 0.90, u))
    coat = _mix(coat, tone * 0.45, 0.75 * muzzle * (row < 0.5))
    coat = _mix(coat, WHITE, 0.85 * smoothstep(0.64, 0.78, row) * smoothstep(0.30, 0.5, u))
    band = smoothstep(0.84, 0.87, u) * (1.0 - smoothstep(0.91, 0.93, u))
    coat = _mix(coat, WHITE, 0.6 * band)
    nose = smoothstep(0.925, 0.95, u) * (1.0 - smoothstep(0.62, 0.72, row))
    coat = _mix(coat, DARK * 0.5, nose)
    return np.clip(coat * _fur(rng, 160, 96)[..., None], 0.02, 0.98).astype(np.float32)


@lru_cache(maxsize=96)
def leg_coat(animal: Individual, far: bool) -> Array:
    """Leg: columns from the joint at the body to the hoof, rows from the front to the back, (32, 160, 3)."""
    rng = generator(*animal.key, 24, int(far))
    u, row = _grid(160, 32)
    tone = np.array(animal.tone, np.float32)
    coat = np.broadcast_to(tone * 1.02, (32, 160, 3)) * (1.0 + 0.1 * fbm(rng, (160, 32), (8, 2), 3))[..., None]
    coat = _mix(coat, tone * 1.12 + 0.07, 0.7 * smoothstep(0.30, 0.6, u))
    coat = _mix(coat, WHITE * 0.85, (0.75 if far else 0.5) * smoothstep(0.72, 0.95, row) * smoothstep(0.1, 0.4, u))
    coat = _mix(coat, tone * 0.6, 0.4 * (1.0 - smoothstep(0.1, 0.35, row)) * smoothstep(0.4, 0.6, u))
    coat = _mix(coat, DARK, smoothstep(0.945, 0.955, u))
    return np.clip(coat * _fur(rng, 160, 32)[..., None], 0.02, 0.98).astype(np.float32)


def plain(colour: tuple[float, float, float], tip: tuple[float, float, float] | None = None) -> Array:
    """A texture of one colour, or of a gradient from `colour` to `tip` along the part, (2, 32, 3)."""
    first = np.array(colour, np.float32)
    last = np.array(tip if tip is not None else colour, np.float32)
    along = np.linspace(0.0, 1.0, 32, dtype=np.float32)[None, :, None]
    return np.repeat(first + (last - first) * along, 2, axis=0).astype(np.float32)
