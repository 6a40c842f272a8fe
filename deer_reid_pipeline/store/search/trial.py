"""Made-up exemplars in any number, and what the search makes of them: time, size, recall.

A picture of an individual is `unit(centre + noise * e)`; centre and e are normal with a covariance whose n-th
eigenvalue falls as n ** -decay, so that a few directions carry much of the variance, as in embeddings. The mean cosine
of two pictures of one individual is 1 / (1 + noise ** 2). Branches are independent. To be run in a database of its own:

    python -m deer_reid_pipeline.store.search.trial --individuals 100000 --home EMPTY_FOLDER
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.reid.matching import MatchPolicy, Query, decide
from deer_reid_pipeline.reid.similarity import BASELINE, FloatArray, VectorSet, unit
from deer_reid_pipeline.store import migrate
from deer_reid_pipeline.store.database import DATABASE_NAME, Database
from deer_reid_pipeline.store.embedded import start_embedded
from deer_reid_pipeline.store.models import VECTOR_SIZE
from deer_reid_pipeline.store.search.among import EVERYONE, Among
from deer_reid_pipeline.store.search.building import ensure_index
from deer_reid_pipeline.store.search.gallery import open_gallery
from deer_reid_pipeline.store.search.index import Plan, plan_search
from deer_reid_pipeline.store.search.nearest import nearest
from deer_reid_pipeline.store.search.recall import K, Probes, find_truth, fused_recall

BRANCHES = ("efficientnet", "multiscale")
POLICY = MatchPolicy(threshold=0.9, new_below=0.2)
RARE = Among(sex="male")
"""The filter of the trial: what share of the individuals it leaves is given when the rows are made."""

BLOCK = 1000
"""Individuals whose pictures are drawn together."""

COPY_BYTES = 1 << 18
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)


@dataclass(frozen=True)
class MadeUp:
    """Pictures of made-up individuals; the same numbers give the same vectors.

    Attributes:
        each: exemplars of an individual, half of them of the left flank and half of the right.
        rare: share of the individuals that are male; the others are female.
    """

    individuals: int
    each: int = 10
    noise: float = 0.8
    decay: float = 1.0
    rare: float = 0.02
    seed: int = 0
    branches: Sequence[str] = BRANCHES
    recipe_id: str = "made-up"
    _scale: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scale = np.arange(1, VECTOR_SIZE + 1, dtype=np.float32) ** np.float32(-self.decay / 2)
        object.__setattr__(self, "_scale", scale)

    def centres(self, branch: str, first: int, count: int) -> FloatArray:
        """Centres of these individuals, which lie in one block; float32 (count, 512)."""
        return self._drawn(branch, "centre", first, count)

    def pictures(self, branch: str, first: int, count: int, number: int) -> FloatArray:
        """The picture of this number of each of these individuals; numbers from `each` on are not stored."""
        noise = self._drawn(branch, f"picture {number}", first, count)
        return unit(self.centres(branch, first, count) + np.float32(self.noise) * noise)

    def probes(self, count: int, *, male: bool = False) -> Probes:
        """New pictures of individuals drawn at random, of males only if asked."""
        males = max(int(self.individuals * self.rare), 1)
        drawn = np.random.default_rng(self.seed + 1).integers(0, males if male else self.individuals, count)
        rows = {b: np.concatenate([self.pictures(b, int(n), 1, self.each) for n in drawn]) for b in self.branches}
        return Probes([uuid.UUID(int=(3 << 96) + number) for number in range(count)], rows)

    def _drawn(self, branch: str, what: str, first: int, count: int) -> FloatArray:
        """Rows of a block: what is drawn for an individual does not depend on how many are asked for."""
        block, skipped = divmod(first, BLOCK)
        if skipped + count > BLOCK:
            raise ValueError(f"individuals {first} to {first + count} lie in several blocks of {BLOCK}")
        seed = np.random.SeedSequence([self.seed, block, *f"{branch}/{what}".encode()])
        rows = (skipped + count, VECTOR_SIZE)
        return (
            np.random.Generator(np.random.SFC64(seed)).standard_normal(rows, dtype=np.float32)[skipped:] * self._scale
        )


def fill(database: Database, made_up: MadeUp, say: Callable[[str], None]) -> float:
    """Store made-up individuals with their exemplars in a database that holds nothing else; returns the seconds."""
    begun = time.perf_counter()
    values = {"n": made_up.individuals, "each": made_up.each, "males": max(int(made_up.individuals * made_up.rare), 1)}
    with database.session() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))  # no look-up of keys known to be there
        session.execute(
            text("INSERT INTO recipes (id, name, spec) VALUES (:id, :id, '{}') ON CONFLICT DO NOTHING"),
            {"id": made_up.recipe_id},
        )
        session.execute(
            text("INSERT INTO images (id, filename, path) VALUES (:id, 'x', 'x') ON CONFLICT DO NOTHING"),
            {"id": uuid.UUID(int=0)},
        )
        session.execute(
            text(
                "INSERT INTO deer (id, name, sex) SELECT CAST(lpad('1' || lpad(to_hex(n), 24, '0'), 32, '0') AS uuid), "
                "'d' || n, CASE WHEN n < :males THEN 'buck' ELSE 'doe' END FROM generate_series(0, :n - 1) n "
                "ON CONFLICT DO NOTHING"
            ),
            values,
        )
        session.execute(
            text(
                "INSERT INTO detections (id, image_id, deer_id, bbox, confidence) "
                "SELECT CAST(lpad('2' || lpad(to_hex(n * :each + e), 24, '0'), 32, '0') AS uuid), "
                "CAST(lpad('', 32, '0') AS uuid), CAST(lpad('1' || lpad(to_hex(n), 24, '0'), 32, '0') AS uuid), "
                "'{}', 1 FROM generate_series(0, :n - 1) n, generate_series(0, :each - 1) e ON CONFLICT DO NOTHING"
            ),
            values,
        )
    for branch in made_up.branches:
        with database.engine.begin() as connection:
            cursor: Any = connection.connection.cursor()
            with cursor:
                cursor.execute("SET LOCAL session_replication_role = replica")
                cursor.copy_expert(
                    "COPY profile_exemplars (deer_id, recipe_id, branch, detection_id, viewpoint, vector) "
                    "FROM STDIN WITH (FORMAT binary)",
                    _Stream(_copy_rows(made_up, branch)),
                    COPY_BYTES,
                )
        say(f"{made_up.individuals * made_up.each} exemplars of {branch} after {time.perf_counter() - begun:.0f} s")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in ("deer", "detections", "profile_exemplars"):
            connection.exec_driver_sql(f"VACUUM (ANALYZE) {table}")
    return time.perf_counter() - begun


def measure(database: Database, made_up: MadeUp, say: Callable[[str], None], *, sample: int = 500) -> dict[str, Any]:
    """Build what the made-up exemplars need, and measure searches with pictures that are not stored."""
    result: dict[str, Any] = {"rows": made_up.individuals * made_up.each, "branches": {}}
    probes = made_up.probes(sample)
    plans: dict[str, Plan] = {}
    for branch in made_up.branches:
        begun = time.perf_counter()
        plans[branch] = plan = ensure_index(database, made_up.recipe_id, branch, say)
        seconds = time.perf_counter() - begun
        one = Probes(probes.detections, {branch: probes.vectors[branch]})
        with database.session() as session:
            truth = find_truth(session, made_up.recipe_id, one)
            times = []
            for _ in range(2):
                found, seconds_each = [], []
                for row in one.vectors[branch]:
                    at = time.perf_counter()
                    found.append(nearest(session, plan, row, K))
                    seconds_each.append(time.perf_counter() - at)
                times.append(milliseconds(seconds_each))
        result["branches"][branch] = {
            "build_seconds": seconds,
            "bytes": None if plan.index is None else plan.index.bytes,
            "holds": None if plan.index is None else plan.index.kind,
            "ef_search": None if plan.index is None or plan.index.measured is None else plan.index.measured.ef_search,
            "curve": []
            if plan.index is None or plan.index.measured is None
            else [point.model_dump() for point in plan.index.measured.curve],
            "halfvec_recall": truth.halfvec,
            "recall": truth.recall(found),
            "first_ms": times[0],
            "ms": times[1],
        }
        say(f"{branch}: {result['branches'][branch]}")
    for name, among, male in (("fused", EVERYONE, False), ("fused_filtered", RARE, True)):
        some = made_up.probes(sample, male=male)
        with database.session() as session:
            recall, seconds_each = fused_recall(session, plans, some, POLICY, among)
        result[name] = {"recall": recall, "ms": milliseconds(seconds_each)}
        say(f"{name}: {result[name]}")
    return result


def measure_exact(
    database: Database, sizes: Sequence[int], say: Callable[[str], None], *, sample: int = 300
) -> dict[int, dict[str, Any]]:
    """The exact path at these numbers of individuals: one decision in memory, and one search in the database."""
    result: dict[int, dict[str, Any]] = {}
    for size in sizes:
        # A decision tells the baseline's similarity too, so an exemplar without it does not count.
        made_up = MadeUp(size, recipe_id=f"made-up-{size}", branches=(*BRANCHES, BASELINE))
        fill(database, made_up, say)
        probes = made_up.probes(sample)
        with database.session() as session:
            plan = plan_search(session, made_up.recipe_id, BRANCHES[0])
            begun = time.perf_counter()
            gallery = open_gallery(session, made_up.recipe_id, POLICY)
            load = time.perf_counter() - begun
            in_memory, in_database = [], []
            for number in range(sample):
                sets = {b: VectorSet(made_up.recipe_id, b, m[number : number + 1]) for b, m in probes.vectors.items()}
                query = Query(sets, ["left"])
                at = time.perf_counter()
                decision = decide(query, gallery.for_query(query), POLICY)
                between = time.perf_counter()
                if len(decision.shortlist) < min(size, POLICY.shortlist):
                    raise RuntimeError("a decision was not made among all that is stored: its time would mean nothing")
                nearest(session, plan, probes.vectors[BRANCHES[0]][number], K)
                in_memory.append(between - at)
                in_database.append(time.perf_counter() - between)
        result[size] = {
            "rows": plan.rows,
            "exact": plan.index is None,
            "load_seconds": load,
            "decision_ms": milliseconds(in_memory[1:]),
            "database_ms": milliseconds(in_database[1:]),
        }
        say(f"{size} individuals: {result[size]}")
    return result


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Quantiles of times, in milliseconds."""
    return {f"p{q}": round(1000 * float(np.quantile(seconds, q / 100)), 2) for q in (50, 95, 99)}


class _Stream:
    """Bytes of an iterator as a file that COPY reads."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._part = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        if not self._part:
            self._part = memoryview(next(self._parts, b""))
        given, self._part = self._part[:size], self._part[size:]
        return bytes(given)


def _copy_rows(made_up: MadeUp, branch: str) -> Iterator[bytes]:
    """Exemplars of a branch in PostgreSQL's binary COPY format."""
    yield _COPY_HEADER
    for first in range(0, made_up.individuals, BLOCK):
        count = min(BLOCK, made_up.individuals - first)
        for number in range(made_up.each):
            viewpoint = "left" if number % 2 == 0 else "right"
            fields: list[tuple[str, Any, Any]] = [
                ("deer_id", "V16", _ids(1, np.arange(first, first + count))),
                ("recipe_id", f"S{len(made_up.recipe_id)}", made_up.recipe_id.encode()),
                ("branch", f"S{len(branch)}", branch.encode()),
                ("detection_id", "V16", _ids(2, np.arange(first, first + count) * made_up.each + number)),
                ("viewpoint", f"S{len(viewpoint)}", viewpoint.encode()),
                ("vector", f"V{4 + 4 * VECTOR_SIZE}", _sent(made_up.pictures(branch, first, count, number))),
            ]
            layout = [("fields", ">i2")]
            for name, kind, _ in fields:
                layout += [(f"{name} bytes", ">i4"), (name, kind)]
            rows = np.zeros(count, dtype=layout)
            rows["fields"] = len(fields)
            for name, kind, value in fields:
                rows[f"{name} bytes"] = np.dtype(kind).itemsize
                rows[name] = value
            yield rows.tobytes()
    yield struct.pack(">h", -1)


def _ids(kind: int, numbers: Any) -> Any:
    """uuids (kind << 96) + number, as 16 bytes each."""
    ids = np.zeros((len(numbers), 2), dtype=">u8")
    ids[:, 0], ids[:, 1] = kind << 32, numbers
    return ids.view("V16")[:, 0]


def _sent(vectors: FloatArray) -> Any:
    """Vectors in pgvector's binary form."""
    rows = np.zeros((len(vectors), 2 + 2 * VECTOR_SIZE), dtype=">u2")
    rows[:, 0] = VECTOR_SIZE
    rows[:, 2:] = np.ascontiguousarray(vectors.astype(">f4")).view(">u2")
    return rows.view(f"V{rows.shape[1] * 2}")[:, 0]


def open_trial(home: Path) -> Database:
    """An embedded server of its own under an empty folder, with an empty, migrated database."""
    server = start_embedded(home)
    engine = create_engine(server.url("postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {DATABASE_NAME}")
    migrate.upgrade(server.url(DATABASE_NAME))
    return Database(server.url(DATABASE_NAME), server=server)


def reopen(database: Database, home: Path) -> Database:
    """The trial's database after a restart of its server, which then gets memory for what is stored."""
    database.close()
    server = start_embedded(home)
    server.stop()
    server.ensure_running()
    return Database(server.url(DATABASE_NAME), server=server)


def main() -> None:
    """Make, build and measure; the result is one JSON object on standard output."""
    parser = argparse.ArgumentParser(description="Search of made-up exemplars: build time, size, recall, time.")
    parser.add_argument("--home", type=Path, required=True, help="Empty folder for a server of its own.")
    parser.add_argument("--individuals", type=int, default=100_000, help="With 10 exemplars each.")
    parser.add_argument("--decay", type=float, default=1.0, help="How fast the eigenvalues fall.")
    parser.add_argument("--sample", type=int, default=500, help="Searches behind each figure.")
    parser.add_argument("--exact", type=int, nargs="*", default=[], help="Numbers of individuals for the exact path.")
    given = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    database = open_trial(given.home)
    result: dict[str, Any] = {}
    if given.exact:
        result["exact"] = measure_exact(database, given.exact, say)
    if given.individuals:
        made_up = MadeUp(given.individuals, decay=given.decay)
        result["fill_seconds"] = fill(database, made_up, say)
        database = reopen(database, given.home)
        result |= measure(database, made_up, say, sample=given.sample)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
