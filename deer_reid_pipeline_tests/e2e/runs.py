"""Whole runs: the installed command in a process of its own, homes of their own, and what they stored."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg2

from deer_reid_pipeline.store.embedded import start_embedded
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.sites import part_of_herd, read_table

COMMAND = Path(sys.executable).with_name("deer-reid")
PRODUCT_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"


@dataclass
class Answer:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The one object on standard output; fails when anything else is there."""
        assert self.code == 0, self.stderr
        lines = self.stdout.splitlines()
        assert len(lines) == 1, lines
        return json.loads(lines[0])

    @property
    def complaint(self) -> str:
        """The one line of a deliberate error; fails on a traceback or on a second line."""
        assert self.code != 0, self.stdout
        assert self.stdout == ""
        assert "Traceback" not in self.stderr
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("Error: ")
        assert self.stderr.isascii()
        return lines[0]


@dataclass
class Home:
    """One installation with an embedded server of its own."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self, **changes: str | None) -> dict[str, str]:
        """The variables of a command, untouched by those of whoever runs the tests; None takes one out."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DEER_REID_", "DAGSTER_", "PG")) and name not in ("DATABASE_URL", "REID_THRESHOLD")
        }
        ours = {
            "DEER_REID_HOME": str(self.folder),
            "DEER_REID_RECIPE": "lite",
            "DEER_REID_DEVICE": "cpu",
            "DEER_REID_OFFLINE": "true",
            "COLUMNS": "400",
            **self.settings,
            **changes,
        }
        return {**kept, **{name: value for name, value in ours.items() if value is not None}}

    def start(self, *arguments: object, **changes: str | None) -> subprocess.Popen[str]:
        """Start a command as the leader of a process group of its own."""
        return subprocess.Popen(
            [str(COMMAND), *map(str, arguments)],
            cwd=self.folder,  # not the checkout, whose .env would be read
            env=self.environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def keep_running(self, words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program that stays, as the leader of a process group of its own; its words are added to a file."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                words,
                cwd=self.folder,  # not the checkout, whose .env would be read
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def serve(self, port: int, log: Path) -> subprocess.Popen[bytes]:
        """Start `deer-reid serve`; to be ended by `end_serving`."""
        return self.keep_running([str(COMMAND), "serve", "--port", str(port)], log)

    def run(self, *arguments: object, **changes: str | None) -> Answer:
        """Run a command to its end."""
        process = self.start(*arguments, **changes)
        try:
            stdout, stderr = process.communicate(timeout=400)
        except BaseException:
            kill_group(process)
            raise
        return Answer(process.returncode, stdout, stderr)

    def query(self, statement: str, values: Sequence[Any] = (), database: str = "deer_reid") -> list[tuple[Any, ...]]:
        """Rows of a statement on this home's server, committed; [] for one that gives none."""
        with self.connected(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    @contextlib.contextmanager
    def connected(self, database: str = "deer_reid") -> Iterator[Any]:
        """A connection in autocommit to this home's server, which this process then keeps up."""
        connection = psycopg2.connect(start_embedded(self.folder).url(database))
        connection.autocommit = True
        try:
            yield connection
        finally:
            connection.close()

    def row_counts(self) -> dict[str, int]:
        """Rows of every table of the database."""
        tables = [name for (name,) in self.query(PRODUCT_TABLES)]
        return {name: self.query(f'SELECT count(*) FROM "{name}"')[0][0] for name in tables}

    def runs(self) -> list[str]:
        """Statuses of all Dagster runs, oldest first."""
        return [status for (status,) in self.query("SELECT status FROM runs ORDER BY id", database="dagster")]

    def stop(self) -> None:
        """Let go of the server."""
        if (self.folder / "postgres").exists():
            start_embedded(self.folder).stop()


def end_serving(process: subprocess.Popen[bytes]) -> None:
    """End a `serve` by SIGTERM; where that does not help, it and what it started are killed, and this fails."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(timeout=150)
    finally:
        for one in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if not one.name().startswith("postgres"):
                    one.kill()
        process.kill()
        process.wait(timeout=60)


def kill_group(process: subprocess.Popen[str]) -> None:
    """kill -9 a command and all that it started, except the database, which has a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def new_home(make_home: Callable[[], Path], lite_models: Path, **settings: str) -> Home:
    """A home without a database that already has the projections of `lite`."""
    folder = make_home()
    shutil.copytree(lite_models, folder / "models")
    return Home(folder, settings)


UNICODE_NAME = "Kamera 1/R\u00f6h\u00f6 \u9e7f 01.jpg"
UNICODE_INDIVIDUAL = "B\u00e4r\u00ebl"


def small_drop(herd: Path, folder: Path) -> Path:
    """Encounters of a drawn herd, half of them named; one picture and one animal have names that are not ASCII."""
    events: dict[tuple[bool, str], list[dict[str, str]]] = defaultdict(list)
    for row in read_table(herd / "observations.csv"):
        events[bool(row["individualID"]), row["eventID"]].append(row)
    chosen: list[dict[str, str]] = []
    for named in (True, False):
        chosen += [row for key in [key for key in events if key[0] is named][:4] for row in events[key]]
    part_of_herd(herd, folder, chosen)
    first = chosen[0]["filePath"]
    target = folder / UNICODE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / first).rename(target)
    animal = chosen[0]["individualID"]
    for row in chosen:
        row["filePath"] = UNICODE_NAME if row["filePath"] == first else row["filePath"]
        row["individualID"] = UNICODE_INDIVIDUAL if row["individualID"] == animal else row["individualID"]
    return part_of_herd(folder, folder, chosen)


@dataclass
class Stored:
    """Everything that must not depend on how often the work was interrupted."""

    vectors: dict[tuple[str, str], np.ndarray]
    profiles: dict[tuple[str, str], np.ndarray]
    columns: dict[str, np.ndarray]
    exemplars: set[tuple[str, str, str, str | None]]
    decisions: dict[str, tuple[str, str, str | None, str | None]]
    scores: dict[str, float | None]
    individuals: dict[str, int]
    detections: dict[str, tuple[str | None, str | None]]


def stored(home: Home) -> Stored:
    """Read back vectors, decisions and profiles of a home. Ids are made from contents, so they compare."""
    decisions = home.query(
        "SELECT encounter_id::text, decision, method, deer_id::text, individual, score FROM match_decisions ORDER BY id"
    )
    assert len({row[0] for row in decisions}) == len(decisions), "an encounter was decided twice"
    return Stored(
        vectors={
            (key, branch): _vector(text)
            for key, branch, text in home.query("SELECT detection_id::text, branch, vector::text FROM embeddings")
        },
        profiles={
            (key, branch): _vector(text)
            for key, branch, text in home.query("SELECT deer_id::text, branch, vector::text FROM profiles")
        },
        columns={
            key: np.concatenate([_vector(text) for text in texts])
            for key, *texts in home.query(
                "SELECT name, feature_vector::text, feature_vector_multiscale::text, feature_vector_efficientnet::text "
                "FROM deer WHERE sighting_count > 0"
            )
        },
        exemplars=set(
            home.query("SELECT deer_id::text, branch, detection_id::text, viewpoint FROM profile_exemplars")  # type: ignore[arg-type]
        ),
        decisions={row[0]: row[1:5] for row in decisions},
        scores={row[0]: row[5] for row in decisions},
        individuals=dict(home.query("SELECT name, sighting_count FROM deer")),  # type: ignore[arg-type]
        detections={
            key: (deer, method)
            for key, deer, method in home.query(
                "SELECT id::text, deer_id::text, classification_method FROM detections WHERE NOT superseded"
            )
        },
    )


def _vector(text: str) -> np.ndarray:
    return np.array(json.loads(text), dtype=np.float64)


def lowest_cosine(one: dict[Any, np.ndarray], other: dict[Any, np.ndarray]) -> float:
    """The lowest cosine between vectors of the same key; the keys must be the same."""
    assert one.keys() == other.keys()
    assert one
    return min(float(one[key] @ other[key] / np.linalg.norm(one[key]) / np.linalg.norm(other[key])) for key in one)


def assert_same(found: Stored, expected: Stored) -> None:
    """The same vectors (cosine >= 0.9999), decisions, scores and profiles."""
    assert found.decisions == expected.decisions
    assert found.individuals == expected.individuals
    assert found.detections == expected.detections
    assert found.exemplars == expected.exemplars
    assert lowest_cosine(found.vectors, expected.vectors) >= 0.9999
    assert lowest_cosine(found.profiles, expected.profiles) >= 0.9999
    assert lowest_cosine(found.columns, expected.columns) >= 0.9999
    for key, score in expected.scores.items():
        if score is None:
            assert found.scores[key] is None
        else:
            assert abs(found.scores[key] - score) < 1e-3, key  # type: ignore[operator]


__all__ = [
    "REPO",
    "UNICODE_INDIVIDUAL",
    "UNICODE_NAME",
    "Answer",
    "Home",
    "Stored",
    "assert_same",
    "end_serving",
    "kill_group",
    "lowest_cosine",
    "new_home",
    "small_drop",
    "stored",
]
