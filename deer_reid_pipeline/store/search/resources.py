"""What building an HNSW index takes of memory and disk, and whether it is there.

An embedded server runs on this machine, so its memory is set to what the build takes. Of an external server's machine
nothing is known here, so its own maintenance_work_mem has to do.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, text

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.host_memory import MIB, free_mb
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.models import VECTOR_SIZE
from deer_reid_pipeline.store.search.index import HALFVEC, HNSW_M

BYTES_BESIDE_THE_VECTOR = 200 + 38 * HNSW_M
"""Of an element of the graph in memory: neighbours of all levels, header, allocation."""

PAGE, PAGE_OVERHEAD = 8192, 40
NEIGHBOURS_ON_DISK = 28 + 12 * HNSW_M
"""Bytes of the neighbour tuple of an element, its line pointer included."""

SPARE = 1.15
WAL_AT_MOST = 2 * 1024 * MIB
"""What the write-ahead log holds beyond a checkpoint, with some room."""

LEAST_MEMORY_MB = 64
"""PostgreSQL gives each of two workers 32 MB or none."""

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class BuildSettings:
    """maintenance_work_mem of a build, None to leave the server's, and its workers beside the leader."""

    memory_mb: int | None
    workers: int | None


def element_bytes(kind: str) -> int:
    """Bytes of one vector in the graph while it is built."""
    return VECTOR_SIZE * (2 if kind == HALFVEC else 4) + BYTES_BESIDE_THE_VECTOR


def memory_mb(rows: int, kind: str) -> int:
    """Megabytes that the graph of this many rows takes while it is built."""
    return max(LEAST_MEMORY_MB, int(rows * element_bytes(kind) * SPARE / MIB) + 1)


def disk_bytes(rows: int, kind: str) -> int:
    """Bytes that the index of this many rows takes on disk: whole elements on pages of 8 KB."""
    element = VECTOR_SIZE * (2 if kind == HALFVEC else 4) + NEIGHBOURS_ON_DISK + 80
    return rows * PAGE // max((PAGE - PAGE_OVERHEAD) // element, 1)


def build_settings(database: Database, connection: Connection, rows: int, kind: str, what: str) -> BuildSettings:
    """Settings of a build, once memory and disk are known to be enough.

    Raises:
        DatabaseError: memory or disk is short; how much is needed, how much is there, and what to do.
    """
    needed = memory_mb(rows, kind)
    if database.server is None:
        server = int(connection.scalar(text("SELECT pg_size_bytes(current_setting('maintenance_work_mem'))")) or 0)
        if server < needed * MIB:
            raise DatabaseError(
                f"{what} needs {needed} MB of maintenance_work_mem while it is built, and the server gives "
                f"{server // MIB} MB: run ALTER ROLE {connection.scalar(text('SELECT quote_ident(current_user)'))} "
                f"SET maintenance_work_mem = '{needed}MB' there, if its machine has that much"
            )
        return BuildSettings(None, None)
    free = free_mb()
    if free < needed:
        raise DatabaseError(
            f"{what} needs {needed} MB of memory while it is built, and {free} MB are free: stop other programs, or "
            "build it at another time with deer-reid search index"
        )
    room = shutil.disk_usage(database.server.pgdata).free
    size = disk_bytes(rows, kind)
    wanted = size + min(size, WAL_AT_MOST)
    if room < wanted:
        raise DatabaseError(
            f"{what} needs {wanted // MIB} MB of disk while it is built, and {room // MIB} MB are free in "
            f"{database.server.pgdata}: make room and run deer-reid search index"
        )
    # Workers build in shared memory, which a default container has 64 MB of.
    shared = shutil.disk_usage(SHARED_MEMORY).free // MIB if SHARED_MEMORY.is_dir() else 0
    return BuildSettings(needed, max((os.cpu_count() or 1) - 1, 0) if shared > needed * SPARE else 0)
