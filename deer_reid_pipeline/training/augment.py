"""From a decoded crop to the network's input: laid out as the recipe will, or changed as pictures of one animal change.

Light, colour, infrared, distance, angle, what stands in the way and what stands behind change between two pictures of
an animal; the flank does not. Mirroring is never done here by chance: a mirrored picture is another class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional

from deer_reid_pipeline.vision.crops import fitted_size
from deer_reid_pipeline.vision.recipe import Preprocess

Pixels = NDArray[np.uint8]
Corners = NDArray[np.float64]

_BLUR_KERNEL = 5
_GREY = torch.tensor((0.299, 0.587, 0.114)).view(3, 1, 1)
"""ITU-R BT.601 luma."""


@dataclass(frozen=True)
class Chances:
    """How often a picture is changed in a way that is not always there (0 to 1)."""

    infrared: float = 0.2
    blur: float = 0.15
    noise: float = 0.3
    background: float = 0.5
    erasing: float = 0.5


class Augmentation:
    """Changes crops; a result depends on the crop and the generator alone.

    Args:
        spec: the layout that the recipe will use: the same letterbox, drawn around.
        strength: 1 for the usual amount, 0 for none.
    """

    def __init__(self, spec: Preprocess, strength: float = 1.0, chances: Chances = Chances()) -> None:
        self._spec = spec
        self._strength = strength
        self._chances = chances

    def __call__(
        self, crop: Pixels, rng: np.random.Generator, mirrored: bool = False, other: Pixels | None = None
    ) -> torch.Tensor:
        """One picture.

        Args:
            crop: uint8 [h, w, 3].
            mirrored: left and right exchanged.
            other: another crop, of which the surroundings may be taken.

        Returns:
            float32 [3, height, width], values 0 to 255.
        """
        height, width = crop.shape[:2]
        part = _drawn_part(width, height, self._spec.inner, self._strength, rng)
        shown = _letterbox_corners(part, self._spec)
        laid_out = _warp(crop, part[[1, 0, 3, 2]] if mirrored else part, shown, self._spec)
        picture = torch.from_numpy(laid_out.astype(np.float32).transpose(2, 0, 1).copy())
        picture = self._light(picture, rng)
        if other is not None and rng.random() < self._chances.background * self._strength:
            picture = _surrounded(picture, other, shown)
        for _ in range(2):
            if rng.random() < self._chances.erasing * self._strength:
                picture = _erased(picture, rng)
        return _filled(picture.clamp_(0, 255), shown, self._spec)

    def _light(self, picture: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        strength, chances = self._strength, self._chances
        grey = (picture * _GREY).sum(0, keepdim=True)
        if rng.random() < chances.infrared * strength:
            picture = grey.expand(3, -1, -1)
        else:
            picture = grey + (picture - grey) * float(np.exp(rng.normal(0, 0.35) * strength))
            tint = np.exp(rng.normal(0, 0.08, 3) * strength).astype(np.float32)
            picture = picture * torch.from_numpy(tint).view(3, 1, 1)
        mean = picture.mean()
        picture = mean + (picture - mean) * float(np.exp(rng.normal(0, 0.25) * strength))
        picture = picture * float(np.exp(rng.normal(0, 0.25) * strength))
        picture = functional.adjust_gamma(
            (picture / 255).clamp(0, 1), float(np.exp(rng.normal(0, 0.2) * strength))
        ).mul(255)
        if rng.random() < chances.blur * strength:
            picture = functional.gaussian_blur(picture, [_BLUR_KERNEL, _BLUR_KERNEL], [float(rng.uniform(0.4, 1.4))])
        if rng.random() < chances.noise * strength:
            grain = rng.standard_normal(picture.shape[1:], dtype=np.float32) * np.float32(rng.uniform(2, 10))
            picture = picture + torch.from_numpy(grain)
        return picture


def _drawn_part(width: int, height: int, inner: float, strength: float, rng: np.random.Generator) -> Corners:
    """Corners (x, y) of the part of a crop that is shown: moved, stretched, turned, sheared and seen at an angle."""
    share = inner + rng.uniform(-0.12, 0.12) * strength
    half = np.array([width, height]) / 2 * share * np.exp(rng.normal(0, 0.05, 2) * strength)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    angle, shear = np.deg2rad(rng.normal(0, 6) * strength), rng.normal(0, 0.06) * strength
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = corners @ (turn @ np.array([[1, shear], [0, 1]])).T
    size = np.array([width, height])
    corners = corners + rng.uniform(-0.06, 0.06, (4, 2)) * size * strength
    return np.asarray(corners + size / 2 + rng.uniform(-0.07, 0.07, 2) * size * strength)


def _letterbox_corners(part: Corners, spec: Preprocess) -> Corners:
    """Where the corners of a part come to lie: in the middle, as large as fits, its mean aspect kept."""
    across = (np.linalg.norm(part[1] - part[0]) + np.linalg.norm(part[2] - part[3])) / 2
    down = (np.linalg.norm(part[3] - part[0]) + np.linalg.norm(part[2] - part[1])) / 2
    width, height = fitted_size(max(1, round(across)), max(1, round(down)), spec.width, spec.height)
    left, top = (spec.width - width) / 2, (spec.height - height) / 2
    return np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]])


def _warp(crop: Pixels, source: Corners, target: Corners, spec: Preprocess) -> Pixels:
    """uint8 [height, width, 3] in which the corners `source` of a crop lie at `target`, by the one homography."""
    rows, right = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    coefficients = np.linalg.solve(np.array(rows), np.array(right))
    image = Image.fromarray(crop).transform(
        (spec.width, spec.height),
        Image.Transform.PERSPECTIVE,
        coefficients.tolist(),
        Image.Resampling.BILINEAR,
        fillcolor=spec.fill,
    )
    return np.asarray(image)


def _surrounded(picture: torch.Tensor, other: Pixels, shown: Corners) -> torch.Tensor:
    """The middle of a picture (an ellipse) with the surroundings of another one."""
    height, width = picture.shape[1:]
    rim = torch.from_numpy(
        np.asarray(Image.fromarray(other).resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
        .transpose(2, 0, 1)
        .copy()
    )
    across, down = shown[2] - shown[0]
    y = (torch.arange(height, dtype=torch.float32) - height / 2) / (0.46 * down)
    x = (torch.arange(width, dtype=torch.float32) - width / 2) / (0.46 * across)
    distance = (y[:, None] ** 2 + x[None, :] ** 2).sqrt()
    share = ((distance - 1) / 0.15).clamp(0, 1)
    return picture * (1 - share) + rim * share


def _erased(picture: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A rectangle of 2 to 15 % of the picture covered by one colour or by noise (random erasing, Zhong et al. 2020)."""
    height, width = picture.shape[1:]
    area, aspect = rng.uniform(0.02, 0.15) * width * height, np.exp(rng.uniform(-1, 1))
    across, down = int(min(width - 1, np.sqrt(area * aspect))), int(min(height - 1, np.sqrt(area / aspect)))
    left, top = int(rng.integers(0, width - across)), int(rng.integers(0, height - down))
    shape = (3, 1, 1) if rng.random() < 0.5 else (3, down, across)
    cover = torch.from_numpy(rng.uniform(0, 255, shape).astype(np.float32)).expand(3, down, across)
    return functional.erase(picture, top, left, down, across, cover)


def _filled(picture: torch.Tensor, shown: Corners, spec: Preprocess) -> torch.Tensor:
    """The bars of the letterbox, which no change may touch: they are the same in every picture."""
    left, top = (max(0, round(float(value))) for value in shown[0])
    right, bottom = (round(float(value)) for value in shown[2])
    fill = torch.tensor(spec.fill, dtype=torch.float32).view(3, 1, 1)
    canvas = fill.expand(3, spec.height, spec.width).clone()
    canvas[:, top:bottom, left:right] = picture[:, top:bottom, left:right]
    return canvas
