"""Losses count pairs of different encounters, and no false ones where a flank is unknown; they are
pytorch-metric-learning's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import SubCenterArcFaceLoss, SupConLoss
from torch.nn.functional import normalize

from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.losses import BranchLoss
from deer_reid_pipeline.training.network import Embedded
from deer_reid_pipeline.training.sampler import Classes


def embedded(rows: int = 8, seed: int = 0) -> Embedded:
    values = torch.randn(rows, 512, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    return Embedded(values, values)


LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
APART = torch.arange(8)
TOGETHER = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
KNOWN = Classes(np.arange(4), np.zeros(4, dtype=np.bool_))
"""Four animals, each from one flank."""
UNKNOWN = Classes(np.array([0, 0, 1, 2]), np.array([False, True, False, False]))
"""One animal in the classes 0 and 1; nobody said which flank the pictures of class 1 show."""
BOTH = Classes(np.array([0, 0, 1, 2]), np.zeros(4, dtype=np.bool_))
"""The same animal from both flanks."""


@pytest.mark.parametrize("loss", ["supcon", "triplet"])
def test_pictures_of_one_encounter_are_no_true_pair(loss: str) -> None:
    made = BranchLoss(TrainingConfig(loss=loss), classes=KNOWN)
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
    made = BranchLoss(TrainingConfig(loss="supcon", temperature=temperature), classes=KNOWN)
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
    made = BranchLoss(TrainingConfig(loss="triplet", triplet_margin=margin), classes=KNOWN)
    assert float(made(given, LABELS, APART)) == pytest.approx(expected, rel=1e-4)


def test_both_together_are_the_weighted_sum() -> None:
    config = TrainingConfig(loss="supcon_arcface", arcface_weight=0.3)
    made = BranchLoss(config, classes=KNOWN)
    given = embedded()
    alone = BranchLoss(TrainingConfig(loss="supcon"), classes=KNOWN)
    assert made.arcface is not None
    expected = alone(given, LABELS, APART) + 0.3 * made.arcface(given.after, LABELS)
    assert float(made(given, LABELS, APART)) == pytest.approx(float(expected), rel=1e-5)


def test_the_loss_moves_animals_apart() -> None:
    torch.manual_seed(0)
    for loss in ("triplet", "arcface", "supcon", "supcon_arcface"):
        made = BranchLoss(TrainingConfig(loss=loss), classes=KNOWN)
        values = torch.randn(8, 512, requires_grad=True)
        optimiser = torch.optim.Adam([values, *made.parameters()], lr=0.05)
        before = float(made(Embedded(values, values), LABELS, APART))
        for _ in range(60):
            optimiser.zero_grad()
            made(Embedded(values, values), LABELS, APART).backward()
            optimiser.step()
        assert float(made(Embedded(values, values), LABELS, APART)) < before / 2, loss


def test_where_every_flank_is_known_the_default_is_the_librarys_to_the_bit() -> None:
    config = TrainingConfig()
    torch.manual_seed(0)
    made = BranchLoss(config, classes=BOTH)
    assert made.arcface is not None
    assert set(made.state_dict()) == {"arcface.W"}, "a checkpoint holds nothing else"
    theirs = SubCenterArcFaceLoss(
        num_classes=4, embedding_size=512, margin=config.margin, scale=config.scale, sub_centers=config.sub_centres
    )
    theirs.load_state_dict({"W": made.arcface.W.detach().clone()})
    own, other = embedded(), embedded()
    loss = made(own, LABELS, APART)
    supcon = SupConLoss(temperature=config.temperature)(other.after, LABELS)
    expected = other.after.sum() * 0.0 + supcon + config.arcface_weight * theirs(other.after, LABELS)
    assert torch.equal(loss, expected)
    for each in (loss, expected):
        each.backward()
    for found, wanted in ((own.after.grad, other.after.grad), (made.arcface.W.grad, theirs.W.grad)):
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted)


def test_supcon_leaves_an_unknown_flank_out_of_what_an_animal_is_told_from() -> None:
    given, temperature = embedded(), 0.1
    z = normalize(given.after, dim=1)
    scores = z @ z.T / temperature
    scores.fill_diagonal_(-torch.inf)
    scores[:2, 2:4] = scores[2:4, :2] = -torch.inf
    mate = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    expected = -(scores - torch.logsumexp(scores, dim=1, keepdim=True))[torch.arange(8), mate].mean()
    made = BranchLoss(TrainingConfig(loss="supcon", temperature=temperature), classes=UNKNOWN)
    assert float(made(given, LABELS, APART)) == pytest.approx(float(expected), rel=1e-4)


def test_the_hardest_of_a_triplet_is_of_another_animal_where_a_flank_is_unknown() -> None:
    values = torch.randn(8, 512, generator=torch.Generator().manual_seed(5))
    values[2:4] = values[:2] + 0.1 * values[2:4]  # most alike, and one animal
    made = {
        name: BranchLoss(TrainingConfig(loss="triplet"), classes=classes)
        for name, classes in (("unknown", UNKNOWN), ("both", BOTH))
    }
    chosen = {}
    for name, loss in made.items():
        anchors, _, negatives = loss._hardest(values, loss._pairs(LABELS, APART))
        assert anchors.tolist() == list(range(8)), "an animal with an unknown flank is still learned"
        chosen[name] = LABELS[negatives][:4].tolist()
    assert chosen["both"] == [1, 1, 0, 0]
    assert set(chosen["unknown"]) <= {2, 3}


def test_a_class_of_unknown_flank_does_not_compete_with_its_own_animal_in_arcface() -> None:
    centres = {}
    for name, classes in (("unknown", UNKNOWN), ("both", BOTH)):
        torch.manual_seed(0)
        made = BranchLoss(TrainingConfig(loss="arcface"), classes=classes)
        labels = torch.tensor([0, 0, 2, 2])
        made(embedded(4), labels, torch.arange(4)).backward()
        assert made.arcface is not None
        moved = made.arcface.W.grad.view(512, 4, -1).abs().sum(dim=(0, 2))
        made.zero_grad()
        made(embedded(2), labels[:2], torch.arange(2)).backward()
        centres[name] = moved, made.arcface.W.grad.view(512, 4, -1).abs().sum(dim=(0, 2))
    for whole, own in centres.values():
        assert bool((whole > 0).all()), "every class is told from other animals"
        assert bool((own[[0, 2, 3]] > 0).all())
    assert float(centres["both"][1][1]) > 0
    assert float(centres["unknown"][1][1]) == 0


def test_a_mirrored_picture_of_an_unknown_flank_is_still_told_from_the_pictures_as_they_are() -> None:
    flanks = Classes(np.array([0, 0, 1, 1]), np.array([False, True, False, True]))  # as they are, then mirrored
    made = BranchLoss(TrainingConfig(), classes=flanks)
    told_apart = ~made._undecided(torch.arange(4))
    expected = torch.ones(4, 4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = expected[2, 3] = expected[3, 2] = False
    assert torch.equal(told_apart, expected)
