"""Crop and letterbox geometry against float64 references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deer_reid_pipeline.vision.crops import (
    CropSpec,
    cut_crop,
    cut_crops,
    decode_crop,
    encode_crop,
    fitted_size,
    inner_part,
    letterbox,
    pixel_window,
    squash,
)
from deer_reid_pipeline.vision.decode import ImageError, decode_image

WIDE = CropSpec(margin=0.0, max_side=4096)


def gradient(width: int, height: int) -> np.ndarray:
    """Red is the column, green the row: a pixel says where it came from."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x % 256, y % 256, (x // 256) * 16 + y // 256], -1).astype(np.uint8)


def smooth(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / width * a + y / height * b) for a, b in ((5, 2), (3, 7), (9, 4))]
    return np.stack(waves, -1).astype(np.uint8)


def test_the_spec_has_a_readable_id() -> None:
    assert CropSpec().id == "m05-s512-q95-hamming"
    assert CropSpec(margin=0.125, max_side=256, quality=90).id == "m12_5-s256-q90-hamming"
    assert CropSpec(margin=0.0).id == "m00-s512-q95-hamming"
    assert CropSpec(shrinking="lanczos").id == "m05-s512-q95"
    for bad in ({"margin": -0.1}, {"max_side": 0}, {"quality": 101}):
        with pytest.raises(ValueError):
            CropSpec(**bad)


@pytest.mark.parametrize(
    "spec", [CropSpec(), CropSpec(shrinking="lanczos"), CropSpec(0.125, 256, 90), CropSpec(margin=1.0, quality=100)]
)
def test_an_id_gives_its_spec_back(spec: CropSpec) -> None:
    assert CropSpec.of(spec.id) == spec


@pytest.mark.parametrize(
    "spec_id", ["", "m05-s512-q95-box", "m05-s512-q95-lanczos", "m5-s512-q95", "m05-s0512-q95", "m05-s512-q101"]
)
def test_an_id_of_no_spec_is_an_error(spec_id: str) -> None:
    with pytest.raises(ValueError):
        CropSpec.of(spec_id)


def test_a_crop_is_shrunk_as_its_spec_says() -> None:
    wide, whole = smooth(1400, 700), (0.0, 0.0, 1.0, 1.0)
    for spec, way in ((CropSpec(), "HAMMING"), (CropSpec(shrinking="lanczos"), "LANCZOS")):
        expected = np.asarray(Image.fromarray(wide).resize((512, 256), Image.Resampling[way]))
        np.testing.assert_array_equal(cut_crop(wide, whole, spec), expected)


def test_the_window_covers_the_box_and_its_margin() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height = (int(v) for v in rng.integers(20, 4000, 2))
        x, y = rng.uniform(0, 0.9, 2)
        w, h = rng.uniform(0.01, 1 - x), rng.uniform(0.01, 1 - y)
        margin = float(rng.choice([0, 0.05, 0.3]))
        left, top, right, bottom = pixel_window(width, height, (x, y, w, h), margin)
        exact = np.array([x - margin * w, y - margin * h, x + w + margin * w, y + h + margin * h])
        exact = np.clip(exact, 0, 1) * [width, height, width, height]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert np.abs(np.array([left, top, right, bottom]) - exact).max() < 1 + 1e-5


def test_pixels_of_a_crop_are_the_pixels_of_the_box() -> None:
    pixels = gradient(200, 100)
    crop = cut_crop(pixels, (0.25, 0.1, 0.5, 0.4), WIDE)
    assert crop.shape == (40, 100, 3)
    assert tuple(crop[0, 0]) == (50, 10, 0)
    assert tuple(crop[-1, -1]) == (149, 49, 0)
    with_margin = cut_crop(pixels, (0.0, 0.1, 0.5, 0.4), CropSpec(margin=0.1, max_side=4096))
    assert with_margin.shape == (48, 110, 3), "clipped on the left, 10 % on the other sides"


def test_a_sliver_gives_at_least_one_pixel() -> None:
    assert cut_crop(gradient(100, 100), (0.5, 0.5, 1e-6, 1e-6), WIDE).shape == (1, 1, 3)
    assert cut_crop(gradient(100, 100), (0.9999999, 0.2, 1e-7, 0.5), WIDE).shape == (50, 1, 3)
    assert cut_crop(gradient(4000, 20), (0, 0.5, 1, 0.01), CropSpec(0, 100)).shape == (1, 100, 3)


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (0, 0, float("nan"), 1), (1.2, 0, 0.1, 0.1), (-0.5, 0, 0.4, 1)])
def test_an_impossible_box_is_an_error(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="box"):
        cut_crop(gradient(100, 100), box, WIDE)


def test_large_crops_shrink_and_small_ones_stay() -> None:
    pixels = smooth(1000, 600)
    small = cut_crop(pixels, (0, 0, 1, 1), CropSpec(0, 250))
    assert small.shape == (150, 250, 3)
    boxed = pixels.reshape(150, 4, 250, 4, 3).astype(np.float64).mean((1, 3))
    assert np.abs(small - boxed).max() < 4
    assert cut_crop(pixels, (0, 0, 0.2, 0.2), CropSpec(0, 250)).shape == (120, 200, 3)


def test_fine_stripes_do_not_alias() -> None:
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(cut_crop(stripes, (0, 0, 1, 1), CropSpec(0, 128))[4:-4, 4:-4].astype(int)) < 12
    assert np.ptp(letterbox(stripes, 100, 100)[4:-4, 4:-4].astype(int)) < 12


def test_what_a_picture_says_of_itself_does_not_go_with_its_crop(tmp_path: Path) -> None:
    picture = Image.fromarray(smooth(160, 120))
    picture.save(tmp_path / "plain.jpg", quality=95)
    exif = Image.Exif()
    exif[0x010E] = "by the creek"
    said = {"comment": b"by the creek", "xmp": b"<x:xmpmeta>creek</x:xmpmeta>", "exif": exif}
    picture.save(tmp_path / "marked.jpg", quality=95, **said)
    boxes = [(0.1, 0.1, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0)]
    for spec in (CropSpec(), CropSpec(max_side=64)):
        marked = cut_crops(tmp_path / "marked.jpg", boxes, spec)
        assert marked == cut_crops(tmp_path / "plain.jpg", boxes, spec)
        assert not any(b"creek" in crop for crop in marked)


def test_a_stored_crop_survives_jpeg(tmp_path: Path) -> None:
    crop = smooth(120, 80)
    stored = encode_crop(crop)
    assert np.abs(decode_crop(stored).astype(int) - crop).mean() < 2
    (tmp_path / "crop.jpg").write_bytes(stored)
    assert (decode_crop(tmp_path / "crop.jpg") == decode_crop(stored)).all()
    assert stored == encode_crop(crop), "the same pixels give the same bytes"
    with Image.open(tmp_path / "crop.jpg") as image:
        assert [each[1:3] for each in image.layer] == [(1, 1)] * 3, "4:4:4"
    for damaged in (b"", stored[:200], b"not a jpeg"):
        with pytest.raises(ImageError):
            decode_crop(damaged)


def test_crops_of_a_file_keep_their_resolution_and_their_independence(tmp_path: Path) -> None:
    pixels = smooth(4000, 3000)
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=97)
    boxes = [(0.1, 0.2, 0.1, 0.08), (0.0, 0.0, 1.0, 1.0), (0.3, 0.3, 0.4, 0.35)]
    spec = CropSpec()
    together = cut_crops(path, boxes, spec)
    full = decode_image(path)
    for box, stored in zip(boxes, together, strict=True):
        reference = cut_crop(full, box, spec)
        crop = decode_crop(stored)
        assert max(crop.shape) == max(reference.shape)
        assert np.abs(np.subtract(crop.shape, reference.shape)).max() <= 2
        resized = squash(reference, crop.shape[1], crop.shape[0])
        assert np.abs(crop.astype(int) - resized).mean() < 2
        assert stored == cut_crops(path, [box], spec)[0], "a crop does not depend on the other boxes"
    assert cut_crops(path, [], spec) == []


def test_letterbox_against_a_float_reference() -> None:
    for width, height in ((300, 100), (90, 333), (7, 5), (224, 224), (1, 500)):
        pixels = smooth(width, height)
        out = letterbox(pixels, 192, 240, fill=(1, 2, 3))
        assert out.shape == (240, 192, 3)
        scale = min(192 / width, 240 / height)
        inner_width, inner_height = fitted_size(width, height, 192, 240)
        assert abs(inner_width - max(1, width * scale)) <= 0.5
        assert abs(inner_height - max(1, height * scale)) <= 0.5
        top, left = (240 - inner_height) // 2, (192 - inner_width) // 2
        frame = np.ones((240, 192), bool)
        frame[top : top + inner_height, left : left + inner_width] = False
        assert (out[frame] == (1, 2, 3)).all()
        if min(width, height) >= 90:
            reference = sampled(pixels, inner_width, inner_height)
            inner = out[top : top + inner_height, left : left + inner_width]
            assert np.abs(inner - reference).mean() < 2.5
    assert (letterbox(smooth(100, 50), 100, 100, (9, 9, 9), anchor="top_left")[50:] == 9).all()


def sampled(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Box-filtered resampling in float64, pixel centres aligned."""
    height_in, width_in = pixels.shape[:2]

    def weights(size_in: int, size: int) -> np.ndarray:
        edges = np.linspace(0, size_in, size + 1)
        cells = np.arange(size_in)
        cover = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        cover = np.clip(cover, 0, None)
        return cover / cover.sum(1, keepdims=True)

    down, across = weights(height_in, height), weights(width_in, width)
    return np.stack([down @ pixels[..., c].astype(np.float64) @ across.T for c in range(3)], -1)


def test_the_inner_part_is_the_centre() -> None:
    pixels = gradient(200, 100)
    part = inner_part(pixels, 0.7)
    assert part.shape == (70, 140, 3)
    assert tuple(part[0, 0, :2]) == (30, 15)
    assert inner_part(pixels, 1.0).shape == pixels.shape
    assert inner_part(gradient(1, 1), 0.1).shape == (1, 1, 3)
