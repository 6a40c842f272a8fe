"""A picture file without what it says of itself, so that it can be handed on: no place, no maker's notes, no comments.

Only the upright direction and the time of day are kept. Pixels are copied as they are coded, never coded anew; what a
camera wrote into the picture itself stays. Formats that are not understood give nothing rather than something unsafe.
"""

from __future__ import annotations

import io
import re
import struct
import zlib

from PIL import Image

_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_DATETIME_ORIGINAL = 0x9003
_EXIF_MOMENT = re.compile(r"\d{4}:\d{2}:\d{2} \d{2}:\d{2}:\d{2}")

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs"}
)

_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""JPEG markers without a segment."""
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def without_metadata(content: bytes) -> bytes | None:
    """The same picture, coded as it is, without metadata but orientation and DateTimeOriginal.

    Returns:
        None where the file is neither JPEG nor PNG, or is not built as these are.
    """
    try:
        if content.startswith(b"\xff\xd8"):
            return _jpeg(content)
        if content.startswith(_PNG):
            return _png(content)
    except (struct.error, IndexError, ValueError):
        pass
    return None


def _kept_exif(content: bytes) -> bytes:
    """A new EXIF block, as TIFF, with the orientation and the time of a picture; empty where it has neither."""
    exif = Image.Exif()
    try:
        with Image.open(io.BytesIO(content)) as image:
            found = image.getexif()
            orientation, moment = found.get(_ORIENTATION), found.get_ifd(_EXIF_IFD).get(_DATETIME_ORIGINAL)
    except Exception:  # whatever an EXIF block can hold: Pillow raises many kinds, and nothing of it is kept then
        return b""
    if isinstance(orientation, int) and 1 <= orientation <= 8:
        exif[_ORIENTATION] = orientation
    if isinstance(moment, str) and _EXIF_MOMENT.fullmatch(moment):
        exif.get_ifd(_EXIF_IFD)[_DATETIME_ORIGINAL] = moment
    made = exif.tobytes() if len(exif) or exif.get_ifd(_EXIF_IFD) else b""
    return made.removeprefix(b"Exif\x00\x00")


def _jpeg(content: bytes) -> bytes | None:
    """Segments that decoding needs: JFIF, Adobe's colour transform, the colour profile, tables, frames and scans."""
    kept = bytearray(b"\xff\xd8")
    exif = _kept_exif(content)
    if exif:
        kept += b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\x00\x00" + exif
    place = 2
    while True:
        if content[place] != 0xFF:
            return None
        while content[place] == 0xFF:
            place += 1
        marker = content[place]
        place += 1
        if marker == _EOI:
            return bytes(kept + b"\xff\xd9")  # what follows is no part of the picture
        if marker in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", content, place)
        body = content[place + 2 : place + length]
        if len(body) != length - 2:
            return None
        if _belongs(marker, body):
            kept += bytes((0xFF, marker)) + content[place : place + length]
        place += length
        if marker == _SOS:
            found = _NEXT_MARKER.search(content, place)
            if found is None:
                return None
            kept += content[place : found.start()]
            place = found.start()


def _belongs(marker: int, body: bytes) -> bool:
    """Whether a JPEG segment is needed to decode the picture as it is seen."""
    if marker == 0xE0:
        return body.startswith(b"JFIF\x00")
    if marker == 0xE2:
        return body.startswith(b"ICC_PROFILE\x00")
    if marker == 0xEE:
        return body.startswith(b"Adobe")
    return not (0xE0 <= marker <= 0xEF or marker == _COM)


def _png(content: bytes) -> bytes | None:
    """Chunks that decoding needs, and an EXIF chunk of our own before the pixels."""
    kept = bytearray(_PNG)
    exif = _kept_exif(content)
    place = len(_PNG)
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind = content[place + 4 : place + 8]
        whole = content[place : place + 12 + length]
        if len(whole) != 12 + length:
            return None
        if kind == b"IDAT" and exif:
            kept += struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
            exif = b""
        if kind in _PNG_KEPT:
            kept += whole
        place += 12 + length
        if kind == b"IEND":
            return bytes(kept)
    return None
