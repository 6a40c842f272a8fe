"""A background shows what is around an animal, and nothing of any animal."""

from __future__ import annotations

import numpy as np
import pytest

from deer_reid_pipeline.vision.background import FILL, BackgroundSpec, cut_background
from deer_reid_pipeline.vision.crops import CropSpec

ANIMAL, GROUND = (250, 10, 10), (20, 120, 40)


def picture(boxes: list[tuple[float, float, float, float]], width: int = 400, height: int = 300) -> np.ndarray:
    pixels = np.full((height, width, 3), GROUND, dtype=np.uint8)
    for x, y, w, h in boxes:
        pixels[round(y * height) : round((y + h) * height), round(x * width) : round((x + w) * width)] = ANIMAL
    return pixels


def has(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.any(np.all(pixels == np.array(colour, dtype=np.uint8), axis=-1)))


def test_surroundings_without_any_animal() -> None:
    boxes = [(0.3, 0.3, 0.2, 0.3), (0.5, 0.35, 0.1, 0.2)]
    cut = cut_background(picture(boxes), boxes[0], boxes)
    assert not cut.rim_only
    assert has(cut.pixels, GROUND)
    assert not has(cut.pixels, ANIMAL)
    # 0.3 - 0.75 * 0.2 = 0.15 to 0.65 of 400 pixels across; 0.075 to 0.825 of 300 down
    assert cut.pixels.shape[:2] == (226, 200)


def test_a_box_that_is_not_in_the_list_is_blanked_too() -> None:
    box = (0.4, 0.4, 0.2, 0.2)
    assert not has(cut_background(picture([box]), box, []).pixels, ANIMAL)


def test_of_a_body_crop_only_the_rim_is_left() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 100, 3)).astype(np.uint8)
    cut = cut_background(pixels, (0.0, 0.0, 1.0, 1.0), [(0.0, 0.0, 1.0, 1.0)])
    assert cut.rim_only
    middle = cut.pixels[20:180, 10:90]
    assert np.all(middle == np.array(FILL))
    assert np.array_equal(cut.pixels[:20], pixels[:20])


def test_a_box_outside_the_picture_is_an_error() -> None:
    with pytest.raises(ValueError):
        cut_background(picture([]), (1.2, 0.0, 0.1, 0.1), [])


def test_its_name_is_never_that_of_a_crop() -> None:
    assert BackgroundSpec().id != CropSpec().id
    assert BackgroundSpec(rim=0.7).id != BackgroundSpec().id
