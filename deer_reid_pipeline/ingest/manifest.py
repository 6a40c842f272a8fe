"""Is a manifest readable at all: encoding, size and JSON syntax, before anything in it is believed."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_JSON_LIMIT = 1 << 30


class UnusableManifest(Exception):  # noqa: N818
    """A manifest as a whole cannot be used; the text is the reason, for a person."""


def check_utf8(path: Path) -> None:
    """Read the file once, in bounded memory, and see that it is UTF-8 text (a byte order mark is fine).

    Raises:
        UnusableManifest: empty, UTF-16 or UTF-32, another encoding, or not readable.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    try:
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
        UnusableManifest: not readable, not UTF-8, over 1 GiB, cut in half, or nested too deeply.
    """
    check_utf8(path)
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise UnusableManifest("it is larger than 1 GiB; split the drop")
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise UnusableManifest(
            f"it is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); cut short?"
        ) from error
    except RecursionError as error:
        raise UnusableManifest("its JSON is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise UnusableManifest("it cannot be read as JSON") from error
