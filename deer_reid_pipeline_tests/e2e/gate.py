"""A gate in the database: a trigger that lets so many rows of a table through and then holds the statement.

So work is interrupted in the middle of a transaction and not somewhere near it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import psycopg2

from deer_reid_pipeline_tests.e2e.runs import Home

GATE = 20260101
PATIENCE_S = 180

Wait = Callable[[Callable[[], object]], None]


@contextlib.contextmanager
def gate(home: Home, table: str, rows: int, patience_s: float = PATIENCE_S) -> Iterator[Wait]:
    """Hold whoever writes row number `rows` + 1 into a table.

    Gives a function that waits until somebody is held; what it is given is called meanwhile, and raises where nobody
    will be. A server that is killed lets everybody through; the gate is then taken away by a new connection.
    """
    with home.connected() as keeper, keeper.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE gate_rows")
        cursor.execute(
            "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF nextval('gate_rows') > {rows} THEN PERFORM pg_advisory_xact_lock({GATE}); END IF; RETURN NEW; END $$"
        )
        cursor.execute(f"CREATE TRIGGER gate BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION gate()")
        cursor.execute(f"SELECT pg_advisory_lock({GATE})")

        def wait(check: Callable[[], object]) -> None:
            deadline = time.monotonic() + patience_s
            held = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE} AND NOT granted"
            while True:
                cursor.execute(held)
                if cursor.fetchone()[0]:
                    return
                check()
                assert time.monotonic() < deadline
                time.sleep(0.02)

        yield wait
        with contextlib.suppress(psycopg2.Error):
            cursor.execute(f"SELECT pg_advisory_unlock({GATE})")
    with home.connected() as keeper, keeper.cursor() as cursor:
        # Waits for the killed command's transaction, which the server rolls back once it notices.
        cursor.execute(f"DROP TRIGGER gate ON {table}")
        cursor.execute("DROP FUNCTION gate")
        cursor.execute("DROP SEQUENCE gate_rows")
