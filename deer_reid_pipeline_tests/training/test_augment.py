"""Augmentation: nothing at strength none, and nothing that the recipe's own layout would not allow."""

from __future__ import annotations

import numpy as np
import pytest

from deer_reid_pipeline.training.augment import Augmentation, Chances
from deer_reid_pipeline.vision.features import lay_out
from deer_reid_pipeline.vision.recipe import Preprocess

SPEC = Preprocess(
    width=120, height=96, mode="letterbox", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), inner=0.85, fill=(9, 90, 200)
)


def crop(height: int = 150, width: int = 170) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    stripes = 127 + 100 * np.sin(x / 9) * np.cos(y / 23)
    return np.stack([stripes, stripes[::-1], 255 - stripes], axis=2).astype(np.uint8)


@pytest.mark.parametrize("shape", [(150, 170), (150, 90), (80, 200)])
def test_without_strength_it_is_the_recipes_own_layout(shape: tuple[int, int]) -> None:
    made = Augmentation(SPEC, strength=0)(crop(*shape), np.random.default_rng(1)).numpy().transpose(1, 2, 0)
    expected = lay_out([crop(*shape)], SPEC)[0].astype(float)
    inside = (np.abs(expected - np.array(SPEC.fill)) > 1).any(axis=2)
    assert np.abs(made - expected)[inside].mean() < 4
    assert np.abs(made - expected).mean() < 4


def test_a_mirrored_picture_is_the_mirror_image() -> None:
    plain = Augmentation(SPEC, strength=0)
    one = plain(crop(), np.random.default_rng(1))
    other = plain(crop(), np.random.default_rng(1), mirrored=True)
    assert (one - other.flip(2)).abs().mean() < 3
    assert (one - other).abs().mean() > 20


def test_the_same_generator_gives_the_same_picture() -> None:
    usual = Augmentation(SPEC)
    first = usual(crop(), np.random.default_rng(5), other=crop(90, 90))
    assert (usual(crop(), np.random.default_rng(5), other=crop(90, 90)) == first).all()
    assert (usual(crop(), np.random.default_rng(6), other=crop(90, 90)) != first).any()


def test_values_stay_those_of_a_picture_and_bars_keep_their_colour() -> None:
    always = Chances(infrared=1, blur=1, noise=1, background=1, erasing=1)
    for seed in range(30):
        made = Augmentation(SPEC, 1.0, always)(crop(60, 200), np.random.default_rng(seed), other=crop()).numpy()
        assert made.shape == (3, 96, 120)
        assert np.isfinite(made).all()
        assert made.min() >= 0
        assert made.max() <= 255
        np.testing.assert_array_equal(made[:, 0, 0], SPEC.fill)


def test_infrared_has_no_colour() -> None:
    chances = Chances(infrared=1, blur=0, noise=0, background=0, erasing=0)
    made = Augmentation(SPEC, 1.0, chances)(crop(96, 120), np.random.default_rng(2)).numpy()
    middle = made[:, 30:60, 40:80]
    np.testing.assert_allclose(middle[0], middle[1], atol=1e-3)
