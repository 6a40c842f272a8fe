"""Drawn crops as stored files, and a small recipe to embed them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from deer_reid_pipeline.vision.crops import encode_crop
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops, make_small_recipe, save_stand_in


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> WeightStore:
    """A store whose MobileNetV2 is a stand-in file."""
    root = tmp_path_factory.mktemp("store")
    save_stand_in(root / "weights", "mobilenet_v2")
    return WeightStore([root / "weights"], root / "models", offline=True)


@pytest.fixture(scope="session")
def recipe(store: WeightStore) -> Recipe:
    return make_small_recipe(store)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[int], list[Job[str]]]:
    """Writes drawn crops as stored ones."""

    def write(count: int) -> list[Job[str]]:
        jobs = []
        for index, crop in enumerate(draw_crops(count)):
            content, path = encode_crop(crop), tmp_path / f"{index}.jpg"
            path.write_bytes(content)
            jobs.append(Job(f"crop {index}", path, sha256=hashlib.sha256(content).hexdigest()))
        return jobs

    return write
