"""One small installation a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline_tests.steps.benchmark.small import small_site
from deer_reid_pipeline_tests.vision.conftest import save_stand_in


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the small recipe's weights."""
    folder = tmp_path_factory.mktemp("small") / "weights"
    save_stand_in(folder, "mobilenet_v2")
    return folder


@pytest.fixture
def small(make_home: Callable[[], Path], database: Database, small_weights: Path) -> tuple[Site, str]:
    """A home with the small recipe, and the recipe's id."""
    home = make_home()
    shutil.copytree(small_weights, home / "weights")
    return small_site(home, database)
