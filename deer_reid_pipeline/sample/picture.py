"""One frame: a lit scene, the animals standing in it and the grain; and where each animal really is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from deer_reid_pipeline.sample.anatomy import build
from deer_reid_pipeline.sample.coat import Flank
from deer_reid_pipeline.sample.individual import Individual
from deer_reid_pipeline.sample.light import LIGHTS, Illumination, Light, light_animal, light_scene
from deer_reid_pipeline.sample.noise import Array, generator, resized, smoothstep
from deer_reid_pipeline.sample.pose import Pose
from deer_reid_pipeline.sample.raster import Sprite, draw
from deer_reid_pipeline.sample.scene import Scene, dapple, draw_scene
from deer_reid_pipeline.sample.strip import strip_height

# Left, top, width, height as shares of the picture, 0..1.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Subject:
    """An animal in a frame: at `x` (0..1 across), its feet at `near` (0 horizon .. 1 lower edge)."""

    animal: Individual
    flank: Flank
    pose: Pose
    x: float
    near: float


@dataclass
class Studio:
    """The backgrounds of one herd, each drawn once; memory is bound by cameras x illuminations, not by
    pictures.
    """

    seed: int
    size: tuple[int, int]
    _scenes: dict[int, tuple[Scene, Array]] = field(default_factory=dict)
    _lit: dict[tuple[int, Illumination], NDArray[np.uint8]] = field(default_factory=dict)

    def scene(self, camera: int) -> tuple[Scene, Array]:
        """The scene of one camera and its pattern of sunlight."""
        if camera not in self._scenes:
            self._scenes[camera] = (
                draw_scene(self.seed, camera, self.size), dapple(self.seed, camera, self.size),
            )  # fmt: skip
        return self._scenes[camera]

    def background(self, camera: int, kind: Illumination) -> NDArray[np.uint8]:
        """The empty picture of one camera under one kind of light, (h, w, 3)."""
        if (camera, kind) not in self._lit:
            scene, sun = self.scene(camera)
            self._lit[(camera, kind)] = light_scene(scene, LIGHTS[kind], sun).astype(np.uint8)
        return self._lit[(camera, kind)]


def _shadow(frame: Array, sprite: Sprite, foot: tuple[float, float], light: Light) -> None:
    height, width = sprite.alpha.shape
    flat, pad = max(6, int(height * 0.17)), max(4, width // 10)
    lying = resized(sprite.alpha, (width, flat))
    image = Image.fromarray((np.clip(np.pad(lying, pad), 0, 1) * 255).astype(np.uint8))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(max(1.5, height / 55))), np.float32) / 255.0
    left, top = int(foot[0] - sprite.anchor[0]) - pad, int(foot[1] - flat * 0.72) - pad
    window, inner = _overlap(left, top, soft.shape, (frame.shape[0], frame.shape[1]))
    frame[window] *= 1.0 - light.shadow * soft[inner][..., None]


def _overlap(
    left: int, top: int, shape: tuple[int, ...], frame: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the frame that a stamp at (left, top) covers, and the part of the stamp that is in the
    frame.
    """
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = max(min(left + shape[1], frame[1]), x0), max(min(top + shape[0], frame[0]), y0)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _shine(frame: Array, sprite: Sprite, left: int, top: int, light: Light, visible: Array) -> None:
    """The eyes: a catch-light by day, the glowing tapetum under the flash."""
    for x, y, radius in sprite.eyes:
        row, column = min(int(y), visible.shape[0] - 1), min(int(x), visible.shape[1] - 1)
        if row < 0 or column < 0 or visible[row, column] < 0.5:
            continue
        infrared = light.kind == "infrared"
        core = max(2.5, radius * 1.45) if infrared else max(0.55, radius * 0.28)
        reach = int(core * 6) + 2
        cx, cy = left + x - (0 if infrared else radius * 0.2), top + y - (0 if infrared else radius * 0.3)
        window, _ = _overlap(int(cx) - reach, int(cy) - reach, (2 * reach, 2 * reach), frame.shape[:2])
        ys = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - np.float32(cy)
        xs = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :] - np.float32(cx)
        away = np.sqrt(xs**2 + ys**2)
        glow = np.clip(1.25 - away / core * 0.5, 0, 1) ** 2
        if infrared:
            glow = np.maximum(glow, 0.42 * np.exp(-(away**2) / (2 * (2.2 * core) ** 2)))
        frame[window] += (250.0 - frame[window]) * (glow * (1.0 if infrared else 0.7))[..., None]


def compose(
    studio: Studio, camera: int, light: Light, subjects: Sequence[Subject], path: Sequence[int]
) -> tuple[NDArray[np.uint8], list[Box]]:
    """Draw one frame without its strip: the picture (h, w, 3) and one box a subject, in the order given.

    `path` names the random stream of this frame (grain, exposure). A box is what is visible of the animal.
    """
    width, height = studio.size
    scene, sun = studio.scene(camera)
    frame = studio.background(camera, light.kind).astype(np.float32)
    rng = generator(*path)
    limit = height - strip_height(studio.size)
    boxes: dict[int, Box] = {}
    for number in sorted(range(len(subjects)), key=lambda i: subjects[i].near):
        subject = subjects[number]
        foot_row = min(scene.horizon + subject.near * (height - scene.horizon), limit - 0.03 * height)
        tall = (foot_row - scene.horizon) / scene.camera_height * subject.animal.size
        body = build(subject.animal, subject.flank, subject.pose)
        sprite = draw(body, subject.pose.body_turn, tall, subject.flank == "right", rng)
        wide = sprite.alpha.shape[1]
        # Whole animals only: the edge of the picture pushes them in.
        foot_x = min(max(subject.x * width, sprite.anchor[0] + 4), max(width - wide + sprite.anchor[0] - 4, 0))
        left, top = int(foot_x - sprite.anchor[0]), int(foot_row - sprite.anchor[1])
        _shadow(frame, sprite, (foot_x, foot_row), light)
        window, inner = _overlap(left, top, sprite.alpha.shape, (height, width))
        near = (foot_row - scene.horizon) / (height - scene.horizon)
        # Only what stands nearer than the feet hides the animal: grass, ferns and trunks, not the ground
        # itself.
        hidden = smoothstep(near + 0.004, near + 0.02, scene.near[window])
        alpha = sprite.alpha[inner] * (1.0 - hidden)
        if alpha.sum() < 0.6 * sprite.alpha.sum():
            # An animal that is mostly behind a trunk could not be boxed or known: it steps in front.
            alpha = sprite.alpha[inner]
        patch = np.zeros_like(sprite.alpha)
        patch[inner] = sun[window]
        lit = light_animal(sprite, light, near, patch)[inner]
        frame[window] += (lit - frame[window]) * alpha[..., None]
        visible = np.zeros_like(sprite.alpha)
        visible[inner] = alpha
        _shine(frame, sprite, left, top, light, visible)
        rows, columns = np.flatnonzero(alpha.max(axis=1) > 0.3), np.flatnonzero(alpha.max(axis=0) > 0.3)
        y0, y1 = window[0].start + int(rows[0]), window[0].start + int(rows[-1]) + 1
        x0, x1 = window[1].start + int(columns[0]), window[1].start + int(columns[-1]) + 1
        boxes[number] = (x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height)
    # Coarse grain and a repeated run of fine grain are as good to the eye as fresh noise and much
    # cheaper.
    grain = rng.normal(0.0, light.grain, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
    fine = rng.normal(0.0, light.grain * 0.55, 65521).astype(np.float32)
    speckle = np.repeat(np.repeat(grain, 2, axis=0), 2, axis=1)[:height, :width] * np.float32(0.6)
    speckle = speckle + np.resize(fine, (height, width))
    exposure = np.float32(rng.uniform(0.95, 1.05))
    frame *= exposure
    frame += speckle[..., None]
    return np.clip(frame, 0, 255).astype(np.uint8), [boxes[i] for i in range(len(subjects))]
