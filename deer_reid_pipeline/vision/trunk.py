"""A backbone as one graph, from laid-out bytes to pooled taps, so that any library can run all of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deer_reid_pipeline.vision.backbones import Network
from deer_reid_pipeline.vision.features import pool

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Preprocess, Tap


class Trunk(nn.Module):
    """uint8 [n, height, width, 3] to the pooled taps, each float32 [n, features], in the order of `taps`.

    The network computes in the type of its weights; what comes before and after it is float32.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Network, spec: Preprocess, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.network = network
        self.taps = tuple(dict.fromkeys(taps))
        self.spec = spec
        self.height, self.width = spec.height, spec.width
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = _normalised(batch, self.mean, self.std).to(next(self.network.parameters()).dtype)
        maps = self.network.forward_taps(x, {tap.layer for tap in self.taps})
        return tuple(pool(maps[tap.layer].float(), tap) for tap in self.taps)

    def parts(self) -> list[tuple[str, nn.Module]]:
        """Those of the network, up to the last that is tapped."""
        everything, wanted = self.network.parts(), {tap.layer for tap in self.taps}
        return everything[: 1 + max(index for index, (name, _) in enumerate(everything) if name in wanted)]


class TrunkPart(nn.Module):
    """Some of a trunk's parts, one after the other, for libraries that compute the parts differently.

    The first one takes uint8 [n, height, width, 3], any other the map of the part before it. It gives the pooled taps
    that lie in it (`taps`), and, unless it reaches the trunk's end, the map for the next one, all float32.

    Args:
        start, end: of `Trunk.parts`, as of a slice.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, trunk: Trunk, start: int, end: int) -> None:
        super().__init__()
        everything = trunk.parts()
        self.first, self.last = start == 0, end == len(everything)
        self.names = [name for name, _ in everything[start:end]]
        self.parts = nn.ModuleList(part for _, part in everything[start:end])
        self.taps = tuple(tap for tap in trunk.taps if tap.layer in self.names)
        self.register_buffer("mean", trunk.mean)
        self.register_buffer("std", trunk.std)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.first:
            x = _normalised(x, self.mean, self.std)
        maps = {}
        for name, part in zip(self.names, self.parts, strict=True):
            x = part(x)
            maps[name] = x
        pooled = tuple(pool(maps[tap.layer].float(), tap) for tap in self.taps)
        return pooled if self.last else (*pooled, x)


def _normalised(batch: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """uint8 [n, height, width, 3] to float32 [n, 3, height, width] as the network was trained on."""
    return (batch.permute(0, 3, 1, 2).float() / 255.0 - mean) / std


def in_precision(trunk: Trunk, kind: torch.dtype, folded: bool) -> Trunk:
    """A copy whose network computes in `kind`; `folded`: batch norms join the convolutions before them, in float32."""
    made = copy.deepcopy(trunk).eval()
    if folded:
        _fold(made.network)
    made.network.to(kind)
    return made.to(memory_format=torch.channels_last).requires_grad_(False)


def _fold(module: nn.Module) -> None:
    """In these networks a batch norm stands right after its convolution among the parts of one module."""
    before: tuple[str, nn.Module] = ("", nn.Identity())
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold(child)
        before = (name, child)
