"""Picture files to upright 8-bit RGB, and the reasons why a file cannot be one.

Every file that a camera card can hold either becomes a plain array or an `ImageError` with a code that the
quarantine shows. The header is judged before anything is decoded, so a decompression bomb costs nothing.
Truncated files are never patched up: a picture of which half is grey would be matched like any other.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.vision.colour import Pixels, is_grey, to_rgb

__all__ = [
    "CODES",
    "FORMATS",
    "ImageError",
    "ImageInfo",
    "Pixels",
    "decode_image",
    "image_size",
    "inspect_image",
    "open_upright",
]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "MPO")
"""Pillow formats that are read; everything else is `not_an_image`."""

CODES = (
    "empty_file",
    "not_an_image",
    "truncated",
    "too_many_pixels",
    "too_many_scans",
    "too_small",
    "unreadable",
)
MAX_MEGAPIXELS = 120.0
MIN_SIDE = 16
MAX_SCANS = 64
"""Most scans of a JPEG. Encoders write 10; each costs a pass over the whole picture and no more than 100 bytes."""

MOST_FRAMES = 1000
"""Frames are counted up to this number: a small file can hold millions of empty ones."""

_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_HEAD = 1 << 18
_STANDALONE_MARKERS = (0x01, 0xD8)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

_EXIF_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_EXIF_DATETIME_ORIGINAL = 0x9003
_INSPECT_LONG_SIDE = 256


class ImageError(DeerReidError):
    """A file is not a usable picture. `code` is one of `CODES`; the text says what was found."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ImageInfo:
    """What a picture file holds. Sizes are pixels after the EXIF orientation is applied.

    `timestamp` is the camera's own clock (EXIF DateTimeOriginal, no zone), None where absent or nonsense.
    `grey` is True where the picture has no colour, which on a trail camera means infrared at night. `frames` is
    at most `MOST_FRAMES`.
    """

    width: int
    height: int
    format: str
    timestamp: datetime | None
    frames: int
    grey: bool


def inspect_image(path: str | Path, *, max_megapixels: float = MAX_MEGAPIXELS, min_side: int = MIN_SIDE) -> ImageInfo:
    """Check that a file is a whole picture, and read its facts.

    Size limits are applied to the header; after that every byte is decoded (JPEG at reduced scale), so that a
    truncated file is found here and not in the middle of a night's run.

    Raises:
        ImageError: with a code of `CODES`.
    """
    with _opened(Path(path)) as image:
        _check_size(image, Path(path), max_megapixels, min_side)
        _check_scans(image, Path(path))
        width, height = _upright_size(image)
        picture_format = image.format or "unknown"
        timestamp = _timestamp(image)
        _draft(image, _INSPECT_LONG_SIDE)
        pixels = to_rgb(image)
        grey = is_grey(np.asarray(pixels.reduce(max(1, max(pixels.size) // _INSPECT_LONG_SIDE))))
        frames = _frames(image)
    return ImageInfo(width, height, picture_format, timestamp, frames, grey)


def decode_image(
    path: str | Path, *, min_long_side: int | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> Pixels:
    """Decode a file to upright RGB, uint8 [height, width, 3]; animations give their first frame.

    With `min_long_side` (pixels) a JPEG may come out at 1/2, 1/4 or 1/8 scale, its long side never below that
    value (2.8 times faster for a 12-megapixel picture).

    Raises:
        ImageError: with a code of `CODES`.
    """
    return np.ascontiguousarray(np.asarray(open_upright(path, min_long_side, max_megapixels)))


def open_upright(
    path: str | Path, min_long_side: int | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> Image.Image:
    """What `decode_image` gives, as a Pillow image: who wants a part of it need not copy all of it.

    Raises:
        ImageError: with a code of `CODES`.
    """
    with _opened(Path(path)) as image:
        _check_size(image, Path(path), max_megapixels, 1)
        _check_scans(image, Path(path))
        if min_long_side is not None:
            _draft(image, min_long_side)
        orientation = _orientation(image)
        pixels = to_rgb(image)
    return _upright(pixels, orientation)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels after orientation, from the header alone.

    Raises:
        ImageError: the file has no readable header.
    """
    with _opened(Path(path)) as image:
        return _upright_size(image)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open one file as a Pillow image; every way in which reading it can fail leaves as an `ImageError`."""
    try:
        with path.open("rb") as stream:
            yield _identify(stream, path)
    except (ImageError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (OSError, EOFError, struct.error, zlib.error) as error:
        code = "truncated" if _looks_truncated(error) else "unreadable"
        what = "ends before the picture does" if code == "truncated" else f"cannot be decoded ({_short(error)})"
        raise ImageError(code, f"{path.name} {what}") from error
    except Image.DecompressionBombError as error:  # a frame that is larger than the picture's header says
        raise ImageError("too_many_pixels", f"{path.name} has too many pixels ({_short(error)})") from error
    except Exception as error:  # a damaged file can make Pillow's plugins raise anything
        raise ImageError("unreadable", f"{path.name} cannot be decoded ({_short(error)})") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _identify(stream: Any, path: Path) -> Any:
    """Open by content, not by name.

    Pillow's registered factories are called directly because `Image.open` warns about large pictures through
    the process-wide warning filters, which are not ours to change and not safe to change from a thread.
    """
    prefix = stream.read(16)
    if not prefix:
        raise ImageError("empty_file", f"{path.name} is empty")
    Image.init()
    for name in FORMATS:
        if name not in Image.OPEN:  # MPO: such files open as JPEG
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept(prefix) if accept else False
        if not accepted or isinstance(accepted, str):
            continue
        stream.seek(0)
        try:
            return factory(stream, str(path))
        except UnidentifiedImageError:
            continue
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            if path.stat().st_size < 1024:
                raise ImageError("truncated", f"{path.name} ends inside its header") from error
            raise
    raise ImageError("not_an_image", f"{path.name} is not a picture ({', '.join(FORMATS)})")


def _looks_truncated(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, EOFError | struct.error) or any(
        word in text for word in ("truncat", "unexpected end", "incomplete", "not enough", "eof", "broken png")
    )


def _check_size(image: Any, path: Path, max_megapixels: float, min_side: int) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise ImageError(
            "too_many_pixels",
            f"{path.name} claims {width} x {height} pixels, more than {max_megapixels:g} million",
        )
    if min(width, height) < min_side:
        raise ImageError("too_small", f"{path.name} is {width} x {height} pixels, below {min_side} on a side")


def _check_scans(image: Any, path: Path) -> None:
    if image.format in ("JPEG", "MPO") and _scans(image, path) > MAX_SCANS:
        raise ImageError("too_many_scans", f"{path.name} is a JPEG of more than {MAX_SCANS} scans; no camera writes it")


def _scans(image: Any, path: Path) -> int:
    """Scans of a JPEG, counted to one above `MAX_SCANS`; where the first one holds the whole picture, 1."""
    with path.open("rb") as stream:
        data = stream.read(_JPEG_HEAD)
        at = next((at for marker, at in _markers(data) if marker == _START_OF_SCAN), None)
        if at is not None and not image.info.get("progressive") and data[at + 2 : at + 3] == bytes([image.layers]):
            return 1
        data += stream.read()
    scans = 0
    for marker, _ in _markers(data):
        scans += marker == _START_OF_SCAN
        if scans > MAX_SCANS:
            break
    return scans


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers of the first picture in a JPEG file, each with the place of what follows it."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        yield marker, at
        if marker == _END_OF_IMAGE:
            return
        if marker not in _STANDALONE_MARKERS:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))


def _draft(image: Any, min_long_side: int) -> None:
    """Let libjpeg decode at a reduced scale whose long side is at least `min_long_side`."""
    if image.format != "JPEG":
        return
    for divisor in (8, 4, 2):
        if max(image.size) // divisor >= max(1, min_long_side):
            width, height = image.size
            image.draft(None, (max(1, width // divisor), max(1, height // divisor)))
            return


def _exif(image: Any) -> Any:
    """The EXIF block, or an empty one: a damaged block costs the time stamp, not the picture."""
    try:
        return image.getexif()
    except (SyntaxError, OSError, ValueError, KeyError, TypeError, IndexError, struct.error, zlib.error):
        return Image.Exif()


def _orientation(image: Any) -> int:
    """EXIF orientation still to be undone, 1 to 8; Pillow turns TIFF files by itself."""
    if image.format == "TIFF":
        return 1
    value = _exif(image).get(_EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright_size(image: Any) -> tuple[int, int]:
    return (image.height, image.width) if _orientation(image) >= 5 else (image.width, image.height)


def _timestamp(image: Any) -> datetime | None:
    try:
        text = _exif(image).get_ifd(_EXIF_IFD).get(_EXIF_DATETIME_ORIGINAL)
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S") if text else None
    except (SyntaxError, OSError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return None


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    marked = image.copy() if orientation != 1 else image
    if orientation == 1:
        return marked
    marked.getexif()[_EXIF_ORIENTATION] = orientation
    return ImageOps.exif_transpose(marked)


def _frames(image: Any) -> int:
    """Number of frames, at most `MOST_FRAMES`. `n_frames` of a GIF or TIFF would walk through all of them."""
    frames = 1
    try:
        if image.format not in ("GIF", "TIFF"):
            return min(int(getattr(image, "n_frames", 1)), MOST_FRAMES)
        while frames < MOST_FRAMES:
            image._seek(frames, False) if image.format == "GIF" else image._seek(frames)
            frames += 1
    except Exception:  # what follows the first frame is not used, however it is damaged
        return frames
    return frames
