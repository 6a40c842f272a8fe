"""One backbone with its heads, trained on the pictures of some individuals and watched on others.

One seed on one device gives the same weights, also when it was killed and went on: a checkpoint is written after each
epoch, and nothing else decides what comes next. What torch cannot repeat on the device, the epoch says.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.training.augment import Augmentation
from deer_reid_pipeline.training.checkpoint import (
    Progressed,
    of_prefix,
    optimiser_tensors,
    read_tensors,
    restore_optimiser,
    with_prefix,
    write_tensors,
)
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.crop_cache import CropCache
from deer_reid_pipeline.training.dataset import Picture
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.losses import BranchLoss
from deer_reid_pipeline.training.network import Embedded, EmbeddingNetwork
from deer_reid_pipeline.training.plan import BEST, CHECKPOINT
from deer_reid_pipeline.training.precision import in_type, training_type
from deer_reid_pipeline.training.repeatable import unrepeatable
from deer_reid_pipeline.training.sampler import EncounterSampler, Item
from deer_reid_pipeline.training.schedule import optimiser as make_optimiser
from deer_reid_pipeline.training.schedule import set_rates
from deer_reid_pipeline.training.scoring import STOPS_BY, labelled_of, ranking
from deer_reid_pipeline.vision.engine.batches import BatchLimit
from deer_reid_pipeline.vision.features import lay_out, mean_direction, normalise
from deer_reid_pipeline.vision.recipe import Preprocess

LARGEST_STEP = 5.0
"""Norm that gradients are clipped to."""

FEWEST_PICTURES = 512
"""Pictures of an epoch where there are fewer to train on."""

_EMBED_BATCH = 32


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number, of: counted from 1, and how many there are at most.
        loss: mean over its batches.
        figures: rank1, rank5, map, map_individual on the validation individuals; empty without any.
        best: whether it is the best so far.
        seconds: of training so far.
        seconds_left: at this speed.
        pictures_per_second: of this epoch.
        rate: learning rate at its end.
        unrepeatable: what torch has said so far of operations that are not deterministic on this device, a sentence
            each; with one, the same seed need not give the same weights.
    """

    number: int
    of: int
    loss: float
    figures: Mapping[str, float]
    best: bool
    seconds: float
    seconds_left: float
    pictures_per_second: float
    rate: float
    unrepeatable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """The result: weights of the best epoch, as a moving average over steps.

    Attributes:
        network: in evaluation mode on the CPU.
        epoch: which epoch they are of.
    """

    network: EmbeddingNetwork
    epoch: int
    epochs: int
    seconds: float


class Trainer:
    """Trains one network.

    Args:
        network: with the weights to start from.
        spec: how crops are laid out, as the recipe will do it.
        branch: the branch that is validated.
        pictures: to train on; validation: to decide which epoch is kept, none to keep the last one.
        epochs: how many at most.
        stop_after: train only so many of them, at the rates of all; None: all.
        folder: for checkpoints.
        device: to train on.
        loaders: threads that make pictures ready.
    """

    def __init__(
        self,
        network: EmbeddingNetwork,
        spec: Preprocess,
        config: TrainingConfig,
        crops: CropCache,
        pictures: Sequence[Picture],
        validation: Sequence[Picture],
        *,
        branch: str,
        folder: Path,
        device: torch.device,
        stop_after: int | None = None,
        loaders: int = 1,
        micro_batch: int | None = None,
    ) -> None:
        self._config, self._spec, self._crops, self._folder = config, spec, crops, folder
        self._pictures, self._validation, self._branch = list(pictures), list(validation), branch
        self._device, self._loaders = device, loaders
        self._last = min(config.epochs, stop_after or config.epochs)
        self._sampler = EncounterSampler(
            self._pictures, config.classes_per_batch, config.pictures_per_class, config.mirrored, config.seed
        )
        shown = min(max(len(self._pictures), FEWEST_PICTURES), config.epoch_pictures)
        self._batches = max(1, round(shown / config.batch))
        met = {name: code for code, name in enumerate(sorted({p.encounter for p in self._pictures}))}
        self._encounters = np.array([met[p.encounter] for p in self._pictures], dtype=np.int64)
        self._augment = Augmentation(spec, config.augment)
        torch.manual_seed(config.seed)
        self._network = network.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload]
        self._losses = {name: BranchLoss(config, self._sampler.classes).to(device) for name in network.taps}
        self._average = copy.deepcopy(self._network).requires_grad_(False)
        self._optimiser = make_optimiser(self._network, self._losses, config)
        self._type = training_type(device, config.precision)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._type == torch.float16)
        self._done = Progressed(micro_batch=micro_batch or config.batch)
        self._unrepeatable: list[str] = []

    def run(self, tell: Callable[[Epoch], None] | None = None) -> Trained:
        """Train to the end, from where the last checkpoint is.

        Args:
            tell: is told each epoch.

        Raises:
            TrainingError: the loss or its gradient is not finite, or the disk is full.
            torch.cuda.OutOfMemoryError: the memory of the GPU, or what may be used of it, does not hold two pictures.
        """
        self._resume()
        with unrepeatable() as self._unrepeatable, ThreadPoolExecutor(self._loaders) as pool:
            while self._done.epoch < self._last and not self._stale():
                epoch = self._train_epoch(self._done.epoch + 1, pool)
                if tell is not None:  # before it is kept, so that no kill loses it from the log
                    tell(epoch)
                self._keep(epoch.best)
        return self._result()

    def embed(self, pictures: Sequence[Picture]) -> dict[str, FloatArray]:
        """Vectors of these pictures by the moving average, of the first view alone; branch -> float32 [n, 512]."""
        spec = self._spec.each_view()[0]
        return embed(self._average, spec, [self._crops[p.key] for p in pictures], self._device, self._type)

    def _stale(self) -> bool:
        waited = self._done.epoch - self._done.best_epoch
        return bool(self._validation) and self._done.best_epoch > 0 and waited >= self._config.patience

    def _train_epoch(self, number: int, pool: ThreadPoolExecutor) -> Epoch:
        started = time.perf_counter()
        self._network.train()
        losses = []
        # One batch is made ready while the one before it is trained on.
        upcoming: Future[list[torch.Tensor]] | None = None
        batches = list(self._sampler.epoch(number, self._batches))
        with ThreadPoolExecutor(1) as ahead:
            for index, items in enumerate(batches):
                ready = upcoming.result() if upcoming else self._make_ready(items, number, index, pool)
                if index + 1 < len(batches):
                    upcoming = ahead.submit(self._make_ready, batches[index + 1], number, index + 1, pool)
                step = (number - 1) * self._batches + index + 1
                losses.append(self._train_batch(items, ready, step))
        seconds = time.perf_counter() - started
        figures = self._figures()
        value = figures.get(STOPS_BY, math.nan)
        better = not self._validation or value > self._done.best or (math.isnan(value) and self._done.best_epoch == 0)
        self._done = replace(
            self._done,
            epoch=number,
            best=value if better and not math.isnan(value) else self._done.best,
            best_epoch=number if better else self._done.best_epoch,
            seconds=self._done.seconds + time.perf_counter() - started,
        )
        return Epoch(
            number=number,
            of=self._last,
            loss=float(np.mean(losses)),
            figures=figures,
            best=better,
            seconds=self._done.seconds,
            seconds_left=self._done.seconds / number * (self._last - number),
            pictures_per_second=self._batches * self._config.batch / seconds,
            rate=float(self._optimiser.param_groups[-1]["lr"]),
            unrepeatable=tuple(self._unrepeatable),
        )

    def _make_ready(self, items: list[Item], epoch: int, batch: int, pool: ThreadPoolExecutor) -> list[torch.Tensor]:
        def one(place: int) -> torch.Tensor:
            rng = np.random.default_rng((self._config.seed, epoch, batch, place))
            other = self._pictures[int(rng.integers(len(self._pictures)))]
            item = items[place]
            crop = self._crops[self._pictures[item.index].key]
            return self._augment(crop, rng, item.mirrored, self._crops[other.key])

        return list(pool.map(one, range(len(items))))

    def _train_batch(self, items: list[Item], ready: list[torch.Tensor], step: int) -> float:
        set_rates(self._optimiser, step, self._config.epochs * self._batches, self._config.warmup)
        pictures = self._normalised(torch.stack(ready))
        labels = torch.tensor([item.label for item in items], device=self._device)
        encounters = torch.from_numpy(self._encounters[[item.index for item in items]]).to(self._device)
        while True:
            try:
                loss = self._backward(pictures, labels, encounters)
                break
            except torch.cuda.OutOfMemoryError:
                half = self._done.micro_batch // 2
                if half < 2:
                    raise
                self._optimiser.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                self._done = replace(self._done, micro_batch=half)
        self._refuse_astray("loss", loss, step)
        self._scaler.unscale_(self._optimiser)
        trained = [p for group in self._optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, LARGEST_STEP)
        if not self._scaler.is_enabled():  # with float16 the scaler skips such a step and goes on
            self._refuse_astray("gradient", float(norm), step)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        self._follow(step)
        return loss

    def _refuse_astray(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} is {value} in step {step} (epoch {(step - 1) // self._batches + 1}): the training went "
                f"astray. The best weights before it are kept; try a lower learning_rate than "
                f"{self._config.learning_rate:g}, or precision float32"
            )

    def _backward(self, pictures: torch.Tensor, labels: torch.Tensor, encounters: torch.Tensor) -> float:
        """Gradients of a batch; in portions where memory asks for it, with the loss of the whole batch.

        In portions, pooled features are made without gradients first, the gradient of the loss in them is taken over
        the whole batch, and each portion is run again with it (Gao et al. 2021, Scaling deep contrastive learning batch
        size). With the backbone's statistics kept, the gradients are those of the whole batch.
        """
        size = self._done.micro_batch
        if size >= len(pictures):
            with in_type(self._device, self._type):
                embedded = self._network(pictures)
            loss = self._loss(embedded, labels, encounters)
            self._scaler.scale(loss).backward()
            return float(loss.detach())
        portions = pictures.split(size)
        with torch.no_grad(), in_type(self._device, self._type):
            parts = [self._network.pooled(part) for part in portions]
        whole = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in self._losses}
        loss = self._loss(self._network.head(whole), labels, encounters)
        self._scaler.scale(loss).backward()
        start = 0
        for portion in portions:
            with in_type(self._device, self._type):
                again = self._network.pooled(portion)
            gradients = [_gradient(whole[name])[start : start + len(portion)] for name in again]
            torch.autograd.backward(list(again.values()), gradients)
            start += len(portion)
        return float(loss.detach())

    def _loss(self, embedded: Mapping[str, Embedded], labels: torch.Tensor, encounters: torch.Tensor) -> torch.Tensor:
        return torch.stack([loss(embedded[name], labels, encounters) for name, loss in self._losses.items()]).sum()

    def _normalised(self, pictures: torch.Tensor) -> torch.Tensor:
        x = pictures.to(self._device)
        mean = torch.tensor(self._spec.mean, device=self._device).view(1, 3, 1, 1)
        std = torch.tensor(self._spec.std, device=self._device).view(1, 3, 1, 1)
        return x.div_(255.0).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the average towards the weights; faster at first, so that it does not remember where it started."""
        share = 1 - min(self._config.ema, (1 + step) / (10 + step))
        own = self._network.state_dict()
        for name, value in self._average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(own[name], share)
            else:
                value.copy_(own[name])

    def _figures(self) -> dict[str, float]:
        if not self._validation:
            return {}
        vectors = self.embed(self._validation)
        return ranking(labelled_of(self._validation, vectors, "training"), self._branch)

    def _keep(self, better: bool) -> None:
        if better:
            write_tensors(self._folder / BEST, self._average.state_dict(), {"epoch": self._done.epoch})
        done = self._done
        note = {**done.__dict__, "best": None if math.isinf(done.best) else done.best}
        write_tensors(
            self._folder / CHECKPOINT,
            with_prefix("network", self._network.state_dict())
            | with_prefix("average", self._average.state_dict())
            | with_prefix("optimiser", optimiser_tensors(self._optimiser))
            | with_prefix("scaler", {k: torch.tensor(v) for k, v in self._scaler.state_dict().items()})
            | {f"loss/{name}/{key}": v for name, each in self._losses.items() for key, v in each.state_dict().items()},
            note,
        )

    def _resume(self) -> None:
        kept = read_tensors(self._folder / CHECKPOINT)
        if kept is None or read_tensors(self._folder / BEST) is None:
            return
        tensors, note = kept
        self._network.load_state_dict(of_prefix("network", tensors))
        self._average.load_state_dict(of_prefix("average", tensors))
        restore_optimiser(self._optimiser, of_prefix("optimiser", tensors))
        scaler = of_prefix("scaler", tensors)
        if scaler:
            self._scaler.load_state_dict({name: value.item() for name, value in scaler.items()})
        for name, loss in self._losses.items():
            loss.load_state_dict(of_prefix(f"loss/{name}", tensors))
        best = note["best"]
        self._done = Progressed(**{**note, "best": -math.inf if best is None else best})  # type: ignore[arg-type]

    def _result(self) -> Trained:
        kept = read_tensors(self._folder / BEST)
        if kept is None:
            raise TrainingError(
                f"{self._folder / BEST} is missing or damaged: run it again, and {self._folder.name} is begun anew"
            )
        tensors, note = kept
        self._average.load_state_dict(tensors)
        network: EmbeddingNetwork = self._average.to("cpu").eval()
        return Trained(network, int(note["epoch"]), self._done.epoch, self._done.seconds)  # type: ignore[call-overload]


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


@torch.no_grad()
def embed(
    network: EmbeddingNetwork,
    spec: Preprocess,
    crops: Sequence[np.ndarray],
    device: torch.device,
    kind: torch.dtype = torch.float32,
) -> dict[str, FloatArray]:
    """Unit vectors of crops (uint8 [h, w, 3]), laid out as the recipe does it; branch -> float32 [n, 512].

    Raises:
        torch.cuda.OutOfMemoryError: not even one crop fits.
    """
    network.eval()

    def part(start: int, end: int) -> dict[str, FloatArray]:
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in network.taps}
        for view in spec.each_view():
            x = normalise(lay_out(crops[start:end], view), view, device)
            with in_type(device, kind):
                found = network(x.contiguous(memory_format=torch.channels_last))
            for name, item in found.items():
                seen[name].append(nn.functional.normalize(item.after.float(), dim=1))
        return {name: mean_direction(each).cpu().numpy() for name, each in seen.items()}

    parts = BatchLimit(_EMBED_BATCH).run(len(crops), part)
    return {
        name: np.concatenate([each[name] for each in parts]) if parts else np.zeros((0, 512), np.float32)
        for name in network.taps
    }
