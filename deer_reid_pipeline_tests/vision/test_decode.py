"""Every file a camera card can hold becomes sane RGB, or an error with the right code."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deer_reid_pipeline.vision.decode import ImageError, decode_image, image_size, inspect_image


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Smooth, coloured, different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)
    )


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, idat, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def code_of(path: Path, **options: float) -> str:
    with pytest.raises(ImageError) as caught:
        inspect_image(path, **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(path.name)
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_a_good_picture_tells_its_facts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:11:05 06:07:08"
    exif[0x0112] = 6
    picture().save(tmp_path / "a.jpg", exif=exif)
    info = inspect_image(tmp_path / "a.jpg")
    assert (info.width, info.height) == (48, 64) == image_size(tmp_path / "a.jpg")
    assert (info.format, info.frames, info.grey) == ("JPEG", 1, False)
    assert info.timestamp == datetime(2024, 11, 5, 6, 7, 8)


@pytest.mark.parametrize("text", ["0000:00:00 00:00:00", "yesterday", "2024:13:40 99:99:99", ""])
def test_a_nonsense_time_stamp_is_no_time_stamp(tmp_path: Path, text: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = text
    picture().save(tmp_path / "a.jpg", exif=exif)
    assert inspect_image(tmp_path / "a.jpg").timestamp is None


def test_damaged_exif_costs_the_time_stamp_and_not_the_picture(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x07" * 40)
    info = inspect_image(tmp_path / "a.jpg")
    assert info.timestamp is None
    assert decode_image(tmp_path / "a.jpg").shape == (48, 64, 3)


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_every_format_is_found_truncated(tmp_path: Path, extension: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8))
    whole = tmp_path / f"whole.{extension}"
    noise.save(whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{extension}"
    cut.write_bytes(content[: len(content) * 6 // 10])
    inspect_image(whole)
    assert code_of(cut) in ("truncated", "unreadable")
    if extension in ("jpg", "png", "bmp"):
        assert code_of(cut) == "truncated"
    with pytest.raises(ImageError):
        decode_image(cut, min_long_side=20)


def test_a_file_cut_inside_its_header_is_truncated(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:60])
    assert code_of(tmp_path / "b.jpg") == "truncated"


def test_what_is_not_a_picture_has_a_code(tmp_path: Path) -> None:
    for name, content, code in (
        ("empty.jpg", b"", "empty_file"),
        ("text.jpg", b"this is not a picture at all", "not_an_image"),
        ("page.jpg", b"%PDF-1.4 and so on, a long way", "not_an_image"),
        ("draw.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    ):
        (tmp_path / name).write_bytes(content)
        assert code_of(tmp_path / name) == code
    picture(15, 200).save(tmp_path / "thin.png")
    assert code_of(tmp_path / "thin.png") == "too_small"
    picture(1100, 1000).save(tmp_path / "big.png")
    assert code_of(tmp_path / "big.png", max_megapixels=1) == "too_many_pixels"


def test_formats_that_need_outside_programs_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    assert code_of(tmp_path / "a.jpg") == "not_an_image"


@pytest.mark.parametrize("side", [30_000, 12_000])
def test_a_bomb_is_refused_by_its_header_and_without_warnings(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert code_of(tmp_path / "bomb.png") == "too_many_pixels"
        with pytest.raises(ImageError) as caught:
            decode_image(tmp_path / "bomb.png")
    assert caught.value.code == "too_many_pixels"


def test_a_large_but_allowed_picture_gives_no_warning(tmp_path: Path) -> None:
    Image.new("L", (10_000, 9_500), 90).save(tmp_path / "large.png", compress_level=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect_image(tmp_path / "large.png").width == 10_000


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_come_out_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.asarray(picture(64, 48))
    # What the camera stores so that undoing the orientation gives `upright` (EXIF 2.3, table of tag 274).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.jpg", "a.tif"):
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif)
        pixels = decode_image(tmp_path / name)
        assert pixels.shape == upright.shape
        assert np.abs(pixels.astype(int) - upright).mean() < (4 if name.endswith("jpg") else 1e-9)
        info = inspect_image(tmp_path / name)
        assert (info.width, info.height) == (64, 48)


def test_draft_decoding_keeps_the_long_side_and_the_picture(tmp_path: Path) -> None:
    picture(1600, 1203).save(tmp_path / "a.jpg", quality=95)
    full = decode_image(tmp_path / "a.jpg")
    assert full.shape == (1203, 1600, 3)
    for wanted, expected in ((801, 1600), (800, 800), (401, 800), (400, 400), (201, 400), (10, 200)):
        small = decode_image(tmp_path / "a.jpg", min_long_side=wanted)
        assert small.shape[1] == expected >= wanted
        reference = np.asarray(Image.fromarray(full).resize(small.shape[1::-1], Image.Resampling.BOX))
        assert np.abs(small.astype(int) - reference).mean() < 2


def test_deep_grey_is_scaled_by_its_own_range(tmp_path: Path) -> None:
    ramp = np.linspace(30_000, 34_000, 64 * 48).reshape(48, 64)
    expected = np.rint((ramp.astype(np.uint16) - 30_000.0) / 4_000 * 255)
    for name, values in (
        ("a.png", ramp.astype(np.uint16)),
        ("a.tif", ramp.astype(np.uint16)),
        ("b.tif", ramp.astype(np.int32)),
        ("c.tif", ramp.astype(np.float32)),
    ):
        Image.fromarray(values).save(tmp_path / name)
        pixels = decode_image(tmp_path / name)
        assert np.abs(pixels[..., 0] - expected).max() <= 1, name
        assert (pixels[..., 0] == pixels[..., 2]).all()
        assert inspect_image(tmp_path / name).grey
    Image.fromarray(np.full((48, 64), 500, np.uint16)).save(tmp_path / "flat.png")
    assert (decode_image(tmp_path / "flat.png") == 128).all()
    hole = ramp.astype(np.float32)
    hole[0, 0] = np.nan
    Image.fromarray(hole).save(tmp_path / "nan.tif")
    assert decode_image(tmp_path / "nan.tif")[0, 0, 0] == 0


def test_print_and_palette_colours_become_rgb(tmp_path: Path) -> None:
    colour = Image.new("RGB", (64, 48), (200, 40, 90))
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    colour.quantize(8).save(tmp_path / "palette.png")
    colour.convert("YCbCr").save(tmp_path / "ycc.tif")
    for name, slack in (("cmyk.jpg", 6), ("palette.png", 0), ("ycc.tif", 3)):
        assert np.abs(decode_image(tmp_path / name).astype(int) - (200, 40, 90)).max() <= slack, name
    Image.new("1", (64, 48), 1).save(tmp_path / "bits.png")
    assert (decode_image(tmp_path / "bits.png") == 255).all()


def test_transparency_is_laid_on_mid_grey(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 48), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (64, 48), (255, 0, 0, 255)).save(tmp_path / "solid.webp", lossless=True)
    Image.new("LA", (64, 48), (255, 0)).save(tmp_path / "grey.png")
    Image.new("P", (64, 48), 0).save(tmp_path / "palette.png", transparency=0)
    assert (decode_image(tmp_path / "clear.png") == 128).all()
    assert (decode_image(tmp_path / "solid.webp") == (255, 0, 0)).all()
    assert (decode_image(tmp_path / "grey.png") == 128).all()
    assert (decode_image(tmp_path / "palette.png") == 128).all()


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif"])
def test_animations_give_their_first_frame(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    extra = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **extra)
    assert inspect_image(tmp_path / name).frames == 3
    assert (decode_image(tmp_path / name) == (250, 0, 0)).all()


def test_mpo_is_read(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[picture()])
    info = inspect_image(tmp_path / "a.jpg")
    assert (info.format, info.frames) == ("MPO", 2)
    assert decode_image(tmp_path / "a.jpg").shape == (48, 64, 3)


def test_infrared_is_told_from_colour() -> None:
    from deer_reid_pipeline.vision.colour import is_grey

    rng = np.random.default_rng(0)
    night = rng.integers(0, 200, (90, 120, 1)).repeat(3, axis=2).astype(np.uint8)
    assert is_grey(night)
    assert is_grey((night + np.array([18, 0, 10])).astype(np.uint8)), "an even tint is no colour"
    strip = night.copy()
    strip[-7:] = (200, 30, 30)
    assert is_grey(strip), "nor is a coloured information strip"
    assert not is_grey(np.asarray(picture(120, 90)))


def test_a_jpeg_thumbnail_does_not_hide_a_damaged_picture(tmp_path: Path) -> None:
    stream = io.BytesIO()
    picture(400, 300).save(stream, "JPEG", progressive=True, quality=95)
    (tmp_path / "a.jpg").write_bytes(stream.getvalue()[:-400])
    assert code_of(tmp_path / "a.jpg") == "truncated"


def test_decode_crops_and_recipe_need_no_torch() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import deer_reid_pipeline.vision.decode, deer_reid_pipeline.vision.crops\n"
        "import deer_reid_pipeline.vision.recipe, deer_reid_pipeline.vision.detectors\n"
        "import deer_reid_pipeline.vision.weights, deer_reid_pipeline.vision.catalog\n"
        "import deer_reid_pipeline.vision.contact_sheet\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
