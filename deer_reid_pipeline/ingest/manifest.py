"""Is a manifest readable at all: encoding, size and JSON syntax, before anything in it is believed."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
SIZE_LIMIT = 1 << 30
"""Largest table in bytes."""

JSON_LIMIT = 1 << 29
"""Largest JSON file in bytes; in memory a text with one rare character takes four times that."""

MOST_VALUES = 20_000_000
"""Most values in a JSON file, about 2 million pictures; `[],` takes 3 bytes in a file and 64 in memory."""


class UnusableManifest(Exception):  # noqa: N818
    """A manifest as a whole cannot be used; the text is the reason, for a person."""


def check_utf8(path: Path) -> None:
    """Read the file once, in bounded memory, and see that it is UTF-8 text (a byte order mark is fine).

    Raises:
        UnusableManifest: empty, over 1 GiB, UTF-16 or UTF-32, another encoding, or not readable.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise UnusableManifest("it is larger than 1 GiB; split the drop")
        with path.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                if position == 0 and (
                    chunk[:2] in (b"\xff\xfe", b"\xfe\xff") or chunk[:200].count(0) * 4 > len(chunk[:200])
                ):
                    raise UnusableManifest("it is in UTF-16 or is not text; save it as UTF-8")
                decoder.decode(chunk)
                position += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        where = position + max(error.start, 0)
        raise UnusableManifest(f"it is not UTF-8 text (near byte {where}); save it as UTF-8") from error
    except OSError as error:
        raise UnusableManifest(f"it cannot be read ({error.strerror or 'input error'})") from error
    if position == 0:
        raise UnusableManifest("it is empty")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 300 else math.inf


def load_json(path: Path) -> Any:
    """The parsed file. NaN and Infinity come through as floats, absurdly long integers as infinity.

    Raises:
        UnusableManifest: not readable, not UTF-8, over 512 MiB or 20 million values, cut in half, or
            nested too deeply.
    """
    check_utf8(path)
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise UnusableManifest("it is larger than 512 MiB; split the drop")
        data = path.read_bytes()
        if sum(map(data.count, (b"[", b"{", b","))) > MOST_VALUES:
            raise UnusableManifest(f"it holds more than {MOST_VALUES // 10**6} million values; split the drop")
        text = data.decode("utf-8-sig")
        del data
        return json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise UnusableManifest(
            f"it is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); cut short?"
        ) from error
    except RecursionError as error:
        raise UnusableManifest("its JSON is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise UnusableManifest("it cannot be read as JSON") from error
