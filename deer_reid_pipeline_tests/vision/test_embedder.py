"""Embedding: unit vectors, the same in any batch, thread or process; one load for many threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision import pool as pool_module
from deer_reid_pipeline.vision.crops import inner_part, letterbox, squash
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder, EmbeddingError, precision, resolve_device
from deer_reid_pipeline.vision.features import lay_out, normalise
from deer_reid_pipeline.vision.pool import forget_embedders, get_embedder
from deer_reid_pipeline.vision.recipe import BRANCHES, Preprocess, Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops, make_small_recipe, save_stand_in


@pytest.fixture(scope="module")
def embedder(small_recipe: Recipe, small_store: WeightStore) -> Embedder:
    return Embedder(small_recipe, small_store, "cpu")


@pytest.fixture(scope="module")
def two_networks(small_recipe: Recipe, small_store: WeightStore) -> Embedder:
    """As shipped recipes are: the second network, with a layout of its own, serves the EfficientNet branch."""
    main = small_recipe.backbones["main"]
    second = main.model_copy(update={"preprocess": main.preprocess.model_copy(update={"width": 96})})
    branch = small_recipe.branches["efficientnet"].model_copy(update={"backbone": "second"})
    recipe = small_recipe.model_copy(
        update={
            "backbones": {"main": main, "second": second},
            "branches": {**small_recipe.branches, "efficientnet": branch},
        }
    )
    return Embedder(recipe, small_store, "cpu")


def test_vectors_are_unit_float32_for_every_branch(embedder: Embedder, crops: list[Pixels]) -> None:
    batch = embedder.embed(crops)
    assert batch.recipe_id == embedder.recipe.id
    assert set(batch.vectors) == set(BRANCHES) == set(batch.branch_seconds)
    for values in batch.vectors.values():
        assert (values.dtype, values.shape) == (np.float32, (6, 512))
        np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)
        assert np.linalg.matrix_rank(values) == 6, "different crops, different vectors"
    stages = {"preprocess", "backbone:main"} | {f"project:{name}" for name in BRANCHES}
    assert set(batch.seconds) == stages
    assert all(value > 0 for value in batch.seconds.values())


def test_vectors_are_what_the_recipe_says(embedder: Embedder, small_store: WeightStore, crops: list[Pixels]) -> None:
    """The whole path again, with torchvision's own network and float64 at the end."""
    from torchvision.models import mobilenet_v2

    recipe = embedder.recipe
    whole = mobilenet_v2(weights=None).eval()
    whole.load_state_dict(small_store.state("mobilenet_v2", recipe.backbones["main"].weights), strict=False)
    laid = np.stack([letterbox(crop, 64, 64) for crop in crops]).astype(np.float64) / 255
    x = ((laid - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        head = whole.features(torch.from_numpy(x).float()).double().numpy()
    tensors = small_store.models.load(recipe.branches["baseline"].projection.sha256)
    weight, bias = (tensors[f"tap0.{part}"].double().numpy() for part in ("weight", "bias"))
    expected = head.mean((2, 3)) @ weight.T + bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.embed(crops).vectors["baseline"], expected, atol=1e-4)


def test_several_views_give_the_direction_of_their_mean(
    small_recipe: Recipe, small_store: WeightStore, crops: list[Pixels]
) -> None:
    def seen_at(inner: float, *views: float) -> Recipe:
        main = small_recipe.backbones["main"]
        spec = main.preprocess.model_copy(update={"inner": inner, "views": views})
        backbones = {**small_recipe.backbones, "main": main.model_copy(update={"preprocess": spec})}
        return small_recipe.model_copy(update={"backbones": backbones})

    several = seen_at(0.8, 0.6, 1.0)
    assert len({several.id, seen_at(0.8).id, seen_at(0.8, 0.6).id}) == 3
    found = Embedder(several, small_store, "cpu").embed(crops).vectors
    for name in BRANCHES:
        each = [Embedder(seen_at(share), small_store, "cpu").embed(crops).vectors[name] for share in (0.8, 0.6, 1.0)]
        mean = np.sum(each, axis=0)
        np.testing.assert_allclose(found[name], mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
        assert (found[name] * each[0]).sum(axis=1).max() < 0.9999


def test_one_at_a_time_equals_all_at_once(embedder: Embedder) -> None:
    crops = draw_crops(40)
    together = embedder.embed(crops).vectors
    for name in BRANCHES:
        alone = np.concatenate([embedder.embed([crop]).vectors[name] for crop in crops])
        assert (together[name] * alone).sum(axis=1).min() >= 0.9999


def test_another_process_gives_the_same_vectors(
    embedder: Embedder, small_store: WeightStore, crops: list[Pixels], tmp_path: Path
) -> None:
    np.savez(tmp_path / "crops.npz", *crops)
    (tmp_path / "recipe.json").write_text(embedder.recipe.model_dump_json(), encoding="ascii")
    script = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from deer_reid_pipeline.vision.embedder import Embedder\n"
        "from deer_reid_pipeline.vision.recipe import Recipe\n"
        "from deer_reid_pipeline.vision.weights import WeightStore\n"
        "here, weights, models = map(Path, sys.argv[1:])\n"
        "recipe = Recipe.from_json((here / 'recipe.json').read_text())\n"
        "embedder = Embedder(recipe, WeightStore([weights], models), 'cpu', threads=1)\n"
        "np.savez(here / 'out.npz', **embedder.embed(list(np.load(here / 'crops.npz').values())).vectors)\n"
    )
    folders = [tmp_path, small_store.search_dirs[0], small_store.models.folder]
    subprocess.run([sys.executable, "-c", script, *map(str, folders)], check=True)
    other = np.load(tmp_path / "out.npz")
    for name, values in embedder.embed(crops).vectors.items():
        assert (values * other[name]).sum(axis=1).min() >= 0.9999


def test_some_branches_are_computed_alone_and_are_the_same_vectors(
    two_networks: Embedder, crops: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = two_networks.embed(crops)
    used: list[str] = []
    runner = Embedder.runner
    monkeypatch.setattr(Embedder, "runner", lambda self, key, choice: used.append(key) or runner(self, key, choice))
    for branches, backbone in ((("baseline", "multiscale"), "main"), (("efficientnet",), "second")):
        part = two_networks.only(branches)
        used.clear()
        prepared = [part.prepare(crop) for crop in crops]
        for made in (part.embed(crops), part.embed_prepared(prepared)):
            assert set(made.vectors) == set(branches) == set(made.branch_seconds)
            for branch in branches:
                np.testing.assert_array_equal(made.vectors[branch], whole.vectors[branch])
        assert set(used) == {backbone}
        assert len(prepared[0]) == 1
    assert two_networks.only(BRANCHES) is two_networks
    assert set(two_networks.embed(crops).vectors) == set(BRANCHES), "the whole is as it was"
    with pytest.raises(ValueError, match="no branches depth"):
        two_networks.only(("depth",))
    with pytest.raises(ValueError, match="none asked for"):
        two_networks.only(())


def test_no_crops_give_no_vectors_and_wrong_ones_an_error(embedder: Embedder) -> None:
    assert all(values.shape == (0, 512) for values in embedder.embed([]).vectors.values())
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="crop 0"):
            embedder.embed([wrong])
    assert embedder.embed([np.zeros((1, 1, 3), np.uint8)]).vectors["baseline"].shape == (1, 512)
    assert embedder.warm_up() > 0


def test_pooled_features_come_out_for_fitting(embedder: Embedder, crops: list[Pixels]) -> None:
    pooled = embedder.pooled(crops)
    for branch in embedder.recipe.branches.values():
        assert {tap: pooled["main", tap].shape[0] for tap in branch.taps} == dict.fromkeys(branch.taps, 6)


def test_output_that_is_no_vector_is_an_error(
    small_recipe: Recipe, small_store: WeightStore, crops: list[Pixels]
) -> None:
    broken = Embedder(small_recipe, small_store, "cpu")
    for value in (float("nan"), 0.0):
        broken._projectors["multiscale"].weight0.fill_(value)
        for index in range(1, 4):
            getattr(broken._projectors["multiscale"], f"weight{index}").fill_(value)
        for index in range(4):
            getattr(broken._projectors["multiscale"], f"bias{index}").fill_(value)
        with pytest.raises(EmbeddingError, match="no usable multiscale vector for 6 of 6"):
            broken.embed(crops)


def test_layout_follows_the_recipe(crops: list[Pixels]) -> None:
    base = {"width": 48, "height": 64, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "inner": 0.8}
    letter = Preprocess(mode="letterbox", fill=(9, 8, 7), **base)
    flat = Preprocess(mode="squash", **base)
    part = inner_part(crops[0], 0.8)
    assert (lay_out(crops[:1], letter)[0] == letterbox(part, 48, 64, (9, 8, 7))).all()
    assert (lay_out(crops[:1], flat)[0] == squash(part, 48, 64)).all()
    x = normalise(lay_out(crops, flat), flat, torch.device("cpu")).numpy()
    expected = (lay_out(crops, flat) / 255.0 - base["mean"]) / base["std"]
    np.testing.assert_allclose(x, expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_devices_that_are_absent_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    for wrong in ("cuda", "cuda:3", "mps"):
        with pytest.raises(EmbeddingError, match="absent"):
            resolve_device(wrong)
    for wrong in ("gpu", "meta"):
        with pytest.raises(EmbeddingError, match="use auto"):
            resolve_device(wrong)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(resolve_device("auto")) == "cuda:0"
    assert str(resolve_device("cuda:1")) == "cuda:1"
    with pytest.raises(EmbeddingError, match="2 CUDA devices"):
        resolve_device("cuda:2")


def test_the_cuda_precision_context_can_be_entered() -> None:
    with precision(torch.device("cuda", 0)):
        assert torch.is_inference_mode_enabled()


def test_32_threads_load_once_and_agree(
    small_recipe: Recipe, small_store: WeightStore, crops: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_embedders()
    loads: list[int] = []

    class Counted(Embedder):
        def __init__(self, *args: object, **options: object) -> None:
            loads.append(1)
            super().__init__(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pool_module, "Embedder", Counted)
    barrier = threading.Barrier(32)

    def work(index: int) -> tuple[int, np.ndarray]:
        barrier.wait()
        embedder = get_embedder(small_recipe, small_store, "cpu")
        return id(embedder), embedder.embed([crops[index % 6]]).vectors["multiscale"]

    with ThreadPoolExecutor(32) as threads:
        results = list(threads.map(work, range(32)))
    assert len(loads) == 1
    assert len({each for each, _ in results}) == 1
    alone = get_embedder(small_recipe, small_store, "cpu").embed(crops).vectors["multiscale"]
    for index, (_, values) in enumerate(results):
        assert values[0] @ alone[index % 6] >= 0.9999
    forget_embedders()


def test_a_failed_load_is_told_to_all_and_can_be_tried_again(tmp_path: Path) -> None:
    forget_embedders()
    save_stand_in(tmp_path / "w", "mobilenet_v2")
    store = WeightStore([tmp_path / "w"], tmp_path / "m", offline=True)
    recipe = make_small_recipe(store)
    hidden = (tmp_path / "w" / "mobilenet_v2.pth").rename(tmp_path / "hidden")
    barrier = threading.Barrier(8)

    def work(_: int) -> str:
        barrier.wait()
        try:
            get_embedder(recipe, store, "cpu")
        except WeightsError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as threads:
        assert all("does not exist" in text for text in threads.map(work, range(8)))
    hidden.rename(tmp_path / "w" / "mobilenet_v2.pth")
    assert get_embedder(recipe, store, "cpu").recipe.id == recipe.id
    forget_embedders()


def test_another_weight_byte_is_another_recipe(tmp_path: Path) -> None:
    ids = []
    for seed in (1, 2):
        save_stand_in(tmp_path / "w", "mobilenet_v2", seed=seed)
        ids.append(make_small_recipe(WeightStore([tmp_path / "w"], tmp_path / "m")).id)
    assert ids[0] != ids[1]
