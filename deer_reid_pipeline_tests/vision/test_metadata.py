"""A picture handed on: the same pixels, the same direction, and nothing of what the file said of itself."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deer_reid_pipeline.vision.metadata import without_metadata

SECRET = b"51.5678912"


def content(kind: str, *, orientation: int | None = None, **options: Any) -> bytes:
    """A small picture that says where it was taken wherever the format lets it."""
    image = Image.effect_noise((40, 24), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    if orientation is not None:
        exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    exif.get_ifd(0x8769)[0x927C] = b"maker " + SECRET
    exif.get_ifd(0x8825)[2] = (51.0, 34.0, 4.4)
    exif.get_ifd(0x8825)[1] = "N"
    if kind == "JPEG":
        options |= {"comment": SECRET, "xmp": b"<x>" + SECRET + b"</x>", "quality": 90}
    else:
        text = PngInfo()
        text.add_text("place", SECRET.decode())
        text.add_itxt("XML:com.adobe.xmp", SECRET.decode())
        options |= {"pnginfo": text}
    stream = io.BytesIO()
    image.save(stream, kind, exif=exif, **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"restart_marker_blocks": 1}), ("PNG", {})],
)
def test_only_direction_and_time_are_left(kind: str, options: dict[str, Any]) -> None:
    before = content(kind, orientation=6, **options)
    assert SECRET in before
    after = without_metadata(before)
    assert after is not None
    assert SECRET not in after
    assert np.array_equal(pixels(after), pixels(before))
    with Image.open(io.BytesIO(after)) as image:
        image.load()
        exif = image.getexif()
        assert exif[0x0112] == 6
        assert dict(exif.get_ifd(0x8769)) == {0x9003: "2026:01:02 03:04:05"}
        assert dict(exif.get_ifd(0x8825)) == {}
        assert not {"xmp", "comment", "place"} & set(image.info)
    assert without_metadata(after) == after


def test_what_follows_the_picture_goes_and_its_colours_stay() -> None:
    for mode in ("L", "CMYK"):  # CMYK needs Adobe's segment
        stream = io.BytesIO()
        Image.effect_noise((40, 24), 60).convert(mode).save(stream, "JPEG", icc_profile=b"profile")
        before = stream.getvalue()
        after = without_metadata(before + b"more " + SECRET)
        assert after is not None
        assert SECRET not in after
        assert np.array_equal(pixels(after), pixels(before))
        with Image.open(io.BytesIO(after)) as image:
            assert (image.mode, image.info["icc_profile"]) == (mode, b"profile")


def test_a_picture_that_is_not_understood_gives_nothing() -> None:
    whole = content("JPEG")
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, "TIFF")
    for data in (b"", b"GIF89a", stream.getvalue(), whole[:40], whole[:-2], whole[:2] + b"x" + whole[2:]):
        assert without_metadata(data) is None
    png = content("PNG")
    assert without_metadata(png[:-12]) is None
    assert without_metadata(png[:60]) is None


def test_values_that_are_not_a_direction_or_a_time_are_not_kept() -> None:
    image = Image.new("RGB", (20, 20))
    exif = Image.Exif()
    exif[0x0112] = 99
    exif.get_ifd(0x8769)[0x9003] = SECRET.decode()
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    after = without_metadata(stream.getvalue())
    assert after is not None
    assert b"Exif" not in after
