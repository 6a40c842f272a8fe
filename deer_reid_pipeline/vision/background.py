"""Pictures without their animals: what an embedding must not tell individuals by.

Two pictures of one place look alike whoever stands in them. Embedding only what surrounds the animals shows how much
of an accuracy comes from there. Geometry only: no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.vision.crops import Box, CropSpec, Shrinking, cut_crop, pixel_window, shrinking_in_id
from deer_reid_pipeline.vision.decode import Pixels

FILL = (128, 128, 128)


@dataclass(frozen=True)
class BackgroundSpec:
    """How backgrounds are cut.

    Attributes:
        margin: share of the box added on each side, to show its surroundings.
        blanked: share of each side around every box that is blanked with it, because boxes are often tight.
        rim: where a picture is a body crop, the share of each side that is blanked in its middle.
        least: share of the cut that must be left unblanked; below it the picture counts as a body crop.
    """

    margin: float = 0.75
    blanked: float = 0.05
    rim: float = 0.8
    least: float = 0.25
    max_side: int = 512
    quality: int = 95
    shrinking: Shrinking = "hamming"

    @property
    def id(self) -> str:
        """Like 'background-m75-b5-r80-s512-q95-hamming'; stands in the recipe in the place of a crop
        specification."""
        shares = (self.margin, self.blanked, self.rim)
        margin, blanked, rim = (round(100 * share) for share in shares)
        return (
            f"background-m{margin}-b{blanked}-r{rim}-s{self.max_side}-q{self.quality}{shrinking_in_id(self.shrinking)}"
        )

    def crop(self, margin: float) -> CropSpec:
        """How what is left of the picture is cut out, with this margin."""
        return CropSpec(margin, self.max_side, self.quality, self.shrinking)


@dataclass(frozen=True)
class Background:
    """Pixels around an animal; `rim_only` where the picture shows hardly anything but the animal."""

    pixels: Pixels
    rim_only: bool


def cut_background(
    pixels: Pixels, box: Box, animals: Sequence[Box], spec: BackgroundSpec = BackgroundSpec()
) -> Background:
    """The surroundings of a box, every animal in them blanked.

    A body crop has no surroundings. Of it only the rim is left, in which some of the animal is still to be seen, so
    that its control says at most how much.

    Args:
        pixels: the whole picture, uint8 (h, w, 3).
        box: of the animal, as shares of the picture.
        animals: every box of the picture, that one included.

    Raises:
        ValueError: the box has no area or lies outside the picture.
    """
    height, width = pixels.shape[:2]
    seen = np.ones((height, width), dtype=bool)
    for animal in [box, *animals]:
        left, top, right, bottom = pixel_window(width, height, animal, spec.blanked)
        seen[top:bottom, left:right] = False
    left, top, right, bottom = pixel_window(width, height, box, spec.margin)
    if seen[top:bottom, left:right].mean() >= spec.least:
        blanked = pixels.copy()
        blanked[~seen] = FILL
        return Background(cut_crop(blanked, box, spec.crop(spec.margin)), False)
    body = cut_crop(pixels, box, spec.crop(margin=0.0)).copy()
    inner_height, inner_width = (round(side * spec.rim) for side in body.shape[:2])
    top, left = (body.shape[0] - inner_height) // 2, (body.shape[1] - inner_width) // 2
    body[top : top + inner_height, left : left + inner_width] = FILL
    return Background(body, True)
