"""How file names and cells are put into messages: ASCII only, on one line, and short.

`printable` is for sentences that are logged or printed; `storable` is for names that are kept as they are but
must fit into a database column. Neither ever raises.
"""

from __future__ import annotations

import unicodedata

NAME_LIMIT = 400
"""Longest `QuarantineEntry.file` and reason, in characters: both are part of one database index."""

_UNSAFE = {"Cc", "Cs", "Zl", "Zp"}


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    return (
        character.encode("ascii", "backslashreplace").decode("ascii") if character > "\x7f" else repr(character)[1:-1]
    )


def has_control(text: str) -> bool:
    """True where a control character, a line separator or half a surrogate pair is in the text."""
    return any(unicodedata.category(character) in _UNSAFE for character in text)


def storable(text: str, limit: int = NAME_LIMIT) -> str:
    """The text itself, control characters and undecodable bytes escaped, cut in the middle at `limit`."""
    if len(text) > 4 * limit:
        text = text[: 2 * limit] + text[-2 * limit :]
    safe = "".join(map(_escape, text)) if not text.isprintable() else text
    if len(safe) <= limit:
        return safe
    half = (limit - 3) // 2
    return safe[:half] + "..." + safe[-half:]


def printable(text: str, limit: int = 120) -> str:
    """The text as printable ASCII, everything else as backslash escapes, cut in the middle at `limit`."""
    return storable(storable(text, limit).encode("ascii", "backslashreplace").decode("ascii"), limit)


def plural(count: int, noun: str) -> str:
    """`plural(1, "file")` is "1 file", `plural(2, "file")` is "2 files"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
