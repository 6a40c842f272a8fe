"""Cut animals out of pictures, and lay crops out for a network. Geometry only: no torch.

The JPEG that `encode_crop` makes is the canonical input of every recipe: what is embedded today, tomorrow and
by an analyst who opens the file is the same pixels. A crop depends on its picture, its box and the
`CropSpec`, never on the other boxes in the picture.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from deer_reid_pipeline.vision.decode import ImageError, Pixels, decode_image, image_size, open_upright

Box = tuple[float, float, float, float]
"""x, y, width, height as shares (0 to 1) of the upright picture; x and y are the top left corner."""
Shrinking = Literal["hamming", "lanczos"]
"""How a crop that is too large is shrunk. Lanczos takes twice the time, which every crop of a large picture pays."""

_RESAMPLING: dict[Shrinking, Image.Resampling] = {
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
_ID = re.compile(r"m(?P<margin>\d{2,3}(?:_\d{1,2})?)-s(?P<side>\d+)-q(?P<quality>\d+)(?P<hamming>-hamming)?")


@dataclass(frozen=True)
class CropSpec:
    """How crops are cut: `margin` is a share of the box added on each side, `max_side` pixels, `quality` JPEG."""

    margin: float = 0.05
    max_side: int = 512
    quality: int = 95
    shrinking: Shrinking = "hamming"

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1 or self.max_side < 1 or not 1 <= self.quality <= 100:
            raise ValueError(f"impossible crop specification: {self}")

    @property
    def id(self) -> str:
        """Like 'm05-s512-q95-hamming'; stored beside every crop."""
        margin = f"{self.margin * 100:05.2f}".rstrip("0").rstrip(".").replace(".", "_")
        return f"m{margin}-s{self.max_side}-q{self.quality}{shrinking_in_id(self.shrinking)}"

    @classmethod
    def of(cls, spec_id: str) -> CropSpec:
        """The specification that an id names.

        Raises:
            ValueError: none has this id.
        """
        found = _ID.fullmatch(spec_id)
        if found is not None:
            spec = cls(
                margin=float(found["margin"].replace("_", ".")) / 100,
                max_side=int(found["side"]),
                quality=int(found["quality"]),
                shrinking="hamming" if found["hamming"] else "lanczos",
            )
            if spec.id == spec_id:
                return spec
        raise ValueError(f"no crop specification has the id {spec_id!r}")


NEW_HOME = CropSpec()
"""How crops are cut in a home that has no live recipe, which says so in others."""


def shrinking_in_id(shrinking: Shrinking) -> str:
    """How the id of a specification ends. Nothing means Lanczos: ids from before there was another say nothing."""
    return "" if shrinking == "lanczos" else f"-{shrinking}"


def pixel_window(width: int, height: int, box: Sequence[float], margin: float) -> tuple[int, int, int, int]:
    """The pixels (left, top, right, bottom; right and bottom exclusive) of a box with its margin, inside the
    picture.

    Raises:
        ValueError: the box is not finite, has no area, or lies outside the picture.
    """
    x, y, w, h = (float(value) for value in box)
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise ValueError(f"box {tuple(box)} has no area")
    if x >= 1 or y >= 1 or x + w <= 0 or y + h <= 0:
        raise ValueError(f"box {tuple(box)} lies outside the picture")
    left, right = _span(x - margin * w, x + w + margin * w, width)
    top, bottom = _span(y - margin * h, y + h + margin * h, height)
    return left, top, right, bottom


def cut_crop(pixels: Pixels, box: Sequence[float], spec: CropSpec = CropSpec()) -> Pixels:
    """Cut one box (normalised x, y, width, height) out of uint8 [h, w, 3]; long side at most `spec.max_side`.

    Raises:
        ValueError: the box has no area or lies outside the picture.
    """
    left, top, right, bottom = pixel_window(pixels.shape[1], pixels.shape[0], box, spec.margin)
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    return part if max(part.shape[:2]) <= spec.max_side else np.asarray(_shrink(Image.fromarray(part), spec))


def cut_crops(path: str | Path, boxes: Sequence[Sequence[float]], spec: CropSpec = CropSpec()) -> list[bytes]:
    """Cut boxes out of a picture file and encode each as JPEG, in the order of `boxes`.

    The picture is decoded once per scale that is needed (usually one): the smallest at which libjpeg still
    gives a crop all the pixels that it keeps.

    Raises:
        ImageError: the picture cannot be decoded.
        ValueError: a box has no area or lies outside the picture.
    """
    size = image_size(path)
    decoded: dict[int, Image.Image] = {}
    encoded = []
    for box in boxes:
        side = _long_side(size, box, spec)
        if side not in decoded:
            decoded[side] = open_upright(path, side)
        encoded.append(cut_from(decoded[side], box, spec))
    return encoded


def open_for_crop(path: str | Path, box: Sequence[float], spec: CropSpec = CropSpec()) -> Image.Image:
    """The whole picture, decoded at the scale at which `cut_crops` cuts this box out of it.

    Raises:
        ImageError: the picture cannot be decoded.
        ValueError: the box has no area or lies outside the picture.
    """
    return open_upright(path, _long_side(image_size(path), box, spec))


def cut_from(picture: Image.Image, box: Sequence[float], spec: CropSpec = CropSpec()) -> bytes:
    """Cut one box out of a decoded picture, and encode it as JPEG.

    Raises:
        ValueError: the box has no area or lies outside the picture.
    """
    part = picture.crop(pixel_window(*picture.size, box, spec.margin))
    return _encode(_shrink(part, spec), spec)


def encode_crop(pixels: Pixels, spec: CropSpec = CropSpec()) -> bytes:
    """JPEG of uint8 [h, w, 3], colour at full resolution (4:4:4)."""
    return _encode(Image.fromarray(pixels), spec)


def decode_crop(source: bytes | str | Path) -> Pixels:
    """uint8 [h, w, 3] of a stored crop.

    Raises:
        ImageError: the bytes or the file are not a whole JPEG.
    """
    if not isinstance(source, bytes):
        return decode_image(source)
    try:
        with Image.open(io.BytesIO(source), formats=["JPEG"]) as image:
            return np.ascontiguousarray(np.asarray(image.convert("RGB")))
    except OSError as error:
        raise ImageError("unreadable", f"stored crop of {len(source)} bytes is not a whole JPEG: {error}") from error


def inner_part(pixels: Pixels, share: float) -> Pixels:
    """The centre `share` (0 to 1] of each side of uint8 [h, w, 3]: less background at the edges."""
    height, width = pixels.shape[:2]
    inner_height, inner_width = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return pixels[top : top + inner_height, left : left + inner_width]


def letterbox(
    pixels: Pixels,
    width: int,
    height: int,
    fill: tuple[int, int, int] = (128, 128, 128),
    anchor: str = "centre",
) -> Pixels:
    """Fit uint8 [h, w, 3] into uint8 [height, width, 3] without distortion; the rest is `fill`.

    `anchor` is 'centre' or 'top_left'.
    """
    inner_width, inner_height = fitted_size(pixels.shape[1], pixels.shape[0], width, height)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.asarray(fill, np.uint8)
    top, left = ((height - inner_height) // 2, (width - inner_width) // 2) if anchor == "centre" else (0, 0)
    canvas[top : top + inner_height, left : left + inner_width] = squash(pixels, inner_width, inner_height)
    return canvas


def fitted_size(width: int, height: int, into_width: int, into_height: int) -> tuple[int, int]:
    """The largest size (at least 1 x 1) of the same aspect inside `into_width` x `into_height`."""
    scale = min(into_width / width, into_height / height)
    return (
        min(into_width, max(1, round(width * scale))),
        min(into_height, max(1, round(height * scale))),
    )


def squash(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize uint8 [h, w, 3] to [height, width, 3], aspect not kept; bilinear, antialiased when it
    shrinks."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """Whole pixels that cover [low, high] (shares) of `size`, at least one."""
    start = min(size - 1, max(0, math.floor(low * size + 1e-6)))
    end = max(start + 1, min(size, math.ceil(high * size - 1e-6)))
    return start, end


def _shrink(part: Image.Image, spec: CropSpec) -> Image.Image:
    if max(part.size) <= spec.max_side:
        return part
    return part.resize(fitted_size(*part.size, spec.max_side, spec.max_side), _RESAMPLING[spec.shrinking])


def _encode(part: Image.Image, spec: CropSpec) -> bytes:
    part.info = {}  # Pillow would write the picture's own comment and XMP into the crop
    stream = io.BytesIO()
    part.save(stream, "JPEG", quality=spec.quality, subsampling=0)
    return stream.getvalue()


def _long_side(size: tuple[int, int], box: Sequence[float], spec: CropSpec) -> int:
    """Pixels that a picture's long side must keep so that this box has all the pixels that its crop keeps."""
    left, top, right, bottom = pixel_window(*size, box, spec.margin)
    return max(size) // _divisor(max(right - left, bottom - top), spec.max_side)


def _divisor(crop_side: int, max_side: int) -> int:
    """The strongest JPEG reduction (1, 2, 4, 8) that leaves a crop of `crop_side` pixels at least
    `max_side`."""
    return next((d for d in (8, 4, 2) if crop_side // d > max_side), 1)
