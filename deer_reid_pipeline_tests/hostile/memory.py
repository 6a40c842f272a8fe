"""The most memory that this process held. `ru_maxrss` would not do: a child starts with its parent's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def highest() -> int:
    """MiB of resident memory at its highest since the start, or since `peak_of` began."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) // 1024


def peak_of(act: Callable[[], object]) -> int:
    """MiB by which the act raises this process's memory at its highest."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the highest so far
    before = highest()
    act()
    return highest() - before
