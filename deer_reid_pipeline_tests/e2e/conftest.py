"""One uninterrupted run that the tests of whole runs compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deer_reid_pipeline_tests.e2e.runs import Answer, Home, Stored, new_home, small_drop, stored


@dataclass
class Processed:
    """A home in which one drop was processed without interruption, and what that left."""

    home: Home
    drop: Path
    answer: Answer
    table: Path
    stored: Stored


@pytest.fixture(scope="session")
def drop(herd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drop; everybody who changes it copies it first."""
    return small_drop(herd, tmp_path_factory.mktemp("drops") / "small herd")


@pytest.fixture(scope="session")
def processed(
    make_home: Callable[[], Path], lite_models: Path, drop: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processed]:
    """The drop, processed once by the command in a new home."""
    home = new_home(make_home, lite_models)
    table = tmp_path_factory.mktemp("output") / "seen.csv"
    answer = home.run("process", drop, "--json", "--output", table)
    assert answer.code == 0, answer.stderr
    yield Processed(home, drop, answer, table, stored(home))
    home.stop()


@pytest.fixture
def fresh(make_home: Callable[[], Path], lite_models: Path) -> Iterator[Home]:
    """A home without a database."""
    home = new_home(make_home, lite_models)
    yield home
    home.stop()
