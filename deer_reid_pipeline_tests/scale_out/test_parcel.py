"""A recipe that travels: what is unpacked gives the same vectors, and nothing else passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.scale_out.options import fixed
from deer_reid_pipeline.scale_out.parcel import Parcel, pack, unpack
from deer_reid_pipeline.scale_out.worker import load_embedder
from deer_reid_pipeline.vision import catalog
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine import choosing
from deer_reid_pipeline.vision.engine.options import AUTO, PLAIN, Choice, EngineOptions
from deer_reid_pipeline.vision.model_files import ModelFiles
from deer_reid_pipeline.vision.recipe import Recipe, WeightsRef
from deer_reid_pipeline.vision.states import read_state
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops, make_small_recipe


def with_weights(recipe: Recipe, ref: WeightsRef) -> Recipe:
    main = recipe.backbones["main"].model_copy(update={"weights": ref})
    return recipe.model_copy(update={"backbones": {"main": main}})


@pytest.fixture
def parcel(recipe: Recipe, store: WeightStore) -> Parcel:
    return pack(recipe, store)


def test_the_vectors_are_the_same_on_the_other_side(recipe: Recipe, store: WeightStore, parcel: Parcel) -> None:
    threads = torch.get_num_threads()
    try:
        there = load_embedder(parcel, "cpu", 1, AUTO)
        assert torch.get_num_threads() == 1
        assert dict(there.plan) == {"main": PLAIN}
        crops = draw_crops(6)
        expected, found = Embedder(recipe, store, "cpu").embed(crops), there.embed(crops)
    finally:
        torch.set_num_threads(threads)
    assert found.recipe_id == recipe.id
    for name, vectors in expected.vectors.items():
        np.testing.assert_allclose(found.vectors[name], vectors, atol=1e-5)


@pytest.mark.parametrize("kind", ["store", "random"])
def test_weights_of_the_model_store_and_random_ones_travel_too(
    kind: str, recipe: Recipe, store: WeightStore, tmp_path: Path
) -> None:
    if kind == "store":
        ref = recipe.backbones["main"].weights
        sha256 = store.models.save(read_state(store.search_dirs[0] / ref.name))
        made = with_weights(recipe, WeightsRef(name="tuned", sha256=sha256, source="store"))
        packed = pack(made, store)
        assert sha256 in packed.models
    else:
        drawing = WeightStore([tmp_path / "none"], store.models.folder, offline=True, allow_random=True)
        made = make_small_recipe(drawing)
        packed = pack(made, drawing)
        assert set(packed.models) == {branch.projection.sha256 for branch in made.branches.values()}
    assert packed.weights == ()
    (tmp_path / "there").mkdir()
    found, there = unpack(packed, tmp_path / "there")
    assert found.id == made.id
    Embedder(found, there, "cpu").warm_up()


def test_nothing_of_the_other_machine_is_used(parcel: Parcel, store: WeightStore, tmp_path: Path) -> None:
    _, there = unpack(parcel, tmp_path)
    places = [*there.search_dirs, there.models.folder]
    assert all(place.is_relative_to(tmp_path) for place in places)
    assert there.offline
    assert parcel.size == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.suffix in (".pth", ".safetensors"))


@pytest.mark.parametrize("kind", ["models", "weights"])
def test_a_file_that_was_damaged_on_the_way_is_refused(kind: str, parcel: Parcel, tmp_path: Path) -> None:
    if kind == "models":
        name = next(iter(parcel.models))
        broken = replace(parcel, models={**parcel.models, name: parcel.models[name][:-1]})
    else:
        arch, name, sha256, content = parcel.weights[0]
        broken = replace(parcel, weights=((arch, name, sha256, content + b"!"),))
    with pytest.raises(WeightsError, match="damaged on its way to this node"):
        unpack(broken, tmp_path)


def test_a_node_with_another_version_is_refused(parcel: Parcel, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"and the command 9\.9: install the same version"):
        unpack(replace(parcel, version="9.9"), tmp_path)


def test_a_damaged_file_is_found_before_it_travels(recipe: Recipe, store: WeightStore, tmp_path: Path) -> None:
    sha256 = recipe.branches["baseline"].projection.sha256
    models = ModelFiles(tmp_path / "models")
    models.folder.mkdir()
    for branch in recipe.branches.values():
        content = store.models.path(branch.projection.sha256).read_bytes()
        models.path(branch.projection.sha256).write_bytes(content)
    models.path(sha256).write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="is damaged or another file"):
        pack(recipe, WeightStore(store.search_dirs, models.folder, offline=True))


def test_nothing_is_left_to_a_measurement() -> None:
    assert fixed(AUTO) == EngineOptions("float32", "torch")
    assert fixed(EngineOptions("bfloat16", "auto", 4000)) == EngineOptions("bfloat16", "torch", 4000)
    assert fixed(EngineOptions("auto", "openvino")) == EngineOptions("float32", "openvino")


@pytest.mark.parametrize("least", [0.9, 2.0])
def test_another_arithmetic_has_to_pass_its_test_on_each_worker(
    least: float, parcel: Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = Choice("torch", "bfloat16")
    monkeypatch.setattr(choosing, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(choosing, "LEAST_COSINE", least)
    monkeypatch.setattr(choosing, "LEAST_BATCH_COSINE", least)
    monkeypatch.setattr(choosing, "candidates", lambda device: [Choice("torch", "float32"), narrow])
    monkeypatch.setattr(choosing._Bench, "_rate", lambda *_, **__: 1.0)
    monkeypatch.setattr(catalog, "drawn_pictures", lambda: draw_crops(4))
    threads = torch.get_num_threads()
    try:
        plan = load_embedder(parcel, "cpu", 1, EngineOptions("bfloat16", "auto")).plan
    finally:
        torch.set_num_threads(threads)
    assert dict(plan) == {"main": narrow if least < 1 else PLAIN}
