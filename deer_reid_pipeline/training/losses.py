"""Losses and miners of pytorch-metric-learning, put together so that one encounter never gives a true pair.

Triplet loss with batch-hard mining: Hermans et al. 2017. Supervised contrastive: Khosla et al. 2020. Sub-centre
ArcFace: Deng et al. 2020.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import SubCenterArcFaceLoss, SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from torch import nn

from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.network import Embedded
from deer_reid_pipeline.vision.recipe import DIMENSION


class BranchLoss(nn.Module):
    """The loss of one branch; arcface's class centres are its parameters.

    Args:
        classes: how many classes there are, mirrored ones included.
    """

    def __init__(self, config: TrainingConfig, classes: int) -> None:
        super().__init__()
        wanted = config.loss.split("_")
        self._weight = config.arcface_weight if len(wanted) > 1 else 1.0
        self.arcface = (
            SubCenterArcFaceLoss(
                num_classes=classes,
                embedding_size=DIMENSION,
                margin=config.margin,
                scale=config.scale,
                sub_centers=config.sub_centres,
            )
            if "arcface" in wanted
            else None
        )
        self._supcon = SupConLoss(temperature=config.temperature) if "supcon" in wanted else None
        cosine = CosineSimilarity()
        self._triplet = (
            TripletMarginLoss(margin=config.triplet_margin, distance=cosine) if "triplet" in wanted else None
        )
        self._miner = BatchHardMiner(distance=cosine)

    def forward(self, embedded: Embedded, labels: torch.Tensor, encounters: torch.Tensor) -> torch.Tensor:
        """The loss of a batch.

        Args:
            labels: class of each picture; int64 [n].
            encounters: pictures with equal numbers are no true pair of each other; int64 [n].
        """
        total = embedded.after.sum() * 0.0
        if self._supcon is not None:
            total = total + self._supcon(embedded.after, labels, _apart(labels, encounters))
        if self._triplet is not None:
            anchors, positives, negatives = self._miner(embedded.before, labels)
            kept = encounters[anchors] != encounters[positives]
            if bool(kept.any()):
                triplets = (anchors[kept], positives[kept], negatives[kept])
                total = total + self._triplet(embedded.before, labels, triplets)
        if self.arcface is not None:
            total = total + self._weight * self.arcface(embedded.after, labels)
        return total


def _apart(labels: torch.Tensor, encounters: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """All pairs of a batch as pytorch-metric-learning has them, without true pairs of one encounter."""
    anchors, positives, other_anchors, negatives = get_all_pairs_indices(labels)
    kept = encounters[anchors] != encounters[positives]
    return anchors[kept], positives[kept], other_anchors, negatives
