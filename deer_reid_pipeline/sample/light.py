"""Light: one scene or animal as seen by day, at dusk, or by the camera's own infrared flash."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from deer_reid_pipeline.sample.noise import Array, smoothstep
from deer_reid_pipeline.sample.raster import Sprite
from deer_reid_pipeline.sample.scene import Scene

Illumination = Literal["day", "dusk", "infrared"]
ILLUMINATIONS: tuple[Illumination, ...] = ("day", "dusk", "infrared")


@dataclass(frozen=True)
class Light:
    """`ambient` and `sun` are RGB factors; `sun_from` points to the sun (x right, y down, z to the camera).

    `grain` is the sensor noise in grey levels, `shadow` the darkest share that a body's shadow takes away.
    """

    kind: Illumination
    ambient: tuple[float, float, float]
    sun: tuple[float, float, float]
    sun_from: tuple[float, float, float]
    grain: float
    shadow: float


LIGHTS: dict[Illumination, Light] = {
    "day": Light("day", (0.90, 0.93, 0.95), (0.72, 0.64, 0.50), (-0.45, -0.78, 0.43), 4.0, 0.52),
    "dusk": Light("dusk", (0.80, 0.78, 0.86), (0.20, 0.14, 0.10), (0.6, -0.5, 0.6), 8.5, 0.34),
    "infrared": Light("infrared", (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), 7.0, 0.30),
}


def _grey(colour: Array) -> Array:
    """Infrared brightness of a daylight colour (..., 3): living leaves shine, wood and earth do not."""
    leaf = np.clip(colour[..., 1] - np.maximum(colour[..., 0], colour[..., 2]), 0.0, 1.0)
    return (0.35 * colour[..., 0] + 0.45 * colour[..., 1] + 0.2 * colour[..., 2] + 1.3 * leaf).astype(np.float32)


def flash(near: Array) -> Array:
    """How much of the flash reaches something that stands at `near` (see `Scene`); about 1 in front."""
    return (0.025 + 1.0 * np.power(np.clip(near / 0.62, 0.0, 1.25), 1.15)).astype(np.float32)


def _tinted(colour: Array, keep: float) -> Array:
    mean = colour.mean(axis=-1, keepdims=True)
    return mean + (colour - mean) * np.float32(keep)


def light_scene(scene: Scene, light: Light, dapple: Array) -> Array:
    """The scene under `light`: (h, w, 3) float32, 0..255; `dapple` (h, w) 0..1 is where sun gets in."""
    height, width = scene.near.shape
    across = (np.arange(width, dtype=np.float32)[None, :] / width - 0.5) * 2
    down = (np.arange(height, dtype=np.float32)[:, None] / height - 0.5) * 2
    corners = 1.0 - 0.22 * (across**2 * 0.7 + down**2 * 0.5)
    if light.kind == "infrared":
        beam = np.exp(-(across**2) / 0.9 - (down - 0.1) ** 2 / 1.9)
        grey = _grey(scene.colour) * flash(scene.near) * (0.25 + 0.85 * beam) * 1.08
        return np.repeat(np.clip(grey, 0, 1)[..., None] * 255, 3, axis=-1).astype(np.float32)
    ground = smoothstep(0.0, 0.06, scene.near)
    ambient, sun = np.array(light.ambient, np.float32), np.array(light.sun, np.float32)
    factor = ambient + sun * (dapple * ground * 0.75 + 0.22)[..., None]
    colour = _tinted(scene.colour, 0.82 if light.kind == "day" else 0.45)
    if light.kind == "dusk":
        colour = colour * (0.78 + 0.30 * ground)[..., None]
    return (np.clip(colour * factor * corners[..., None], 0, 1) * 255).astype(np.float32)


def light_animal(sprite: Sprite, light: Light, near: float, dapple: Array) -> Array:
    """The animal's pixels under `light`: (h, w, 3) float32, 0..255; it stands at `near`, `dapple` (h, w)
    says where the sun gets through to it."""
    normal = sprite.normal
    if light.kind == "infrared":
        reach = float(flash(np.full(1, near, np.float32))[0])
        grey = 1.1 * _grey(sprite.colour) ** 1.3 * (0.30 + 0.85 * normal[..., 2]) * min(reach * 1.35 + 0.12, 1.25)
        # The flash burns white fur out slowly, as a sensor with a soft shoulder does.
        grey = 1.15 * grey / (1.0 + 0.45 * grey)
        return np.repeat(np.clip(grey, 0, 1)[..., None] * 255, 3, axis=-1).astype(np.float32)
    sky = 0.64 - 0.40 * normal[..., 1]
    toward = np.array(light.sun_from, np.float32)
    direct = np.clip(normal @ (toward / np.linalg.norm(toward)), 0.0, None)
    factor = (
        np.array(light.ambient, np.float32) * sky[..., None]
        + np.array(light.sun, np.float32) * (direct * (0.45 + 0.8 * dapple))[..., None]
    )
    colour = _tinted(sprite.colour, 0.74 if light.kind == "day" else 0.45)
    return (np.clip(colour * factor * 1.12, 0, 1) * 255).astype(np.float32)
