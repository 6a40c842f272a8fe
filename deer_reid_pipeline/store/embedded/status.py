"""What `deer-reid doctor` may know of a home's server without touching it.

It never starts, makes or changes anything, so a home that has no server still has none after the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline.store.embedded.liveness import postmaster_pid, probe, recorded_lines
from deer_reid_pipeline.store.embedded.locks import has_clients
from deer_reid_pipeline.store.embedded.place import Place, read_pointer


@dataclass(frozen=True)
class EmbeddedStatus:
    """What `deer-reid doctor` shows about the embedded server; collected without starting anything."""

    state: str
    """absent (never initialised), stopped, starting or running"""
    pgdata: Path
    log_file: Path
    socket_dir: Path | None
    pid: int | None
    clients: bool
    """True while at least one living process of this home uses the server."""


def embedded_status(home: Path) -> EmbeddedStatus:
    """State of a home's embedded server. Starts and changes nothing."""
    home = home.expanduser().resolve()
    control = home / "postgres"
    place = Place(home, control, read_pointer(control) or control, None)
    recorded = recorded_lines(place.data)
    socket_dir = Path(recorded[4]) if len(recorded) > 4 and recorded[4] else None
    if not place.initialised:
        state = "absent"
    else:
        state = {"ready": "running", "busy": "starting", "down": "stopped"}[probe(socket_dir)]
    clients = (control / "clients.lock").exists() and has_clients(place)
    return EmbeddedStatus(state, place.data, place.log_file, socket_dir, postmaster_pid(place.data), clients)
