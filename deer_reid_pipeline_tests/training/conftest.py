"""A small network, a few striped animals, and one thread, as a training has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from deer_reid_pipeline.training import trainer as module
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.crop_cache import CropCache, make_cache
from deer_reid_pipeline.training.dataset import Picture, TrainingSet
from deer_reid_pipeline.vision.catalog import build_recipe
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.coats import striped

TINY = TrainingConfig(
    epochs=3,
    folds=0,
    width=64,
    height=64,
    classes_per_batch=6,
    pictures_per_class=2,
    frozen=0.5,
    precision="float32",
    workers=2,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST_PICTURES", 36)


@pytest.fixture(scope="session")
def herd() -> TrainingSet:
    """Sixteen animals, four encounters each, one flank."""
    return TrainingSet(
        tuple(
            Picture(f"{who:02d}-{when}", f"deer {who:02d}", "left", f"e{who:02d}-{when}")
            for who in range(16)
            for when in range(4)
        )
    )


def coats(data: TrainingSet) -> Iterator[tuple[str, np.ndarray]]:
    """The crop of each picture of the herd."""
    for picture in data.pictures:
        who, when = picture.key.split("-")
        yield picture.key, striped(int(who), int(when))


@pytest.fixture
def crops(tmp_path: Path, herd: TrainingSet) -> CropCache:
    return make_cache(tmp_path / "crops", coats(herd), 96)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> WeightStore:
    """Random weights: what is tested here is arithmetic, not accuracy."""
    folder = tmp_path_factory.mktemp("weights")
    return WeightStore([folder], folder / "models", offline=True, allow_random=True)


@pytest.fixture(scope="session")
def base(store: WeightStore) -> Recipe:
    return build_recipe("mobile", store)
