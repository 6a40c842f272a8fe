"""What grows in a scene: tufts of grass, ferns and trunks, each drawn together with how near it stands."""

import numpy as np
from PIL import Image, ImageDraw

from deer_reid_pipeline.sample.noise import fbm, smoothstep, value_noise

# Red, green, blue as shares, 0..1.
Colour = tuple[float, float, float]


class Painter:
    """Draws a thing and its nearness together, at twice the size."""

    def __init__(self, colour: Image.Image, near: Image.Image, horizon: float, haze: Colour) -> None:
        self.image, self.near = colour, near
        self.colour_draw, self.near_draw = ImageDraw.Draw(colour), ImageDraw.Draw(near)
        self.horizon, self.haze = horizon, haze
        self.height = colour.height

    def share(self, row: float) -> float:
        """0 at the horizon, 1 at the lower edge."""
        return min(max((row - self.horizon) / (self.height - self.horizon), 0.0), 1.0)

    def tone(self, colour: Colour, row: float, light: float = 1.0) -> tuple[int, int, int]:
        fog = 0.5 * (1.0 - self.share(row)) ** 9
        mixed = [int(255 * min(1.0, c * light * (1 - fog) + h * fog)) for c, h in zip(colour, self.haze, strict=True)]
        return mixed[0], mixed[1], mixed[2]

    def polygon(self, points: list[tuple[float, float]], row: float, fill: tuple[int, int, int]) -> None:
        self.colour_draw.polygon(points, fill=fill)
        self.near_draw.polygon(points, fill=int(255 * self.share(row)))


def draw_grass(painter: Painter, rng: np.random.Generator, x: float, row: float, size: float, tint: Colour) -> None:
    """One tuft with its root at (x, row), blades up to `size` pixels."""
    for _ in range(int(rng.integers(6, 13))):
        root = x + rng.normal(0, size * 0.13)
        tall, lean = size * rng.uniform(0.45, 1.0), rng.normal(0, 0.38) * size
        width = max(0.7, size * rng.uniform(0.016, 0.034))
        fill = painter.tone(tint, row, rng.uniform(0.5, 1.35))
        middle = (root + lean * 0.32, row - tall * 0.6)
        tip = (root + lean, row - tall * (1.0 - 0.25 * abs(lean) / size))
        painter.polygon(
            [(root - width, row), (middle[0] - width * 0.8, middle[1]), tip,
             (middle[0] + width * 0.8, middle[1]), (root + width, row)], row, fill,
        )  # fmt: skip


def draw_fern(painter: Painter, rng: np.random.Generator, x: float, row: float, size: float, tint: Colour) -> None:
    """A clump of arching fronds with leaflets."""
    for _ in range(int(rng.integers(5, 9))):
        bend, tall = rng.uniform(-1.0, 1.0), size * rng.uniform(0.55, 1.0)
        light = rng.uniform(0.55, 1.25)
        for step in range(2, 15):
            t = step / 15
            px, py = x + bend * tall * t**1.4, row - tall * (t - 0.45 * abs(bend) * t**3)
            leaf = size * 0.17 * (1 - t) ** 0.7 * min(1.0, 3 * t)
            fill = painter.tone(tint, row, light * rng.uniform(0.85, 1.15))
            for way in (-1, 1):
                end = (px + way * leaf + bend * leaf * 0.5, py + leaf * 0.35)
                painter.polygon([(px, py - leaf * 0.16), end, (px, py + leaf * 0.22)], row, fill)


def draw_trunk(painter: Painter, rng: np.random.Generator, x: float, row: float, width: float, bark: Colour) -> None:
    """A trunk with bark, moss and root flare from its root at (x, row) up through the upper edge."""
    height = int(row + width * 0.1)
    if height < 8:
        return
    lean, columns = rng.normal(0, 0.035), int(width * 2.2) + int(height * 0.12) + 4
    ys = np.arange(height, dtype=np.float32)[:, None]
    wobble = width * 0.10 * np.interp(np.arange(height), np.linspace(0, height, 6), rng.normal(0, 1, 6))[:, None]
    middle = columns / 2 + lean * (height - ys) + wobble
    flare = 1.0 + 0.65 * np.exp(-(height - ys) / (width * 0.42)) - 0.15 * (height - ys) / height
    across = (np.arange(columns, dtype=np.float32)[None, :] - middle) / (width * 0.5 * flare)
    bumps = value_noise(rng, (columns, height), (max(3, columns // 9), max(3, int(height / width * 3))))
    inside = np.abs(across) + 0.05 * bumps < 1.0
    ridges = fbm(rng, (columns, height), (max(4, int(columns / width * 9)), max(3, int(height / width * 1.6))), 3)
    fine = value_noise(rng, (columns, height), (columns // 2, height // 5))
    round_ = 0.38 + 0.75 * np.sqrt(np.clip(1.0 - (across * 0.9 + 0.22) ** 2, 0.0, 1.0))
    light = round_ * (0.95 + 0.55 * ridges + 0.16 * fine)
    shade = np.array(bark, np.float32)[None, None, :] * light[..., None]
    moss = smoothstep(0.1, 0.7, fbm(rng, (columns, height), (4, 5), 3) - 0.45 * across - 0.4 + 0.5 * ys / height)
    shade = shade + (np.array([0.22, 0.28, 0.10], np.float32) * light[..., None] - shade) * (0.6 * moss)[..., None]
    fog = 0.5 * (1.0 - painter.share(row)) ** 9
    shade = shade * (1 - fog) + np.array(painter.haze, np.float32) * fog
    mask = Image.fromarray((inside * 255).astype(np.uint8))
    stamp = Image.fromarray((np.clip(shade, 0, 1) * 255).astype(np.uint8))
    at = (int(x - columns / 2), int(row + width * 0.1 - height))
    painter.image.paste(stamp, at, mask)
    painter.near.paste(int(255 * painter.share(row)), (*at, at[0] + columns, at[1] + height), mask)
