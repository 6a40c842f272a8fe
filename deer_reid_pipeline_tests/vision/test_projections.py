"""Projections: the same bits everywhere, lengths and angles kept, centre and scale folded in exactly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.features import pool
from deer_reid_pipeline.vision.model_files import ModelFiles
from deer_reid_pipeline.vision.projections import (
    Projector,
    centre_and_scale,
    linear_projection,
    sign_matrix,
    sign_projection,
)
from deer_reid_pipeline.vision.recipe import Branch, Projection, Tap

TAPS = (Tap(layer="head"), Tap(layer="stride8", grid=2))


def test_signs_are_the_bits_of_shake_256() -> None:
    signs = sign_matrix("a seed", 16, 24)
    stream = hashlib.shake_256(b"a seed").digest(48)
    for row in range(16):
        for column in range(24):
            index = row * 24 + column
            bit = stream[index // 8] >> (7 - index % 8) & 1
            assert signs[row, column] == 2 * bit - 1
    assert hashlib.sha256(signs.tobytes()).hexdigest().startswith("b1023cb346af9331"), (
        "stored recipes depend on these bits"
    )


def test_a_sign_projection_keeps_lengths_and_angles() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 1280))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    projected = vectors @ sign_matrix("x", 512, 1280).T / np.sqrt(512)
    error = projected @ projected.T - vectors @ vectors.T
    assert abs(error.mean()) < 0.01
    assert error.std() < 1.3 / np.sqrt(512) * np.sqrt(2), "Johnson-Lindenstrauss: about 1 / sqrt(512)"


def test_the_folded_map_is_centre_scale_signs(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    fitted = [(rng.gamma(2, 1, (40, size)) * scale).astype(np.float32) for size, scale in ((48, 1.0), (96, 30.0))]
    projection = sign_projection(ModelFiles(tmp_path), fitted, (256, 256), "seed", "digest")
    branch = Branch(backbone="main", taps=TAPS, projection=projection)
    projector = Projector(branch, [48, 96], ModelFiles(tmp_path).load(projection.sha256))
    fresh = [(rng.gamma(2, 1, (9, size)) * scale).astype(np.float32) for size, scale in ((48, 1.0), (96, 30.0))]
    found = projector(dict(zip(TAPS, map(torch.from_numpy, fresh), strict=True))).numpy()
    parts = []
    for index, (values, known) in enumerate(zip(fresh, fitted, strict=True)):
        centre, scale = centre_and_scale(known)
        signs = sign_matrix(f"seed/tap{index}", 256, values.shape[1]).astype(np.float64)
        parts.append((values.astype(np.float64) - centre) / scale @ signs.T / 16)
    expected = np.concatenate(parts, axis=1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    shares = [float((part**2).sum(1).mean()) for part in parts]
    assert 0.5 < shares[0] / shares[1] < 2, "a tap with large numbers does not outvote the other"


def test_rounding_the_centre_makes_ids_agree_between_machines() -> None:
    rng = np.random.default_rng(2)
    values = rng.gamma(2, 1, (64, 1280)).astype(np.float32)
    centre, scale = centre_and_scale(values)
    noisy = (values * (1 + rng.normal(0, 2e-7, values.shape))).astype(np.float32)
    again, scale_again = centre_and_scale(noisy)
    assert (centre == again).all()
    assert scale == scale_again
    left = centre - values.mean(axis=0)
    assert (left**2).sum() < 1e-3 * (values.mean(axis=0) ** 2).sum()
    for useless in (np.zeros((4, 8), np.float32), np.full((4, 8), np.nan, np.float32)):
        with pytest.raises(WeightsError, match="do not vary"):
            centre_and_scale(useless)


def test_the_owners_linears_are_torch_layers_from_a_seed(tmp_path: Path) -> None:
    models = ModelFiles(tmp_path)
    before = torch.random.get_rng_state()
    projection = linear_projection(models, [48, 96], [256, 256], seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(5)
    layers = [torch.nn.Linear(48, 256), torch.nn.Linear(96, 256)]
    pooled = {TAPS[0]: torch.rand(3, 48), TAPS[1]: torch.rand(3, 96)}
    branch = Branch(backbone="main", taps=TAPS, projection=projection)
    found = Projector(branch, [48, 96], models.load(projection.sha256))(pooled)
    with torch.inference_mode():
        joined = torch.cat([layer(pooled[tap]) for layer, tap in zip(layers, TAPS, strict=True)], dim=1)
    torch.testing.assert_close(found, torch.nn.functional.normalize(joined))
    assert linear_projection(models, [48, 96], [256, 256], seed=5) == projection
    assert linear_projection(models, [48, 96], [256, 256], seed=6).sha256 != projection.sha256


def test_a_batch_norm_neck_and_a_joint_map_are_expressible(tmp_path: Path) -> None:
    """Fine-tuned recipes: Linear over all taps together, then batch norm, folded into the affine file."""
    torch.manual_seed(0)
    linear, neck = torch.nn.Linear(144, 512), torch.nn.BatchNorm1d(512).eval()
    neck.running_mean.normal_()
    neck.running_var.uniform_(0.5, 2)
    neck.weight.data.uniform_(0.5, 2)
    gain = (neck.weight / (neck.running_var + neck.eps).sqrt()).detach()
    weight = (linear.weight * gain[:, None]).detach()
    bias = ((linear.bias - neck.running_mean) * gain + neck.bias).detach()
    models = ModelFiles(tmp_path)
    sha256 = models.save({"tap0.weight": weight[:, :48], "tap0.bias": bias, "tap1.weight": weight[:, 48:]})
    projection = Projection(kind="trained", sha256=sha256, outputs=(512, 512), combine="sum")
    projector = Projector(Branch(backbone="main", taps=TAPS, projection=projection), [48, 96], models.load(sha256))
    first, second = torch.rand(4, 48), torch.rand(4, 96)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(neck(linear(torch.cat([first, second], dim=1))))
        torch.testing.assert_close(projector({TAPS[0]: first, TAPS[1]: second}), expected, atol=1e-5, rtol=1e-4)


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    models = ModelFiles(tmp_path)
    for tensors, says in (
        ({"tap0.weight": torch.zeros(512, 7)}, "tap0"),
        ({}, "tap0"),
        ({"tap0.weight": torch.zeros(512, 48), "tap0.bias": torch.zeros(3)}, "tap0"),
        ({"tap0.weight": torch.zeros(512, 48), "extra": torch.zeros(1)}, "extra"),
    ):
        projection = Projection(kind="trained", sha256=models.save(tensors), outputs=(512,))
        branch = Branch(backbone="main", taps=TAPS[:1], projection=projection)
        with pytest.raises(WeightsError, match=says):
            Projector(branch, [48], tensors)


def test_pooling_against_numpy() -> None:
    values = np.random.default_rng(3).normal(0.5, 1, (2, 3, 8, 8)).astype(np.float32)
    features = torch.from_numpy(values)
    cells = values.reshape(2, 3, 2, 4, 2, 4)
    assert np.allclose(pool(features, Tap(layer="x", grid=2)), cells.mean((3, 5)).reshape(2, -1), atol=1e-6)
    assert np.allclose(pool(features, Tap(layer="x", pool="max")), values.max((2, 3)))
    gem = (np.clip(values, 1e-6, None).astype(np.float64) ** 2.5).mean((2, 3)) ** (1 / 2.5)
    assert np.allclose(pool(features, Tap(layer="x", pool="gem", p=2.5)), gem, rtol=1e-4)
