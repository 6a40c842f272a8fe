"""Which features a fine-tuned recipe pools, and how trained networks become a recipe of the same shape as its base.

The shape stays that of the base: `baseline` and `multiscale` from one network, `efficientnet` from another, so that
everything that fuses and compares branches goes on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.vision.model_files import ModelFiles
from deer_reid_pipeline.vision.recipe import (
    CHANNELS,
    DIMENSION,
    Backbone,
    Branch,
    Preprocess,
    Projection,
    Recipe,
    Tap,
    WeightsRef,
    base_name,
)

if TYPE_CHECKING:
    import torch

    from deer_reid_pipeline.training.network import EmbeddingNetwork

TUNED = "tuned"
FOLD = "fold"
VIEW_STEP = 1.15
"""Ratio of the centre shares of two neighbouring views."""


@dataclass(frozen=True)
class TrainedBackbone:
    """What a training left in the model store.

    Attributes:
        weights: sha256 of the backbone's file.
        projections: branch -> sha256 of its projection's file.
    """

    weights: str
    projections: Mapping[str, str]


def tuned_name(base: str, fold: int | None = None) -> str:
    """Name of the recipe that fine-tuning makes of a base; that of a fold's model says so."""
    name = f"{base_name(base)}.{TUNED}"
    return name if fold is None else f"{name}.{FOLD}{fold}"


def taps_of(recipe: Recipe, branch: str) -> tuple[Tap, ...]:
    """What a trained branch pools, always by generalised mean (Radenovic et al. 2018): the last features, and under
    multiscale those at half the stride too."""
    stages = list(CHANNELS[recipe.backbones[recipe.branches[branch].backbone].arch])
    last = Tap(layer=stages[-1], pool="gem")
    if branch != "multiscale":
        return (last,)
    half = "stride16" if "stride16" in stages else "layer3"
    return (Tap(layer=half, pool="gem"), last)


def branches_of(recipe: Recipe, key: str) -> dict[str, tuple[Tap, ...]]:
    """The branches that a backbone serves, with what each pools."""
    return {name: taps_of(recipe, name) for name, branch in recipe.branches.items() if branch.backbone == key}


def learned_branches(recipe: Recipe, key: str) -> tuple[str, ...]:
    """The branches of a backbone that were fine-tuned before and pool as a trained branch does: their heads go on."""
    return tuple(
        name
        for name, taps in branches_of(recipe, key).items()
        if (branch := recipe.branches[name]).projection.kind == "trained"
        and branch.projection.combine == "sum"
        and branch.taps == taps
    )


def layout(backbone: Backbone, config: TrainingConfig) -> Preprocess:
    """How crops are laid out for a trained backbone: letterboxed, in its own colours."""
    return backbone.preprocess.model_copy(
        update={
            "width": config.width,
            "height": config.height,
            "mode": "letterbox",
            "inner": config.inner,
            "views": views_of(config.inner, config.views),
        }
    )


def views_of(inner: float, views: int) -> tuple[float, ...]:
    """The centre shares beside `inner`, so that there are `views` in all, at most the whole crop."""
    steps = [step for step in range(-(views // 2), (views - 1) // 2 + 1) if step]
    shares = [round(min(1.0, inner * VIEW_STEP**step), 4) for step in steps]
    return tuple(share for share in dict.fromkeys(shares) if share != inner)


def last_stride(recipe: Recipe, key: str, config: TrainingConfig) -> Literal[1, 2]:
    """Of a trained backbone: what is asked for in the multiscale network, as published in the other."""
    return 1 if config.last_stride == 1 and recipe.branches["multiscale"].backbone == key else 2


def store_network(models: ModelFiles, network: EmbeddingNetwork, recipe: Recipe, key: str) -> TrainedBackbone:
    """Write a trained network into the model store.

    Raises:
        TrainingError: it has values that are not finite; nothing is written.
        WeightsError: it cannot be written.
    """
    channels = CHANNELS[recipe.backbones[key].arch]
    projections = {
        branch: network.projection(branch, [channels[tap.layer] * tap.grid**2 for tap in taps])
        for branch, taps in branches_of(recipe, key).items()
    }
    weights = network.backbone_state()
    for part, tensors in (("network", weights), *projections.items()):
        _refuse_not_finite(part, tensors)
    files = {branch: models.save(tensors) for branch, tensors in projections.items()}
    return TrainedBackbone(models.save(weights), files)


def _refuse_not_finite(part: str, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise TrainingError(
                f"the trained {part} has values that are not finite (in {name}) and is not kept: train again with a "
                "lower learning_rate, or with precision float32"
            )


def tuned_recipe(
    base: Recipe,
    trained: Mapping[str, TrainedBackbone],
    config: TrainingConfig,
    digest: str,
    run: str,
    fold: int | None = None,
) -> Recipe:
    """The recipe of trained networks.

    Args:
        base: what they were trained from; a backbone that was not trained stays as it is there.
        trained: backbone -> its files.
        digest: of the data that it was trained on.
        run: id of the training.
        fold: which fold was kept out.
    """
    backbones = dict(base.backbones)
    branches = dict(base.branches)
    for key, files in trained.items():
        arch = base.backbones[key].arch
        backbones[key] = Backbone(
            arch=arch,
            weights=WeightsRef(name=f"{tuned_name(base.name, fold)}-{arch}", sha256=files.weights, source="store"),
            preprocess=layout(base.backbones[key], config),
            last_stride=last_stride(base, key, config),
        )
        for branch, taps in branches_of(base, key).items():
            projection = Projection(
                kind="trained",
                sha256=files.projections[branch],
                outputs=(DIMENSION,) * len(taps),
                combine="sum",
                seed=str(config.seed),
                calibration=digest,
            )
            branches[branch] = Branch(backbone=key, taps=taps, projection=projection)
    return Recipe(
        name=tuned_name(base.name, fold), crop=base.crop, backbones=backbones, branches=branches, training_run=run
    )
