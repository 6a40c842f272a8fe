"""The place that a camera looks at: sky, woodland behind, ground, undergrowth, trunks.

A scene is drawn once per camera in even daylight, together with how near everything is, so that it can be lit
as day, dusk or infrared afterwards and so that grass in front of an animal covers its hooves.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from deer_reid_pipeline.sample.noise import Array, fbm, generator, resized, smoothstep, value_noise
from deer_reid_pipeline.sample.plants import Colour, Painter, draw_fern, draw_grass, draw_trunk

OVERSAMPLE = 2


@dataclass(frozen=True)
class Scene:
    """`colour` (h, w, 3) 0..1; `near` (h, w) 0..1: 0 is the horizon or sky, 1 stands at the lower edge.

    For standing things `near` is where they meet the ground. `horizon` is a row; at the depth whose ground is
    at row y, a shoulder height is (y - horizon) / `camera_height` pixels.
    """

    colour: Array
    near: Array
    horizon: int
    camera_height: float
    haze: Colour


def _backdrop(rng: np.random.Generator, size: tuple[int, int], horizon: int, palette: dict[str, Colour]) -> Array:
    """Sky and far woodland above the horizon, (h, w, 3): crowns and thin stems that fade into haze."""
    width, height = size
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    haze = np.array(palette["haze"], np.float32)
    picture = np.broadcast_to(haze * 1.05, (height, width, 3)).astype(np.float32).copy()
    picture += (0.10 * (0.5 - rows))[..., None]
    layers = 5
    for layer in range(layers):
        depth = (layer + 1) / layers
        leaf = np.array(palette["leaf"], np.float32) * (0.85 - 0.35 * depth)
        tint = haze + (leaf - haze) * (0.28 + 0.62 * depth)
        cells = int(26 / (0.4 + depth))
        crowns = fbm(rng, size, (cells, max(3, cells * height // width)), 5)
        gap = 0.18 - 0.55 * palette["open"][0] * (1 - abs(rows * height / horizon - 0.45))
        cover = smoothstep(-0.02, 0.12, crowns - gap * 0.9 + 0.25 * smoothstep(0.55, 1.0, rows * height / horizon))
        gleam = (1.0 + 0.45 * fbm(rng, size, (cells * 5, cells * 4), 3))[..., None]
        picture += (tint * gleam - picture) * (cover * 0.9)[..., None]
        stems = Image.new("L", size, 0)
        draw = ImageDraw.Draw(stems)
        for _ in range(int(rng.integers(9, 15))):
            x, thick = rng.uniform(0, width), width * 0.0035 * (0.5 + 1.8 * depth) * rng.uniform(0.6, 1.4)
            top = x + rng.normal(0, 0.03) * width
            draw.polygon(
                [
                    (x - thick, horizon * 1.04),
                    (top - thick * 0.7, 0),
                    (top + thick * 0.7, 0),
                    (x + thick, horizon * 1.04),
                ],
                fill=235,
            )
        bark = haze + (np.array(palette["bark"], np.float32) * 0.8 - haze) * (0.25 + 0.65 * depth)
        weight = np.asarray(stems.filter(ImageFilter.GaussianBlur(0.8)), np.float32) / 255.0
        picture += (bark * gleam**0.5 - picture) * weight[..., None]
    return picture


def _ground(rng: np.random.Generator, size: tuple[int, int], horizon: int, palette: dict[str, Colour]) -> Array:
    """Forest floor in perspective below the horizon, (h, w, 3)."""
    width, height = size
    texture_size = 512
    floor = fbm(rng, (texture_size, texture_size), (24, 24), 5)
    patches = fbm(rng, (texture_size, texture_size), (5, 5), 3)
    rows = np.arange(height, dtype=np.float32)[:, None]
    distance = 1.0 / np.maximum((rows - horizon) / (height - horizon), 0.012)
    across = (np.arange(width, dtype=np.float32)[None, :] / width - 0.5) * distance
    # The texture is laid mirror-wise, so that no seam shows where it repeats.
    fold = 2 * texture_size - 2
    column = np.abs((across * 420).astype(np.int32) % fold - texture_size + 1)
    row = np.broadcast_to(np.abs((distance * 430).astype(np.int32) % fold - texture_size + 1), column.shape)
    litter, green = np.array(palette["litter"], np.float32), np.array(palette["grass"], np.float32)
    mix = smoothstep(-0.25, 0.35, patches[row // 2, column // 2] + palette["open"][0] - 0.35)
    picture = litter + (green * 0.8 - litter) * mix[..., None]
    fade = np.clip(3.0 / distance, 0.15, 1.0)
    picture = picture * (1.0 + 0.75 * floor[row, column] * fade)[..., None]
    fog = 0.42 * (1.0 - np.clip(1.0 / distance, 0, 1)) ** 9
    return picture + (np.array(palette["haze"], np.float32) - picture) * fog[..., None]


def _palette(camera: int, rng: np.random.Generator) -> dict[str, Colour]:
    """Four kinds of place in turn: beech wood, meadow edge, spruce wood, birch glade. `open` is (share of
    meadow, 0, 0)."""
    kinds: tuple[dict[str, Colour], ...] = (
        {"haze": (0.72, 0.76, 0.70), "leaf": (0.30, 0.36, 0.14), "bark": (0.40, 0.37, 0.31),
         "litter": (0.43, 0.31, 0.20), "grass": (0.30, 0.36, 0.15), "open": (0.15, 0, 0)},
        {"haze": (0.78, 0.80, 0.78), "leaf": (0.24, 0.33, 0.13), "bark": (0.33, 0.28, 0.22),
         "litter": (0.40, 0.37, 0.20), "grass": (0.35, 0.39, 0.19), "open": (0.75, 0, 0)},
        {"haze": (0.62, 0.68, 0.68), "leaf": (0.19, 0.26, 0.15), "bark": (0.36, 0.25, 0.18),
         "litter": (0.36, 0.25, 0.17), "grass": (0.25, 0.33, 0.14), "open": (0.05, 0, 0)},
        {"haze": (0.80, 0.76, 0.66), "leaf": (0.47, 0.38, 0.13), "bark": (0.66, 0.63, 0.57),
         "litter": (0.50, 0.36, 0.18), "grass": (0.42, 0.40, 0.18), "open": (0.40, 0, 0)},
    )  # fmt: skip
    shift = rng.uniform(0.94, 1.06)
    return {
        name: value if name == "open" else (value[0] * shift, value[1], value[2] / shift)
        for name, value in kinds[camera % len(kinds)].items()
    }


def draw_scene(seed: int, camera: int, size: tuple[int, int]) -> Scene:
    """The fixed background of one camera (0-based) of the herd of `seed`, `size` = (width, height)."""
    rng = generator(seed, 31, camera)
    palette = _palette(camera, rng)
    width, height = size
    horizon, lens = int(height * rng.uniform(0.34, 0.42)), float(rng.uniform(1.0, 1.12))
    # The backdrop ends a little below the horizon, where the ground has taken over.
    edge = min(int(horizon * 1.15), height)
    back = _backdrop(rng, (width, edge), horizon, palette)
    back = np.concatenate([back, np.repeat(back[-1:], height - edge, axis=0)])
    floor = _ground(rng, size, horizon, palette)
    wave = 0.02 * height * value_noise(rng, (width, 2), (9, 2))[:1]
    below = smoothstep(-0.012 * height, 0.012 * height, np.arange(height)[:, None] - horizon - wave)
    base = back + (floor - back) * below[..., None]
    big = (width * OVERSAMPLE, height * OVERSAMPLE)
    image = Image.fromarray((np.clip(base, 0, 1) * 255).astype(np.uint8)).resize(big, Image.Resampling.BICUBIC)
    nearness = np.clip((np.arange(height) - horizon) / (height - horizon), 0, 1)[:, None] * 255
    near = Image.fromarray(np.broadcast_to(nearness, (height, width)).astype(np.uint8)).resize(big)
    painter = Painter(image, near, horizon * OVERSAMPLE, palette["haze"])
    # A hem of brush hides where the woodland meets the ground.
    things: list[tuple[float, str]] = [(float(rng.uniform(0.002, 0.05)), "brush") for _ in range(150)]
    meadow = palette["open"][0]
    count = int(520 + 900 * meadow)
    for name, number, nearest in (
        ("grass", count, 1.05), ("leaf", int(2600 * (1 - 0.8 * meadow)), 1.0),
        ("fern", int(26 * (1 - meadow)), 0.85),
        ("trunk", int(rng.integers(9, 14) * (1 - 0.55 * meadow)), 0.42), ("stick", 14, 1.0),
    ):  # fmt: skip
        # Uniform over the ground as it is seen, a little denser towards the horizon.
        things += [(float(0.01 + nearest * rng.random() ** 1.5), name) for _ in range(number)]
    span = (height - horizon) * OVERSAMPLE
    grass_tints = (palette["grass"], (0.46, 0.43, 0.22), (0.25, 0.31, 0.12))
    for share, name in sorted(things):
        row, x = horizon * OVERSAMPLE + share * span, rng.uniform(-0.03, 1.03) * big[0]
        unit = share * span / lens
        if name == "grass":
            draw_grass(painter, rng, x, row, unit * rng.uniform(0.10, 0.26), grass_tints[int(rng.integers(0, 3))])
        elif name == "fern":
            draw_fern(painter, rng, x, row, unit * rng.uniform(0.25, 0.5), palette["leaf"])
        elif name == "brush":
            tall, leafy = span * rng.uniform(0.02, 0.085), rng.uniform(0.35, 0.95)
            for _ in range(26):
                bx, by = x + rng.normal(0, 0.6) * tall, row - tall * rng.random() ** 0.8
                wide = tall * rng.uniform(0.05, 0.15)
                fill = painter.tone(palette["leaf"], row, leafy * rng.uniform(0.7, 1.4))
                painter.polygon([(bx - wide, by), (bx, by - wide * 0.6), (bx + wide, by), (bx, by + wide)], row, fill)
        elif name == "trunk":
            # Trunks that stand nearer keep to the sides, where they do not hide what the camera is for.
            if share > 0.22:
                x = big[0] * (rng.uniform(-0.04, 0.14) if rng.random() < 0.5 else rng.uniform(0.86, 1.04))
            draw_trunk(painter, rng, x, row, unit * rng.uniform(0.16, 0.38), palette["bark"])
        elif name == "leaf":
            long, angle = unit * rng.uniform(0.012, 0.03), rng.uniform(0, np.pi)
            tint = (0.55, 0.36, 0.17) if rng.random() < 0.6 else (0.62, 0.47, 0.22)
            cos, sin = float(np.cos(angle)), float(np.sin(angle)) * 0.35
            aside, flat = long * sin * 1.2, long * cos * 0.22
            points = [(x + long * cos, row + long * sin), (x - aside, row + flat),
                      (x - long * cos, row - long * sin), (x + aside, row - flat)]  # fmt: skip
            painter.colour_draw.polygon(points, fill=painter.tone(tint, row, rng.uniform(0.5, 1.2)))
        else:
            long, angle = unit * rng.uniform(0.15, 0.5), rng.uniform(-0.4, 0.4)
            line = [(x, row), (x + long * np.cos(angle), row + long * np.sin(angle) * 0.4)]
            painter.colour_draw.line(
                line, fill=painter.tone(palette["bark"], row, 0.6), width=max(1, int(unit * 0.012))
            )
    small = np.asarray(image.resize(size, Image.Resampling.BOX), np.float32) / 255.0
    near_small = np.asarray(near.resize(size, Image.Resampling.BOX), np.float32) / 255.0
    # Lens corners, and the far half a touch softer than the near half.
    soft = np.asarray(Image.fromarray((small * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.1)), np.float32)
    far = (1.0 - smoothstep(0.02, 0.35, near_small))[..., None]
    return Scene(small + (soft / 255.0 - small) * far * 0.8, near_small, horizon, lens, palette["haze"])


def dapple(seed: int, camera: int, size: tuple[int, int]) -> Array:
    """Where sun reaches the ground through the crowns, (h, w) 0..1, in perspective."""
    rng = generator(seed, 32, camera)
    width, height = size
    spots = fbm(rng, (width // 2 + 1, height // 2 + 1), (9, 22), 4)
    return smoothstep(0.02, 0.38, resized(spots, size))
