"""What the heads of a network start as where its recipe was fine-tuned before: the maps that it was stored with.

A stored map is the whole head as one matrix (docs/decisions/0017); the normalisations that were folded into it are not
kept. They are measured anew on the pictures to train on, and what is left of the matrix is the linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from deer_reid_pipeline.training.network import EmbeddingNetwork
from deer_reid_pipeline.training.shape import learned_branches
from deer_reid_pipeline.vision.engine.batches import BatchLimit
from deer_reid_pipeline.vision.features import lay_out, normalise
from deer_reid_pipeline.vision.model_files import ModelFiles
from deer_reid_pipeline.vision.projections import Projector

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.crops import Pixels
    from deer_reid_pipeline.vision.recipe import Preprocess, Recipe

MEASURED_ON = 512
"""Pictures at most that normalisations are measured on."""

_BATCH = 32


def start_heads(
    network: EmbeddingNetwork,
    recipe: Recipe,
    key: str,
    models: ModelFiles,
    crops: Sequence[Pixels],
    spec: Preprocess,
    device: torch.device,
) -> None:
    """Let the heads of the branches that were fine-tuned before go on; the others stay as they are.

    In evaluation mode a head then gives the vectors of the recipe. Where none goes on, nothing is touched.

    Args:
        network: with the recipe's weights; it is moved to the device.
        key: of the backbone in the recipe.
        crops: to train on.
        spec: how they are laid out; the first view counts.

    Raises:
        WeightsError: a stored map is missing or damaged, or does not fit.
        torch.cuda.OutOfMemoryError: not even one crop fits.
    """
    learned = learned_branches(recipe, key)
    if not learned:
        return
    pooled = _pooled(network.to(device).eval(), crops[:: -(-len(crops) // MEASURED_ON)], spec.each_view()[0], device)
    for name in learned:
        matrix, offset = _stored_map(recipe, name, models)
        network.heads[name].start_from(matrix, offset, pooled[name])  # type: ignore[operator]


def _stored_map(recipe: Recipe, name: str, models: ModelFiles) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix [512, features] and the offset [512] of a branch that sums what becomes of its taps; on the CPU."""
    branch = recipe.branches[name]
    parts = dict(Projector(branch, recipe.features(name), models.load(branch.projection.sha256)).named_buffers())
    matrix = torch.cat([parts[f"weight{index}"] for index in range(len(branch.taps))], dim=1)
    offsets = [part for part_name, part in parts.items() if part_name.startswith("bias")]
    return matrix, torch.stack(offsets).sum(dim=0) if offsets else torch.zeros(len(matrix))


@torch.no_grad()
def _pooled(
    network: EmbeddingNetwork, crops: Sequence[Pixels], spec: Preprocess, device: torch.device
) -> dict[str, torch.Tensor]:
    """Branch -> pooled features, float32 [n, features] on the CPU."""

    def part(start: int, end: int) -> dict[str, torch.Tensor]:
        x = normalise(lay_out(crops[start:end], spec), spec, device)
        pooled = network.pooled(x.contiguous(memory_format=torch.channels_last))
        return {name: features.cpu() for name, features in pooled.items()}

    parts = BatchLimit(_BATCH).run(len(crops), part)
    return {name: torch.cat([each[name] for each in parts]) for name in network.taps}
