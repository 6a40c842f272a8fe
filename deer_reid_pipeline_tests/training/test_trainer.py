"""Training: the same weights for one seed, also after a stop; portions change nothing; trouble is said."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.training import checkpoint
from deer_reid_pipeline.training import trainer as module
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.crop_cache import CropCache
from deer_reid_pipeline.training.dataset import TrainingSet
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.plan import BEST, CHECKPOINT
from deer_reid_pipeline.training.scoring import labelled_of, ranking
from deer_reid_pipeline.training.trainer import Epoch, Trainer
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.training.conftest import TINY
from deer_reid_pipeline_tests.training.test_network import network_of


class Making:
    """Makes trainers of the small herd that differ in what a test is about."""

    def __init__(self, data: TrainingSet, crops: CropCache, base: Recipe, store: WeightStore) -> None:
        self.data, self.crops, self.base, self.store = data, crops, base, store

    def trainer(self, folder: Path, config: TrainingConfig = TINY, validated: bool = True, **more: object) -> Trainer:
        network = network_of(self.base, "main", self.store, config)
        names = self.data.individuals
        train = self.data.of(frozenset(names[:12]) if validated else frozenset(names))
        return Trainer(
            network,
            self.base.backbones["main"].preprocess.model_copy(
                update={"width": config.width, "height": config.height, "inner": config.inner}
            ),
            config,
            self.crops,
            train.pictures,
            self.data.of(frozenset(names[12:])).pictures if validated else [],
            branch="multiscale",
            folder=folder,
            device=torch.device("cpu"),
            **more,  # type: ignore[arg-type]
        )


@pytest.fixture
def making(herd: TrainingSet, crops: CropCache, base: Recipe, store: WeightStore) -> Making:
    return Making(herd, crops, base, store)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.run().network.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class StoppedError(Exception):
    """In the place of kill -9."""


def stop_after_first(epoch: Epoch) -> None:
    """When the second epoch is told, the first is kept and the second is not."""
    if epoch.number > 1:
        raise StoppedError


def stop_after_second(epoch: Epoch) -> None:
    """As `stop_after_first`, an epoch later."""
    if epoch.number > 2:
        raise StoppedError


def test_one_seed_gives_one_result_and_another_seed_another(making: Making, tmp_path: Path) -> None:
    first = weights(making.trainer(tmp_path / "a"))
    assert same(first, weights(making.trainer(tmp_path / "b")))
    assert not same(first, weights(making.trainer(tmp_path / "c", TINY.model_copy(update={"seed": 9}))))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stopped_training_goes_on_as_if_it_had_not(making: Making, tmp_path: Path, precision: str) -> None:
    config = TINY.model_copy(update={"precision": precision})
    whole = weights(making.trainer(tmp_path / "whole", config))
    seen: list[Epoch] = []

    def stop(epoch: Epoch) -> None:
        seen.append(epoch)
        stop_after_first(epoch)

    for _ in range(2):
        with pytest.raises(StoppedError):
            making.trainer(tmp_path / "stopped", config).run(stop)
    assert [epoch.number for epoch in seen] == [1, 2, 2], "an epoch that was told and not kept is told again"
    rest: list[Epoch] = []
    result = making.trainer(tmp_path / "stopped", config).run(rest.append)
    assert [epoch.number for epoch in rest] == [2, 3]
    assert same(whole, result.network.state_dict())


@pytest.mark.parametrize("name", [CHECKPOINT, BEST])
@pytest.mark.parametrize("how", ["cut off", "a byte of a weight", "a block of zeros"])
def test_a_damaged_checkpoint_is_begun_anew(making: Making, tmp_path: Path, name: str, how: str) -> None:
    whole = weights(making.trainer(tmp_path / "whole"))
    with pytest.raises(StoppedError):
        making.trainer(tmp_path / "torn").run(stop_after_second)
    kept = tmp_path / "torn" / name
    content = bytearray(kept.read_bytes())
    if how == "cut off":
        del content[len(content) // 2 :]
    elif how == "a byte of a weight":
        content[-len(content) // 3] ^= 0xFF
    else:
        content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    kept.write_bytes(content)
    told: list[int] = []
    making.trainer(tmp_path / "torn").run(lambda epoch: told.append(epoch.number))
    assert told[0] == 1
    assert same(whole, weights(making.trainer(tmp_path / "torn")))


def test_portions_give_the_gradients_of_the_whole_batch(making: Making, tmp_path: Path) -> None:
    def gradients(size: int | None) -> dict[str, torch.Tensor]:
        trainer = making.trainer(tmp_path / f"p{size}", micro_batch=size)
        trainer._network.train()
        items = next(iter(trainer._sampler.epoch(1, 1)))
        generator = torch.Generator().manual_seed(1)
        pictures = torch.rand((len(items), 3, 64, 64), generator=generator) * 255
        labels = torch.tensor([item.label for item in items])
        trainer._backward(trainer._normalised(pictures), labels, torch.arange(len(items)))
        return {n: p.grad.clone() for n, p in trainer._network.named_parameters() if p.grad is not None}

    whole, parts = gradients(None), gradients(5)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        scale = float(value.abs().max()) + 1e-12
        assert float((value - parts[name]).abs().max()) / scale < 1e-3, name


def test_without_validation_the_last_epoch_is_kept(making: Making, tmp_path: Path) -> None:
    seen: list[Epoch] = []
    result = making.trainer(tmp_path, validated=False, stop_after=2).run(seen.append)
    assert (result.epoch, result.epochs) == (2, 2)
    assert all(not epoch.figures for epoch in seen)


def test_it_stops_when_nothing_gets_better(making: Making, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"epochs": 12, "patience": 1, "learning_rate": 1e-9})
    result = making.trainer(tmp_path, config).run()
    assert result.epochs < 12
    assert result.epoch <= result.epochs


def test_a_loss_that_is_not_finite_stops_it_with_a_reason(making: Making, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"learning_rate": 1.0, "warmup": 0.0, "epochs": 30})
    trainer = making.trainer(tmp_path, config)
    with torch.no_grad():
        trainer._network.heads["multiscale"].linear.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss is nan in step 1 .* lower learning_rate than 1"):
        trainer.run()


def test_a_gradient_that_is_not_finite_in_the_last_step_leaves_no_model(making: Making, tmp_path: Path) -> None:
    trainer = making.trainer(tmp_path, validated=False, stop_after=1)
    backward, last = trainer._backward, trainer._batches
    losses: list[float] = []

    def spoilt(*given: torch.Tensor) -> float:
        losses.append(backward(*given))
        if len(losses) == last:
            trainer._network.heads["multiscale"].linear.weight.grad.fill_(float("nan"))
        return losses[-1]

    trainer._backward = spoilt  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=rf"the gradient is nan in step {last} .* lower learning_rate than"):
        trainer.run()
    assert all(map(math.isfinite, losses))
    assert not (tmp_path / BEST).exists()


def test_little_memory_makes_portions_of_training_and_validation(making: Making, tmp_path: Path) -> None:
    expected = weights(making.trainer(tmp_path / "portions", stop_after=1, micro_batch=3))
    tight = making.trainer(tmp_path / "tight", stop_after=1)
    held: list[int] = []
    for network in (tight._network, tight._average):

        def pooled(x: torch.Tensor, plain: Callable[..., object] = network.pooled) -> object:
            if len(x) > 5:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            held.append(len(x))
            return plain(x)

        network.pooled = pooled  # type: ignore[assignment]
    found = weights(tight)
    assert tight._done.micro_batch == 3
    assert set(held) == {3, 4}, "12 pictures are trained on in threes, 16 are validated in fours"
    assert same(expected, found)


def test_memory_that_holds_no_two_pictures_is_the_callers_error(making: Making, tmp_path: Path) -> None:
    trainer = making.trainer(tmp_path)

    def full(x: torch.Tensor) -> object:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainer._network.pooled = full  # type: ignore[assignment]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        trainer.run()


def test_what_torch_cannot_repeat_is_told_with_the_epoch(making: Making, tmp_path: Path) -> None:
    trainer = making.trainer(tmp_path, stop_after=1)
    backward, seen = trainer._backward, []

    def warned(*given: torch.Tensor) -> float:
        warnings.warn("x does not have a deterministic implementation. You can file an issue", stacklevel=1)
        return backward(*given)

    trainer._backward = warned  # type: ignore[method-assign]
    trainer.run(seen.append)
    assert [epoch.unrepeatable for epoch in seen] == [("x does not have a deterministic implementation",)]
    making.trainer(tmp_path / "other", stop_after=1).run(seen.append)
    assert seen[-1].unrepeatable == ()


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(
    making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        making.trainer(tmp_path).run(stop_after_first)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(path: Path, content: bytes) -> None:
        raise WeightsError(f"cannot write {path} ({len(content)} bytes): No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", full)
        with pytest.raises(TrainingError, match=r"No space left on device.*Run it again to go on"):
            making.trainer(tmp_path).run()
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert same(weights(making.trainer(tmp_path)), weights(making.trainer(tmp_path / "whole")))


def test_it_learns_to_tell_animals_apart(making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST_PICTURES", 180)
    config = TINY.model_copy(
        update={"epochs": 10, "frozen": 0.0, "frozen_statistics": False, "learning_rate": 2e-3, "augment": 0.3}
    )
    trainer = making.trainer(tmp_path, config)
    trained = making.data.of(frozenset(making.data.individuals[:12])).pictures

    def score() -> float:
        return ranking(labelled_of(trained, trainer.embed(trained), "x"), "multiscale")["map"]

    before = score()
    seen: list[Epoch] = []
    trainer.run(seen.append)
    assert seen[-1].loss < 0.8 * seen[0].loss
    assert score() > before + 0.2
