"""Memory of this machine, within the limit of the control group that a container or a service is in."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

MIB = 1024 * 1024

_GROUP = Path("/sys/fs/cgroup")


def total_mb() -> int:
    """Megabytes that there are."""
    limit = _limit()
    total = int(psutil.virtual_memory().total)
    return (total if limit is None else min(total, limit)) // MIB


def free_mb() -> int:
    """Megabytes that can be had without swapping."""
    free = int(psutil.virtual_memory().available)
    limit = _limit()
    if limit is not None:
        with suppress(OSError, ValueError):
            free = min(free, limit - int((_GROUP / "memory.current").read_text(encoding="ascii")))
    return free // MIB


def _limit() -> int | None:
    """Bytes that the control group may have; None where there is no limit."""
    try:
        limit = (_GROUP / "memory.max").read_text(encoding="ascii").strip()
        return None if limit == "max" else int(limit)
    except (OSError, ValueError):
        return None
