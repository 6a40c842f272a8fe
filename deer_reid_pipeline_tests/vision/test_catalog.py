"""The built-in recipes: made once, the same ever after, owner's design to the letter."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision import catalog
from deer_reid_pipeline.vision.catalog import RECIPE_NAMES, build_recipe
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.recipe import Recipe, RecipeError
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops


def calibration() -> list[Pixels]:
    return draw_crops(4)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="original, reference, lite, mobile"):
        build_recipe("best", WeightStore([tmp_path], tmp_path))
    assert RECIPE_NAMES == ("original", "reference", "lite", "mobile")


def test_lite_needs_no_download_and_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def drawn() -> list[Pixels]:
        calls.append(1)
        return calibration()

    monkeypatch.setattr(catalog, "drawn_pictures", drawn)
    store = WeightStore([tmp_path / "w"], tmp_path / "m", offline=True)
    recipe = build_recipe("lite", store)
    assert not recipe.random_weights
    assert recipe.id.startswith("lite-")
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert build_recipe("lite", store) == recipe
    assert calls == [1], "kept, not made again"
    vectors = Embedder(recipe, store, "cpu").embed(draw_crops(3, seed=5)).vectors
    assert all(values.shape == (3, 512) for values in vectors.values())

    store.models.path(recipe.branches["baseline"].projection.sha256).unlink()
    assert build_recipe("lite", store).id == recipe.id, "made anew when a projection is gone"
    assert calls == [1, 1]
    own = build_recipe("lite", store, lambda: draw_crops(4, seed=9))
    assert own.id != recipe.id
    assert build_recipe("lite", store).id == recipe.id, "own calibration does not replace the default"


@pytest.mark.parametrize("name", ["original", "reference", "mobile"])
def test_without_weights_nothing_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="DEER_REID_RECIPE=lite"):
        build_recipe(name, WeightStore([tmp_path], tmp_path / "m", offline=True), calibration)
    assert not (tmp_path / "m").exists()


def test_the_original_is_the_owners_design(tmp_path: Path) -> None:
    store = WeightStore([tmp_path], tmp_path / "m", offline=True, allow_random=True)
    recipe = build_recipe("original", store)
    assert recipe.random_weights
    taps = [(tap.layer, tap.pool, tap.grid) for tap in recipe.branches["multiscale"].taps]
    assert taps == [("layer2", "avg", 4), ("layer3", "avg", 2), ("layer4", "avg", 1), ("layer4", "avg", 1)]
    assert recipe.features("multiscale") == (8192, 4096, 2048, 2048)
    assert recipe.branches["multiscale"].projection.outputs == (128, 128, 128, 128)
    assert (recipe.features("efficientnet"), recipe.features("baseline")) == ((1280,), (2048,))
    for backbone in recipe.backbones.values():
        spec = backbone.preprocess
        assert (spec.width, spec.height, spec.mode, spec.inner) == (224, 224, "squash", 1.0)
        assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert build_recipe("original", store) == recipe
    again = WeightStore([tmp_path], tmp_path / "elsewhere", allow_random=True)
    assert build_recipe("original", again).id == recipe.id, "a restart or another machine makes the same Linears"


def test_the_reference_does_not_count_one_vector_twice(tmp_path: Path) -> None:
    store = WeightStore([tmp_path], tmp_path / "m", allow_random=True)
    recipe = build_recipe("reference", store, calibration)
    taps = recipe.branches["multiscale"].taps
    assert len(set(taps)) == 4
    assert [tap.layer for tap in taps] == ["layer2", "layer3", "layer4", "layer4"]


def test_too_few_calibration_pictures_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="too few"):
        build_recipe("lite", WeightStore([tmp_path], tmp_path / "m"), lambda: draw_crops(1))


def test_centring_spreads_the_cosines(tmp_path: Path) -> None:
    """What the projection is for: other pictures of the calibration kind are no longer all alike."""
    store = WeightStore([tmp_path], tmp_path / "m")
    embedder = Embedder(build_recipe("lite", store, lambda: draw_crops(16, seed=1)), store, "cpu")
    crops = draw_crops(12, seed=2)
    pooled = embedder.pooled(crops)
    for name, values in embedder.embed(crops).vectors.items():
        branch = embedder.recipe.branches[name]
        raw = np.concatenate([pooled[branch.backbone, tap] for tap in branch.taps], axis=1)
        raw /= np.linalg.norm(raw, axis=1, keepdims=True)
        pairs = np.triu_indices(len(crops), 1)
        assert np.median((values @ values.T)[pairs]) < np.median((raw @ raw.T)[pairs]) - 0.2


def test_the_default_calibration_is_the_drawn_herd(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deer_reid_pipeline.sample.calibration")
    monkeypatch.setattr(catalog, "CALIBRATION_COUNT", 2)
    pictures = catalog.drawn_pictures()
    assert [(each.dtype, each.ndim) for each in pictures] == [(np.dtype(np.uint8), 3)] * 2
    monkeypatch.setitem(sys.modules, "deer_reid_pipeline.sample.calibration", None)
    with pytest.raises(WeightsError, match="pass calibration="):
        catalog.drawn_pictures()
