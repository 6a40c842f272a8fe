"""Files that are shipped beside the package: `dagster.yaml`, `workspace.yaml` and `migrations/`."""

from __future__ import annotations

from pathlib import Path

from deer_reid_pipeline.errors import DeerReidError

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Path of a shipped file or folder, in a checkout or in an installed wheel.

    Raises:
        DeerReidError: it is in neither place, so the installation is incomplete.
    """
    for candidate in (_PACKAGE / "_share" / name, _PACKAGE.parent / name):
        if candidate.exists():
            return candidate
    raise DeerReidError(f"{name} is missing from this installation: install deer-reid-pipeline again")
