"""Shared parts: small real networks with random weights, coloured crops, the development pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from deer_reid_pipeline.vision.backbones import Network, build_network
from deer_reid_pipeline.vision.crops import squash
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.projections import linear_projection
from deer_reid_pipeline.vision.recipe import Backbone, Branch, Preprocess, Recipe, Tap
from deer_reid_pipeline.vision.weights import WeightStore, declare

_DATA = Path(os.environ.get("DEER_REID_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    if not (_DATA / "nyala" / "observations.csv").is_file():
        pytest.skip(f"development pictures are not in {_DATA}; set DEER_REID_DATA")
    return _DATA


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    folder = _DATA.parent / "weights"
    if not (folder / "yolox_nano.onnx").is_file():
        pytest.skip(f"development weights are not in {folder}")
    return folder


def draw_crops(count: int, seed: int = 0) -> list[Pixels]:
    """Smooth random colour fields of different sizes: cheap pictures on which features differ."""
    rng = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        height, width = 60 + 7 * (index % 5), 90 + 11 * (index % 3)
        rows, columns = np.arange(height) * 6 // height, np.arange(width) * 8 // width
        crops.append(np.ascontiguousarray(coarse[rows][:, columns]))
    return crops


@pytest.fixture
def crops() -> list[Pixels]:
    return draw_crops(6)


def save_stand_in(folder: Path, arch: str, seed: int = 7) -> Network:
    """Random weights with the right keys as a `.pth` that `weights.json` declares; returns the network."""
    torch.manual_seed(seed)
    network = build_network(arch, 224, 224)
    for module in network.modules():  # statistics of real inputs, as in a trained file; else all crops look alike
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    laid_out = torch.from_numpy(np.stack([squash(crop, 96, 96) for crop in draw_crops(16, seed)]))
    with torch.no_grad():
        network.train().forward_taps(laid_out.permute(0, 3, 1, 2).float().div(64).sub(2), ["head"])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / f"{arch}.pth")
    declare(folder, arch, f"{arch}.pth")
    return network.eval()


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> WeightStore:
    """A store whose MobileNetV2 is a stand-in file."""
    root = tmp_path_factory.mktemp("store")
    save_stand_in(root / "weights", "mobilenet_v2")
    return WeightStore([root / "weights"], root / "models", offline=True)


@pytest.fixture(scope="session")
def small_recipe(small_store: WeightStore) -> Recipe:
    """Three branches on one MobileNetV2 at 64 x 64 pixels: real parts, little work."""
    return make_small_recipe(small_store)


def make_small_recipe(store: WeightStore) -> Recipe:
    preprocess = Preprocess(
        width=64, height=64, mode="letterbox", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    last = (Tap(layer="head"),)
    several = (
        Tap(layer="stride8", grid=2),
        Tap(layer="stride32"),
        Tap(layer="head", pool="gem"),
        Tap(layer="head"),
    )
    return Recipe(
        name="small",
        backbones={"main": Backbone(arch="mobilenet_v2", weights=store.resolve("mobilenet_v2"), preprocess=preprocess)},
        branches={
            "baseline": _branch(store, last, [1280], [512], 1),
            "multiscale": _branch(store, several, [128, 320, 1280, 1280], [128] * 4, 2),
            "efficientnet": _branch(store, last, [1280], [512], 3),
        },
    )


def _branch(store: WeightStore, taps: tuple[Tap, ...], features: list[int], outputs: list[int], seed: int) -> Branch:
    return Branch(backbone="main", taps=taps, projection=linear_projection(store.models, features, outputs, seed))
