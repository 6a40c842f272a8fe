"""A backbone with a trainable head for each branch that it serves, and the recipe files that they become.

A head is pooled features, batch normalisation, one linear map to 512, and a batch-norm neck (Luo et al. 2019, Bag of
tricks): the loss on distances sees the vector before the neck or after it, comparison always uses the one after. All of
it is affine after the pooling, so it folds into the one matrix that a recipe's projection is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from deer_reid_pipeline.vision.architectures import CHANNELS, DIMENSION
from deer_reid_pipeline.vision.backbones import Network
from deer_reid_pipeline.vision.features import pooled_taps

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Backbone, Tap


class _FullPrecision(nn.Module):
    """A layer that computes in float32 whatever surrounds it.

    The backward pass of depthwise convolutions is many times slower in bfloat16 than in float32 without a GPU.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            result: torch.Tensor = self.layer(x.float())
        return result


@dataclass(frozen=True)
class Embedded:
    """A batch in one branch: before the neck and after it; each float32 [n, 512]."""

    before: torch.Tensor
    after: torch.Tensor


class Head(nn.Module):
    """Pooled taps (together [n, features]) to `Embedded`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.linear = nn.Linear(features, DIMENSION, bias=False)
        self.neck = nn.BatchNorm1d(DIMENSION)
        self.neck.bias.requires_grad_(False)
        nn.init.orthogonal_(self.linear.weight)

    def forward(self, pooled: torch.Tensor) -> Embedded:
        # In float32 throughout: class centres follow the type of the vectors, and small steps are lost in bfloat16.
        with torch.autocast(pooled.device.type, enabled=False):
            before = self.linear(self.norm(pooled.float()))
            return Embedded(before, self.neck(before))

    @torch.no_grad()
    def start_from(self, matrix: torch.Tensor, offset: torch.Tensor, pooled: torch.Tensor) -> None:
        """Begin as an affine map: in evaluation mode `after` is then the matrix times the features, plus the offset.

        Each normalisation gets the mean and variance of what comes before it, the linear layer the rest of the matrix,
        and the running mean of the neck, which has no shift, the offset. In training a batch of such features is then
        mapped nearly alike.

        Args:
            matrix: [512, features]; offset: [512]; both on the CPU.
            pooled: features of pictures to train on, [n, features], on the CPU.
        """
        features, matrix = pooled.double(), matrix.double()
        mean, variance = features.mean(dim=0), features.var(dim=0, correction=0)
        spread = ((features - mean) @ matrix.T).var(dim=0, correction=0)
        _start_norm(self.norm, mean, variance, torch.ones_like(variance))
        self.linear.weight.copy_(matrix * torch.sqrt(variance + self.norm.eps))
        _start_norm(self.neck, -(matrix @ mean + offset.double()), spread, torch.sqrt(spread + self.neck.eps))

    def affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrix [512, features] and the offset [512] that give `after` in evaluation mode; float64 inside."""
        scale, shift = _affine_of(self.norm)
        neck_scale, neck_shift = _affine_of(self.neck)
        matrix = self.linear.weight.detach().double()
        joined = neck_scale[:, None] * matrix * scale[None, :]
        return joined.float(), (neck_scale * (matrix @ shift) + neck_shift).float()


def _start_norm(norm: nn.BatchNorm1d, mean: torch.Tensor, variance: torch.Tensor, weight: torch.Tensor) -> None:
    """Set the statistics and the scale of a batch normalisation without a shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(weight)
    norm.bias.zero_()


def _affine_of(norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of a batch normalisation in evaluation mode; float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


class EmbeddingNetwork(nn.Module):
    """A backbone and its heads.

    Args:
        network: the backbone with the weights to start from.
        backbone: what the recipe says of it.
        branches: branch -> the taps that it pools.
        frozen: share of the layers, from the input, whose weights and statistics stay.
        frozen_statistics: whether the batch-norm statistics of all layers stay.
    """

    def __init__(
        self,
        network: Network,
        backbone: Backbone,
        branches: Mapping[str, Sequence[Tap]],
        frozen: float,
        frozen_statistics: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.taps = {name: tuple(taps) for name, taps in branches.items()}
        channels = CHANNELS[backbone.arch]
        self.heads = nn.ModuleDict(
            {name: Head(sum(channels[t.layer] * t.grid**2 for t in taps)) for name, taps in self.taps.items()}
        )
        self.layers = layers_of(network)
        self._frozen = self.layers[: int(frozen * len(self.layers))]
        for layer in self._frozen:
            layer.requires_grad_(False)
        self._still = self.layers if frozen_statistics else self._frozen
        _slow_in_bfloat16(network)

    def train(self, mode: bool = True) -> EmbeddingNetwork:
        """As torch's; statistics that are to stay do."""
        super().train(mode)
        for layer in self._still:
            layer.eval()
        return self

    def forward(self, x: torch.Tensor) -> dict[str, Embedded]:
        """float [n, 3, height, width], normalised, to each branch's vectors."""
        return self.head(self.pooled(x))

    def pooled(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The pooled features of each branch, float32 [n, features]: all that a picture goes through alone."""
        every = [tap for taps in self.taps.values() for tap in taps]
        pooled = pooled_taps(self.network, x, every)
        return {name: torch.cat([pooled[tap] for tap in taps], dim=1) for name, taps in self.taps.items()}

    def head(self, pooled: Mapping[str, torch.Tensor]) -> dict[str, Embedded]:
        """The vectors of pooled features; in training the heads normalise over the batch."""
        return {name: self.heads[name](features) for name, features in pooled.items()}

    def backbone_state(self) -> dict[str, torch.Tensor]:
        """Weights of the backbone under the names that it is loaded by."""
        return {name.replace(".layer.", "."): value for name, value in self.network.state_dict().items()}

    def projection(self, branch: str, features: Sequence[int]) -> dict[str, torch.Tensor]:
        """Tensors of a recipe's projection file for a branch, one share a tap, to be summed.

        Args:
            features: length of each pooled tap.
        """
        matrix, offset = self.heads[branch].affine()  # type: ignore[operator]
        tensors = {f"tap{i}.weight": part for i, part in enumerate(matrix.split(list(features), dim=1))}
        return tensors | {"tap0.bias": offset}


def layers_of(network: Network) -> list[nn.Module]:
    """The parts of a backbone in the order in which a picture passes them, blocks taken singly."""
    parts: list[nn.Module] = []
    for child in network.children():
        parts += list(child) if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
    return [part for part in parts if next(part.parameters(), None) is not None]


def _slow_in_bfloat16(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and child.groups == child.in_channels > 1:
            setattr(module, name, _FullPrecision(child))
        else:
            _slow_in_bfloat16(child)
