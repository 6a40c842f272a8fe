"""Calibration pictures made harder, because other pictures lie lower than those that a way was tried on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from deer_reid_pipeline.vision.crops import decode_crop, encode_crop
from deer_reid_pipeline.vision.decode import Pixels

SMALLEST, STEP = 40, 15
"""Long sides in pixels: the least, and by how much the next is longer."""


def variations(pictures: Sequence[Pixels]) -> list[Pixels]:
    """One for each picture (uint8 [h, w, 3]), by turns: far away (a long side of 40 to 100 pixels, stored as a crop
    is), in the dark, in mist, half out of the picture, and far away in the dark.

    Five kinds, so that they do not keep step with flanks, poses and cameras, which take turns by twos and threes.
    """
    return [_KINDS[number % len(_KINDS)](picture, number // len(_KINDS)) for number, picture in enumerate(pictures)]


def _far(picture: Pixels, turn: int) -> Pixels:
    image = Image.fromarray(picture)
    side = SMALLEST + STEP * (turn % 5)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return decode_crop(encode_crop(np.asarray(image)))


def _dark(picture: Pixels, turn: int) -> Pixels:
    return (picture * (0.7, 0.5)[turn % 2]).astype(np.uint8)


def _misty(picture: Pixels, turn: int) -> Pixels:
    mean = picture.mean()
    return (mean + (picture - mean) * (0.5, 0.25)[turn % 2]).astype(np.uint8)


def _half(picture: Pixels, turn: int) -> Pixels:
    height, width = picture.shape[:2]
    part = picture[:, : (width + 1) // 2] if turn % 2 == 0 else picture[height // 2 :]
    return np.ascontiguousarray(part)


def _far_and_dark(picture: Pixels, turn: int) -> Pixels:
    return _far(_dark(picture, turn), turn)


_KINDS = (_far, _dark, _misty, _half, _far_and_dark)
