"""The built-in recipes' shapes as plain data, with random weights: for measuring on a machine without pydantic.

Speed and memory depend on shapes alone. No vector made with these means anything, and nothing here can be stored.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import nn

from deer_reid_pipeline.vision.architectures import CHANNELS
from deer_reid_pipeline.vision.backbones import Network, build_network
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.features import lay_out, normalise, pooled_taps
from deer_reid_pipeline.vision.projections import shares, sign_matrix

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Backbone, Preprocess, Recipe, Tap
    from deer_reid_pipeline.vision.weights import WeightStore

SEED = 20240601
_PACKAGES = {
    "efficientnet_b0": "efficientnet_pytorch",
    "efficientnet_lite0": "efficientnet_lite_pytorch",
    "efficientnet_lite2": "efficientnet_lite_pytorch",
}


@dataclass(frozen=True)
class MapTap:
    """What `recipe.Tap` says, unchecked."""

    layer: str
    pool: Literal["avg", "gem", "max"] = "avg"
    grid: int = 1
    p: float = 3.0


@dataclass(frozen=True)
class Layout:
    """What `recipe.Preprocess` says of a recipe with one view, unchecked."""

    width: int = 224
    height: int = 224
    mode: Literal["letterbox", "squash"] = "letterbox"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    inner: float = 0.85
    fill: tuple[int, int, int] = (124, 116, 104)

    def each_view(self) -> tuple[Layout, ...]:
        return (self,)


_LITE = Layout(mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502), fill=(127, 127, 127))


@dataclass(frozen=True)
class ShapeOfBackbone:
    """`arch` is the recipe's; `network` is what is computed, which differs where a package is absent."""

    arch: str
    network: str
    preprocess: Layout
    last_stride: int = 2


@dataclass(frozen=True)
class ShapeOfProjection:
    outputs: tuple[int, ...]
    sha256: str
    combine: Literal["concat", "sum"] = "concat"


@dataclass(frozen=True)
class ShapeOfBranch:
    backbone: str
    taps: tuple[MapTap, ...]
    projection: ShapeOfProjection


@dataclass(frozen=True)
class Shape:
    """What the engine asks of a recipe."""

    name: str
    backbones: dict[str, ShapeOfBackbone]
    branches: dict[str, ShapeOfBranch]

    @property
    def id(self) -> str:
        """Begins with 'random', as no recipe's does."""
        text = repr((self.name, self.backbones, self.branches))
        return f"random-{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def features(self, branch: str) -> tuple[int, ...]:
        """Length of each pooled tap of a branch, before projection."""
        channels = CHANNELS[self.backbones[self.branches[branch].backbone].arch]
        return tuple(channels[tap.layer] * tap.grid**2 for tap in self.branches[branch].taps)

    def stand_ins(self) -> list[str]:
        """Which networks stand in for which, a line each."""
        return [
            f"{self.name}: {each.network} stands in for {each.arch}, whose package {_PACKAGES[each.arch]} is absent"
            for each in self.backbones.values()
            if each.network != each.arch
        ]


def _taps(last: str, stages: Sequence[str]) -> dict[str, tuple[str, tuple[MapTap, ...]]]:
    first, second = MapTap(stages[0], grid=4), MapTap(stages[1], grid=2)
    ends = (
        (MapTap("layer4", "gem"), MapTap("layer4")) if last == "layer4" else (MapTap("stride32"), MapTap(last, "gem"))
    )
    return {
        "baseline": ("main", (MapTap(last),)),
        "multiscale": ("main", (first, second, *ends)),
        "efficientnet": ("second", (MapTap("head"),)),
    }


_RESNET = _taps("layer4", ("layer2", "layer3"))
_STRIDES = _taps("head", ("stride8", "stride16"))
_DESIGNS = {
    "reference": ("resnet50", "efficientnet_b0", _RESNET),
    "lite": ("efficientnet_lite0", "efficientnet_lite2", _STRIDES),
    "mobile": ("mobilenet_v2", "efficientnet_lite0", _STRIDES),
}


def measurable() -> tuple[str, ...]:
    """The small recipe whose main network can be built here, and `reference`."""
    small = "lite" if _installed("efficientnet_lite0") else "mobile"
    return small, "reference"


def shape_of(name: str, side: int = 224) -> Shape:
    """The shape of `reference`, `lite` or `mobile`, with other networks where a package is absent.

    Args:
        side: width and height of the networks' input, pixels; a recipe has 224.
    """
    main, second, taps = _DESIGNS[name]
    backbones = {}
    for key, arch in (("main", main), ("second", second)):
        layout = _LITE if arch.startswith("efficientnet_lite") else Layout()
        network = arch if _installed(arch) else "torchvision efficientnet_b0"
        backbones[key] = ShapeOfBackbone(arch, network, replace(layout, width=side, height=side))
    branches = {
        branch: ShapeOfBranch(key, each, ShapeOfProjection(shares(len(each)), f"random {branch}"))
        for branch, (key, each) in taps.items()
    }
    return Shape(name, backbones, branches)


def _installed(arch: str) -> bool:
    package = _PACKAGES.get(arch)
    return package is None or importlib.util.find_spec(package) is not None


class TorchvisionEfficientNetB0(Network):
    """torchvision's EfficientNet-B0, with the taps of `backbones.EfficientNet`; its weights are not the recipe's."""

    _taps = {3: "stride8", 5: "stride16", 7: "stride32", 8: "head"}

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import efficientnet_b0

        self.features: nn.Sequential = efficientnet_b0(weights=None).features

    def parts(self) -> list[tuple[str, nn.Module]]:
        return [(self._taps.get(index, ""), block) for index, block in enumerate(self.features)]


@dataclass
class RandomParts:
    """Networks and projections of a shape, seeded; takes the place of a `WeightStore` and of its model files.

    Batch norms bring every feature map to the scale of one on the pictures: as made, values grow from layer to layer
    until float16 cannot hold them. They keep the mean, and so do the projections: what is left of random features
    without it changes with every rounding, as it does not in trained networks.

    Args:
        pictures: uint8 [h, w, 3], at least two.
    """

    shape: Shape
    pictures: Sequence[Pixels]
    _tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def models(self) -> RandomParts:
        return self

    def load(self, sha256: str) -> dict[str, torch.Tensor]:
        """Tensors of the projection of this name, once `network` made the network that it belongs to."""
        return self._tensors[sha256]

    def network(self, backbone: Backbone, _: WeightStore) -> Network:
        """A network in evaluation mode on the CPU, and with it the projections of the branches that it serves."""
        key = next(key for key, each in self.shape.backbones.items() if each is backbone)
        shape = self.shape.backbones[key]
        layout = cast("Preprocess", shape.preprocess)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            known = shape.network in CHANNELS
            made = build_network(shape.network, layout.width, layout.height) if known else TorchvisionEfficientNetB0()
            x = normalise(lay_out(self.pictures, layout), layout, torch.device("cpu"))
        made.eval().requires_grad_(False)
        self._settle(made, x)
        with torch.inference_mode():
            served = {name: each for name, each in self.shape.branches.items() if each.backbone == key}
            taps = cast("list[Tap]", [tap for each in served.values() for tap in each.taps])
            pooled = pooled_taps(made, x, taps)
        for name, each in served.items():
            self._tensors[each.projection.sha256] = {
                part: tensor
                for index, (tap, out) in enumerate(zip(each.taps, each.projection.outputs, strict=True))
                for part, tensor in _projection(index, pooled[cast("Tap", tap)], out, name).items()
            }
        return made

    @staticmethod
    def _settle(network: Network, x: torch.Tensor) -> None:
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        hooks = [norm.register_forward_pre_hook(_to_unit_scale) for norm in norms]
        with torch.no_grad():
            for _ in network.stages(x):
                pass
        for hook in hooks:
            hook.remove()


def _to_unit_scale(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var.copy_(inputs[0].square().mean(dim=(0, 2, 3)))


def _projection(index: int, pooled: torch.Tensor, outputs: int, branch: str) -> dict[str, torch.Tensor]:
    """Random signs, scaled so that every tap has the same say."""
    signs = sign_matrix(f"gpu-check/{branch}/tap{index}", outputs, pooled.shape[1]).astype(np.float32)
    return {f"tap{index}.weight": torch.from_numpy(signs) / (pooled.norm(dim=1).mean() * outputs**0.5)}


def embedder_of(shape: Shape, pictures: Sequence[Pixels], device: str) -> Embedder:
    """The product's own embedder, computing a shape with random weights.

    Raises:
        EmbeddingError: the device is absent.
    """
    parts = RandomParts(shape, pictures)
    return Embedder(cast("Recipe", shape), cast("WeightStore", parts), device, load=parts.network)
