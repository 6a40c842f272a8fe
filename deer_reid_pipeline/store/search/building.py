"""Making the HNSW indexes that a recipe's exemplars need, and bringing what was measured of them up to date.

`CREATE INDEX CONCURRENTLY` keeps nobody from reading or writing. One process builds at a time. Where its client is
killed the server goes on to the end, and the next call waits for it; what a killed server left half built is dropped
and built again. Never to be called while a transaction of the caller is open: the build would wait for it for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.models import VECTOR_SIZE
from deer_reid_pipeline.store.search import index as indexes
from deer_reid_pipeline.store.search.index import (
    HALFVEC,
    HNSW_EF_CONSTRUCTION,
    HNSW_M,
    VECTOR,
    Plan,
    StoredIndex,
    plan_search,
)
from deer_reid_pipeline.store.search.recall import (
    HALFVEC_RECALL,
    WANTED_RECALL,
    Truth,
    draw_probes,
    find_truth,
    measure_curve,
)
from deer_reid_pipeline.store.search.resources import BuildSettings, build_settings

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

GROWN = 2.0
"""An index is measured again when there are this many times the rows that it was measured with."""

SHRUNK = 0.5
"""An index is dropped when there are fewer rows than this share of the limit from which one is built."""

POLL_S = 1.0

_INDEX_LOCK = 0x0DEE_0003
_MEMORY_OR_DISK = {"53100": "disk", "53200": "memory"}


def prepare_search(
    database: Database,
    recipe_id: str,
    policy: MatchPolicy,
    say: LogLine = log.info,
    *,
    again: bool = False,
    exact_limit: int | None = None,
) -> list[Plan]:
    """Bring the indexes of the branches that a policy's gallery needs up to date, and drop those of no use any more.

    Args:
        again: build and measure again what is there already.
        exact_limit: rows up to which there is no index; `EXACT_LIMIT` unless given.

    Raises:
        DatabaseError: memory or disk is short. Searches stay exact, and slow.
    """
    if policy.gallery != "exemplars" or policy.matcher == "v1_resnet50":
        return []
    branches = sorted(policy.branches)
    return [ensure_index(database, recipe_id, b, say, again=again, exact_limit=exact_limit) for b in branches]


def ensure_index(
    database: Database,
    recipe_id: str,
    branch: str,
    say: LogLine = log.info,
    *,
    again: bool = False,
    exact_limit: int | None = None,
) -> Plan:
    """Bring the index of a recipe and branch up to date: built, measured, or dropped; returns how to search now.

    Raises:
        DatabaseError: memory or disk is short; one line with what is needed.
    """
    limit = indexes.EXACT_LIMIT if exact_limit is None else exact_limit
    if not again and _up_to_date(database, recipe_id, branch, limit):
        with database.session() as session:
            return plan_search(session, recipe_id, branch, limit)
    with _alone(database, recipe_id, branch) as connection:
        _drop_leftovers(connection, say)
        rows = indexes.count_exemplars(connection, recipe_id, branch)
        there = indexes.indexes_of(connection, recipe_id, branch)
        if rows <= limit:
            _drop(connection, there if rows < SHRUNK * limit else [], say)
        elif again or not _current(there, rows):
            _build_and_measure(database, connection, recipe_id, branch, rows, [] if again else there, say)
    with database.session() as session:
        return plan_search(session, recipe_id, branch, limit)


def _up_to_date(database: Database, recipe_id: str, branch: str, limit: int) -> bool:
    with database.session() as session:
        rows = indexes.count_exemplars(session, recipe_id, branch)
        there = indexes.indexes_of(session, recipe_id, branch)
    if rows > limit:
        return _current(there, rows)
    return all(item.valid for item in there) and (rows >= SHRUNK * limit or not there)


def _current(there: Sequence[StoredIndex], rows: int) -> bool:
    """There is one finished index, measured with about as many rows as there are."""
    return (
        len(there) == 1 and there[0].valid and there[0].measured is not None and (rows < GROWN * there[0].measured.rows)
    )


def _build_and_measure(
    database: Database,
    connection: Connection,
    recipe_id: str,
    branch: str,
    rows: int,
    there: Sequence[StoredIndex],
    say: LogLine,
) -> None:
    def stored_now() -> list[StoredIndex]:
        return indexes.indexes_of(connection, recipe_id, branch)

    what = f"the search index of {recipe_id}, {branch} ({rows} exemplars)"
    with database.session() as session:
        probes = draw_probes(session, recipe_id, [branch])
        truth = find_truth(session, recipe_id, probes)
        half = indexes.pgvector_version(session) >= indexes.HALFVEC_SINCE and (truth.halfvec or 0.0) >= HALFVEC_RECALL
    kind = HALFVEC if half else VECTOR
    name = indexes.index_name(recipe_id, branch, kind)
    if all(item.name != name for item in there):
        settings = build_settings(database, connection, rows, kind, what)
        _drop(connection, [item for item in stored_now() if item.name == name], say)
        say(f"building {what} as {kind}: float16 keeps {100 * (truth.halfvec or 0):.2f} % of the exact neighbours")
        begun = time.perf_counter()
        _build(database, connection, _definition(connection, name, recipe_id, branch, kind), rows, settings, what)
        say(f"built {what} in {time.perf_counter() - begun:.0f} s")
    _measure(database, connection, name, truth, recipe_id, branch, rows, say)
    _drop(connection, [item for item in stored_now() if item.name != name], say)


def _measure(
    database: Database,
    connection: Connection,
    name: str,
    truth: Truth,
    recipe_id: str,
    branch: str,
    rows: int,
    say: LogLine,
) -> None:
    (stored,) = [item for item in indexes.indexes_of(connection, recipe_id, branch) if item.name == name]
    with database.session() as session:
        iterative = indexes.pgvector_version(session) >= indexes.ITERATIVE_SINCE
        plan = Plan(recipe_id, branch, rows, replace(stored, measured=None), iterative)
        measured = measure_curve(session, plan, truth)
    indexes.keep_measured(connection, name, measured)
    line = (
        f"search of {branch} keeps {measured.ef_search} candidates (ef_search): recall@{measured.k} "
        f"{measured.recall:.3f} in {measured.sample} searches, 95 % below {measured.curve[-1].p95_ms:.1f} ms"
    )
    say(line)
    if measured.recall < WANTED_RECALL:
        log.warning("%s; %.2f is wanted, and pgvector takes no larger ef_search", line, WANTED_RECALL)


def _definition(connection: Connection, name: str, recipe_id: str, branch: str, kind: str) -> str:
    where = connection.scalar(
        text("SELECT format('recipe_id = %L AND branch = %L', CAST(:recipe AS text), CAST(:branch AS text))"),
        {"recipe": recipe_id, "branch": branch},
    )
    column = "vector vector_cosine_ops" if kind == VECTOR else f"(vector::halfvec({VECTOR_SIZE})) halfvec_cosine_ops"
    return (
        f"CREATE INDEX CONCURRENTLY {name} ON profile_exemplars USING hnsw ({column}) "
        f"WITH (m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION}) WHERE {where}"
    ).replace("%", "%%")


def _build(
    database: Database, connection: Connection, definition: str, rows: int, settings: BuildSettings, what: str
) -> None:
    """Build an index; what a failed build leaves is dropped.

    Raises:
        DatabaseError: the server's memory or disk was short.
    """
    wanted: dict[str, object] = {"statement_timeout": 0, "lock_timeout": 0}
    if settings.memory_mb is not None:
        wanted["maintenance_work_mem"] = f"'{settings.memory_mb}MB'"
    if settings.workers is not None:
        wanted["max_parallel_maintenance_workers"] = settings.workers
    for parameter, value in wanted.items():
        connection.exec_driver_sql(f"SET {parameter} = {value}")
    try:
        with _watching(database, connection, rows):
            connection.exec_driver_sql(definition)
    except DBAPIError as error:
        if connection.invalidated:  # the server went away, or somebody cancelled the build
            raise
        _drop_leftovers(connection, log.info)
        said = " ".join(str(error.orig).split())[:200]
        if "shared memory segment" in said:  # workers build in /dev/shm, which a container has little of
            log.warning("no shared memory for several workers: building %s with one", what)
            _build(database, connection, definition, rows, replace(settings, workers=0), what)
            return
        short = _MEMORY_OR_DISK.get(getattr(error.orig, "pgcode", None) or "")
        if short is None:
            raise
        raise DatabaseError(
            f"{what} could not be built: the database server ran out of {short} ({said}); make room there and run "
            "deer-reid search index"
        ) from error
    finally:
        for parameter in () if connection.invalidated else wanted:
            connection.exec_driver_sql(f"RESET {parameter}")


def _drop_leftovers(connection: Connection, say: LogLine) -> None:
    """Drop what killed builds left, and indexes of recipes without exemplars. The caller holds the lock."""
    stored = indexes.all_indexes(connection)
    unused = set(indexes.lacking_recipes(connection, stored))
    _drop(connection, [item for item in stored if not item.valid or item.name in unused], say)


def _drop(connection: Connection, items: Sequence[StoredIndex], say: LogLine) -> None:
    for item in items:
        connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {item.name}")
        say(f"dropped the {'search index' if item.valid else 'half-built search index'} {item.name}")


@contextmanager
def _alone(database: Database, recipe_id: str, branch: str) -> Iterator[Connection]:
    """A connection outside any transaction that alone may build; waits for whoever is building.

    Asking again and again, where waiting for the lock would hold a snapshot that the other's build waits for.
    """
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        locked = {"key": _INDEX_LOCK}
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), locked):
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
                rows = indexes.count_exemplars(watcher, recipe_id, branch)
                _report_progress(watcher, rows)
            time.sleep(POLL_S)
        try:
            yield connection
        finally:
            if not connection.invalidated:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), locked)


@contextmanager
def _watching(database: Database, connection: Connection, rows: int) -> Iterator[None]:
    """Report how far a build on this connection is, from a thread of its own."""
    pid = connection.scalar(text("SELECT pg_backend_pid()"))
    done = threading.Event()

    def watch() -> None:
        try:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
                while not done.wait(POLL_S):
                    _report_progress(watcher, rows, pid)
        except DBAPIError as error:
            log.debug("progress of the index build cannot be read: %s", error)

    thread = threading.Thread(target=watch, name="index-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _report_progress(connection: Connection, rows: int, pid: Any = None) -> None:
    done = connection.scalar(
        text(
            "SELECT max(tuples_done) FROM pg_stat_progress_create_index "
            "WHERE datname = current_database() AND relid = to_regclass('profile_exemplars') "
            "AND (CAST(:pid AS integer) IS NULL OR pid = :pid)"
        ),
        {"pid": pid},
    )
    if done is not None:
        report("search index", min(int(done), rows), rows)
