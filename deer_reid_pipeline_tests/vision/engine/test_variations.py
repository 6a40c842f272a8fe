"""Harder pictures for the self-test."""

from __future__ import annotations

import numpy as np

from deer_reid_pipeline.vision.engine.variations import variations
from deer_reid_pipeline_tests.vision.conftest import draw_crops


def test_each_picture_has_one_and_the_kinds_take_turns() -> None:
    given = [np.kron(picture, np.ones((3, 3, 1), np.uint8)) for picture in draw_crops(50)]
    before = [picture.copy() for picture in given]
    made = variations(given)
    assert len(made) == len(given)
    assert all((one == other).all() for one, other in zip(before, given, strict=True))
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 for picture in made)
    pairs = list(zip(given, made, strict=True))
    assert [max(small.shape) for _, small in pairs[0::5]] == [40, 55, 70, 85, 100] * 2
    for whole, small in pairs[0::5]:
        ratio = whole.shape[0] / whole.shape[1]
        assert abs(small.shape[0] / small.shape[1] - ratio) < 0.05 * ratio
    assert all(0.45 < dark.mean() / whole.mean() < 0.75 for whole, dark in pairs[1::5])
    assert all(0.2 < misty.std() / whole.std() < 0.55 for whole, misty in pairs[2::5])
    assert all(abs(misty.mean() - whole.mean()) < 1 for whole, misty in pairs[2::5])
    halves = [(whole.shape[0] // half.shape[0], whole.shape[1] // half.shape[1]) for whole, half in pairs[3::5]]
    assert set(halves) <= {(1, 2), (2, 1), (1, 1)}
    assert {abs(whole.size / half.size - 2) < 0.1 for whole, half in pairs[3::5]} == {True}
    assert [max(small.shape) for _, small in pairs[4::5]] == [40, 55, 70, 85, 100] * 2
    assert all(0.4 < dark.mean() / whole.mean() < 0.8 for whole, dark in pairs[4::5])


def test_the_smallest_picture_has_variations() -> None:
    one = np.full((1, 1, 3), 90, np.uint8)
    assert [picture.shape for picture in variations([one] * 10)] == [(1, 1, 3)] * 10
