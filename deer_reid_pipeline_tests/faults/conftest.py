"""The result without a fault, and a running installation for tests that damage it one after the other."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deer_reid_pipeline_tests.e2e.conftest import Processed, drop, fresh, processed
from deer_reid_pipeline_tests.e2e.runs import Home, assert_same, stored
from deer_reid_pipeline_tests.faults.installation import Installation

__all__ = ["drop", "fresh", "processed"]


@pytest.fixture(scope="module")
def running(make_home: Callable[[], Path], lite_models: Path) -> Iterator[Installation]:
    """One that serves, for all tests of a file."""
    with serving(new_installation(make_home, lite_models)) as made:
        yield made


@pytest.fixture
def installation(running: Installation) -> Installation:
    """The one that serves, with nothing processed so far."""
    running.forget()
    return running


def new_installation(make_home: Callable[[], Path], lite_models: Path, database_url: str | None = None) -> Installation:
    """A home without a database, which has the projections of `lite`."""
    folder = make_home()
    shutil.copytree(lite_models, folder / "models")
    return Installation(folder, database_url=database_url)


@contextmanager
def serving(made: Installation) -> Iterator[Installation]:
    """It serves, and is ended with its database whatever happens."""
    try:
        made.start_serving()
        yield made
    finally:
        made.stop_serving()
        made.stop()


def assert_as_without_fault(home: Home, expected: Processed) -> None:
    """The same rows, and for each crop its whole file and nothing else beside them."""
    assert_same(stored(home), expected.stored)
    kept = dict(home.query("SELECT file, sha256 FROM detection_crops"))  # type: ignore[arg-type]
    folder = home.folder / "crops"
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == kept
    assert len(kept) == len(expected.stored.detections)
