"""The contact sheet is a small PNG whatever goes in."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from deer_reid_pipeline.vision.contact_sheet import MAX_BYTES, contact_sheet
from deer_reid_pipeline_tests.vision.conftest import draw_crops


def test_crops_lie_in_rows() -> None:
    red, blue = (np.full((50, 50, 3), colour, np.uint8) for colour in ((250, 0, 0), (0, 0, 250)))
    with Image.open(io.BytesIO(contact_sheet([red] * 3 + [blue] * 2, columns=3, cell=40))) as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    assert sheet.shape == (80, 120, 3)
    assert np.abs(sheet[20, 100] - (250, 0, 0)).max() < 12
    assert np.abs(sheet[60, 60] - (0, 0, 250)).max() < 12
    assert np.abs(sheet[60, 100] - 32).max() < 12, "an empty place is background"


def test_labels_are_drawn_and_made_ascii() -> None:
    with Image.open(io.BytesIO(contact_sheet(draw_crops(2), ["deer 1", "b\u00f6ck"], cell=64))) as image:
        assert image.size == (128, 64 + 12)
        assert np.asarray(image.convert("L"))[64:].max() > 150


def test_it_stays_small_even_for_noise() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (200, 150, 3)).astype(np.uint8) for _ in range(70)]
    png = contact_sheet(noise, [str(index) for index in range(70)])
    assert len(png) <= MAX_BYTES
    assert png.startswith(b"\x89PNG")


def test_wrong_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
    with pytest.raises(ValueError, match="2 labels for 1"):
        contact_sheet(draw_crops(1), ["a", "b"])
