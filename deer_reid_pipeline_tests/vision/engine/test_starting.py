"""The first picture: a new process computes it too, and says so where it cannot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.vision.crops import encode_crop
from deer_reid_pipeline.vision.engine.options import PLAIN
from deer_reid_pipeline.vision.engine.starting import measure_starts
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops

PLAN = {"main": asdict(PLAIN)}


def test_a_new_process_takes_longer_than_one_that_is_ready(small_recipe: Recipe, small_store: WeightStore) -> None:
    crop = encode_crop(draw_crops(1)[0])
    models = small_store.models.folder
    found = measure_starts(small_recipe.to_json(), small_store.search_dirs, models, "cpu", PLAN, crop, rounds=1)
    assert found.cold > found.loading > 0
    assert found.cold > found.warm > 0


def test_a_new_process_that_fails_is_one_line(small_recipe: Recipe, small_store: WeightStore, tmp_path: Path) -> None:
    crop = encode_crop(draw_crops(1)[0])
    with pytest.raises(DeerReidError, match="doctor") as caught:
        measure_starts(small_recipe.to_json(), small_store.search_dirs, tmp_path / "none", "cpu", PLAN, crop)
    assert "\n" not in str(caught.value)
    assert "safetensors" in str(caught.value)
