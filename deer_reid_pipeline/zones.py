"""Time zones by their IANA names, and which one this machine is set to."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from zoneinfo import ZoneInfo

UTC_NAME = "UTC"


def is_zone(name: str) -> bool:
    """Whether the system, or the package tzdata, knows a zone of this name."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def machine_zone(root: Path = Path("/etc")) -> str:
    """The zone that this machine is set to, by TZ, `timezone` or `localtime`; UTC where none of them names one.

    Args:
        root: folder of the last two.
    """
    said = [os.environ.get("TZ", "").lstrip(":")]
    with contextlib.suppress(OSError, ValueError):
        said.append((root / "timezone").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        said.append(str((root / "localtime").readlink()).partition("zoneinfo/")[2])
    return next((name for name in said if name and is_zone(name)), UTC_NAME)
