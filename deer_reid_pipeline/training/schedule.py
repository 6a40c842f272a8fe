"""Learning rates: lower for layers that are further from the end, rising at first, then falling as a cosine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.losses import BranchLoss
from deer_reid_pipeline.training.network import EmbeddingNetwork

HEAD_FACTOR = 3.0
CENTRE_FACTOR = 30.0
"""Heads and class centres start from nothing, or have new animals to learn: they learn faster than other layers."""

LOWEST = 0.02
"""Share of the highest rate that is left at the end."""


def optimiser(network: EmbeddingNetwork, losses: dict[str, BranchLoss], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over all that is trained, one group a layer; scales, shifts and class centres do not decay."""
    last = len(network.layers) - 1
    groups: list[dict[str, Any]] = []
    for index, layer in enumerate(network.layers):
        rate = config.learning_rate * config.layer_decay ** (last - index)
        groups += _groups(layer, rate)
    groups += _groups(network.heads, HEAD_FACTOR * config.learning_rate)
    centres = [p for loss in losses.values() for p in loss.parameters()]
    groups.append({"params": centres, "lr": CENTRE_FACTOR * config.learning_rate, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    for group in groups:
        group["highest"] = group["lr"]
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _groups(module: nn.Module, rate: float) -> list[dict[str, Any]]:
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "lr": rate},
        {"params": [p for p in trained if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
    ]


def set_rates(optimiser: torch.optim.Optimizer, step: int, steps: int, warmup: float) -> None:
    """Set the rates of a step (counted from 1) of `steps`."""
    rise = min(1.0, step / max(1.0, warmup * steps))
    fall = LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    for group in optimiser.param_groups:
        group["lr"] = group["highest"] * rise * fall
