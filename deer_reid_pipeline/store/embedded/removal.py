"""Stopping the server of a home that is about to be removed, and removing what of it lies elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from deer_reid_pipeline.store.embedded.hold import start_embedded
from deer_reid_pipeline.store.embedded.place import read_pointer
from deer_reid_pipeline.store.embedded.status import embedded_status


def remove_server(home: Path) -> None:
    """Stop the embedded server of a home and remove its data where they are outside the home.

    For temporary homes only: their data are lost. Where there is no server, nothing is done.
    """
    control = home / "postgres"
    if not control.exists():
        return
    status = embedded_status(home)
    if status.pid is not None or status.state in ("starting", "running"):
        start_embedded(home).stop()  # takes part in the holds of the server, so that the last one stops it
    elsewhere = read_pointer(control)
    if elsewhere is not None:
        shutil.rmtree(elsewhere, ignore_errors=True)
