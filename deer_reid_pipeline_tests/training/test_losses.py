"""Losses count pairs of different encounters, and are pytorch-metric-learning's."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.losses import BranchLoss
from deer_reid_pipeline.training.network import Embedded


def embedded(rows: int = 8, seed: int = 0) -> Embedded:
    values = torch.randn(rows, 512, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    return Embedded(values, values)


LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
APART = torch.arange(8)
TOGETHER = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("loss", ["supcon", "triplet"])
def test_pictures_of_one_encounter_are_no_true_pair(loss: str) -> None:
    made = BranchLoss(TrainingConfig(loss=loss), classes=4)
    assert float(made(embedded(), LABELS, APART)) > 0
    assert float(made(embedded(), LABELS, TOGETHER)) == 0


def test_supcon_is_that_of_khosla_et_al() -> None:
    given = embedded()
    temperature = 0.1
    z = normalize(given.after, dim=1)
    scores = z @ z.T / temperature
    scores.fill_diagonal_(-torch.inf)
    log_share = scores - torch.logsumexp(scores, dim=1, keepdim=True)
    mate = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    expected = -log_share[torch.arange(8), mate].mean()
    made = BranchLoss(TrainingConfig(loss="supcon", temperature=temperature), classes=4)
    assert float(made(given, LABELS, APART)) == pytest.approx(float(expected), rel=1e-4)


def test_triplets_are_the_hardest_of_the_batch() -> None:
    given = embedded(seed=3)
    cosine = normalize(given.before, dim=1) @ normalize(given.before, dim=1).T
    margin, found = 0.2, []
    for row in range(8):
        mate = next(other for other in range(8) if other != row and LABELS[other] == LABELS[row])
        hardest = max(float(cosine[row, other]) for other in range(8) if LABELS[other] != LABELS[row])
        found.append(max(0.0, hardest - float(cosine[row, mate]) + margin))
    expected = sum(found) / sum(value > 0 for value in found)
    made = BranchLoss(TrainingConfig(loss="triplet", triplet_margin=margin), classes=4)
    assert float(made(given, LABELS, APART)) == pytest.approx(expected, rel=1e-4)


def test_both_together_are_the_weighted_sum() -> None:
    config = TrainingConfig(loss="supcon_arcface", arcface_weight=0.3)
    made = BranchLoss(config, classes=4)
    given = embedded()
    alone = BranchLoss(TrainingConfig(loss="supcon"), classes=4)
    assert made.arcface is not None
    expected = alone(given, LABELS, APART) + 0.3 * made.arcface(given.after, LABELS)
    assert float(made(given, LABELS, APART)) == pytest.approx(float(expected), rel=1e-5)


def test_the_loss_moves_animals_apart() -> None:
    torch.manual_seed(0)
    for loss in ("triplet", "arcface", "supcon", "supcon_arcface"):
        made = BranchLoss(TrainingConfig(loss=loss), classes=4)
        values = torch.randn(8, 512, requires_grad=True)
        optimiser = torch.optim.Adam([values, *made.parameters()], lr=0.05)
        before = float(made(Embedded(values, values), LABELS, APART))
        for _ in range(60):
            optimiser.zero_grad()
            made(Embedded(values, values), LABELS, APART).backward()
            optimiser.step()
        assert float(made(Embedded(values, values), LABELS, APART)) < before / 2, loss
