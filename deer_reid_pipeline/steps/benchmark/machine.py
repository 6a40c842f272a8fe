"""The machine that figures were measured on, and whether it had other work."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

import psutil

from deer_reid_pipeline import __version__
from deer_reid_pipeline.vision.engine.loading import cores

BUSY = 0.25
"""Other work waiting for each core, from which on the figures are said to be too low."""


def machine(circumstances: Mapping[str, str]) -> dict[str, str]:
    """Everything that the figures depend on, as words.

    Args:
        circumstances: of the engine, `vision.engine.choosing.circumstances`.
    """
    return {
        **circumstances,
        "cores": str(cores()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "deer_reid": __version__,
    }


def other_work() -> float:
    """Processes that wanted a core during the last minute, for each core; NaN where the system does not say."""
    return os.getloadavg()[0] / cores() if hasattr(os, "getloadavg") else float("nan")
