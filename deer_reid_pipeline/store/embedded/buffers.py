"""How much of its files the embedded server keeps in its own memory.

A search through an index jumps about in it, so an index that is not in this memory is many times slower. A herd's
database is small, and is not given more than it fills.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from deer_reid_pipeline.host_memory import MIB, total_mb

LEAST_MB = 128
SHARE = 0.25
"""Of the memory at most, as PostgreSQL's manual advises for a server with other programs beside it."""


def buffers_mb(data: Path) -> int:
    """Megabytes for shared_buffers: what the databases in a data folder take now, within the limits."""
    return max(LEAST_MB, min(int(total_mb() * SHARE), _size(data / "base") // MIB + LEAST_MB))


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; what vanishes meanwhile counts as nothing."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += Path(place, name).lstat().st_size
    return size
