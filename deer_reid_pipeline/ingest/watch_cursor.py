"""What the sensor remembers from tick to tick: which folders are waited for, and where to look next.

JSON with a version, bounded in size. Nothing in it decides whether a file is used: whoever loses it waits once more.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deer_reid_pipeline.ingest.watch import LOOKS, Pending

VERSION = 1
MOST_PENDING = 200
"""Folders that are waited for at once; the others have their turn when one of these is sealed."""


@dataclass(frozen=True)
class WatchCursor:
    """`following` is the name of the folder at which the next tick begins to look, `asking` of the one at which it
    begins to ask for runs; "" is the first.
    """

    pending: Mapping[str, Pending] = field(default_factory=dict)
    following: str = ""
    asking: str = ""

    def to_text(self) -> str:
        """ASCII JSON that `read_cursor` reads."""
        return json.dumps(
            {
                "version": VERSION,
                "following": self.following,
                "asking": self.asking,
                "pending": {name: [p.signature, p.since, p.looks] for name, p in sorted(self.pending.items())},
            }
        )


def read_cursor(text: str | None) -> tuple[WatchCursor, str | None]:
    """The cursor, and a sentence where what stood there could not be used: then it is a fresh one."""
    if not text or not text.strip():
        return WatchCursor(), None
    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            return WatchCursor(), _fresh(f"is of version {str(data['version'])[:20]!a}, this program writes {VERSION}")
        pending = {_text(name): _pending(*values) for name, values in data["pending"].items()}
        return WatchCursor(bounded(pending, 0.0), _text(data["following"]), _text(data.get("asking", ""))), None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return WatchCursor(), _fresh("cannot be read")


def bounded(pending: Mapping[str, Pending], now: float) -> dict[str, Pending]:
    """At most `MOST_PENDING`: those that stood still first; among those that changed now each has its chance."""
    if len(pending) <= MOST_PENDING:
        return dict(pending)

    def rank(name: str) -> tuple[bool, float, int]:
        one = pending[name]
        return one.looks < LOOKS, one.since, zlib.crc32(f"{name}\0{now}".encode("utf-8", "backslashreplace"))

    return {name: pending[name] for name in sorted(pending, key=rank)[:MOST_PENDING]}


def _fresh(why: str) -> str:
    return f"The cursor {why}: the sensor starts afresh, waits for every folder anew, and processes nothing twice."


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError(value)
    return value


def _pending(signature: Any, since: Any, looks: Any) -> Pending:
    if isinstance(since, bool) or not isinstance(since, int | float) or not math.isfinite(since):
        raise ValueError(since)
    if isinstance(looks, bool) or not isinstance(looks, int) or looks < 1:
        raise ValueError(looks)
    return Pending(_text(signature), float(since), min(looks, LOOKS))
