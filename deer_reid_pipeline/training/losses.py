"""Losses and miners of pytorch-metric-learning, put together so that one encounter never gives a true pair, and one
animal no false pair where nobody said which flank a picture shows.

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
from deer_reid_pipeline.training.sampler import Classes
from deer_reid_pipeline.vision.recipe import DIMENSION

Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Pairs of a batch as pytorch-metric-learning has them: anchors and positives, anchors and negatives."""


class BranchLoss(nn.Module):
    """The loss of one branch; arcface's class centres are its parameters.

    Args:
        classes: those of the training.
    """

    def __init__(self, config: TrainingConfig, classes: Classes) -> None:
        super().__init__()
        wanted = config.loss.split("_")
        self._undecided = _Undecided(classes)
        self._weight = config.arcface_weight if len(wanted) > 1 else 1.0
        self.arcface = (
            SubCenterArcFaceLoss(
                num_classes=len(classes),
                embedding_size=DIMENSION,
                margin=config.margin,
                scale=config.scale,
                sub_centers=config.sub_centres,
            )
            if "arcface" in wanted
            else None
        )
        if self.arcface is not None:
            self.arcface.cross_entropy = _AmongDecided(self._undecided)
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
        pairs = self._pairs(labels, encounters)
        if self._supcon is not None:
            total = total + self._supcon(embedded.after, labels, pairs)
        if self._triplet is not None:
            triplets = self._hardest(embedded.before, pairs)
            if len(triplets[0]):
                total = total + self._triplet(embedded.before, labels, triplets)
        if self.arcface is not None:
            total = total + self._weight * self.arcface(embedded.after, labels)
        return total

    def _pairs(self, labels: torch.Tensor, encounters: torch.Tensor) -> Pairs:
        """All pairs of a batch but true ones of one encounter, and false ones of classes that may be one."""
        anchors, positives, others, negatives = get_all_pairs_indices(labels)
        true = encounters[anchors] != encounters[positives]
        false = ~self._undecided(labels)[others, labels[negatives]]
        return anchors[true], positives[true], others[false], negatives[false]

    @torch.no_grad()
    def _hardest(self, vectors: torch.Tensor, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Batch-hard mining among these pairs: anchors, their least similar positive, their most similar negative."""
        similarity = self._miner.distance(vectors)
        (_, positives), with_positive = self._miner.get_positives(similarity, *pairs[:2])
        (_, negatives), with_negative = self._miner.get_negatives(similarity, *pairs[2:])
        (anchors,) = torch.where(with_positive & with_negative)
        return anchors, positives[anchors], negatives[anchors]


class _Undecided(nn.Module):
    """Which classes may be one: those of one animal of which one has pictures that do not say what flank they show."""

    _animal: torch.Tensor
    _flank_unknown: torch.Tensor

    def __init__(self, classes: Classes) -> None:
        super().__init__()
        # Not persistent: they follow from the data, and a checkpoint holds what was learned.
        self.register_buffer("_animal", torch.from_numpy(classes.animal), persistent=False)
        self.register_buffer("_flank_unknown", torch.from_numpy(classes.flank_unknown), persistent=False)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Whether each other class may be the same as that of a picture; int64 [n] to bool [n, classes]."""
        one_animal = self._animal[labels][:, None] == self._animal
        unknown = self._flank_unknown[labels][:, None] | self._flank_unknown
        other = labels[:, None] != torch.arange(len(self._animal), device=labels.device)
        return one_animal & unknown & other


class _AmongDecided(nn.Module):
    """Cross entropy of each picture in which no class competes that may be the same as its own."""

    def __init__(self, undecided: _Undecided) -> None:
        super().__init__()
        self._undecided = undecided

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """float [n, classes] and int64 [n] to float [n]."""
        competing = logits.masked_fill(self._undecided(labels), -torch.inf)
        return nn.functional.cross_entropy(competing, labels, reduction="none")
