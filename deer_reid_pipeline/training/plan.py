"""What a training run consists of: one job for each model and backbone, written down before anything starts.

The plan is a file in the run's folder. A worker reads it and needs nothing else, and a run that was killed goes on by
it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.dataset import Picture, Split, TrainingSet, folds_of, one_split, refuse_too_little
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.vision.model_files import write_whole
from deer_reid_pipeline.vision.recipe import Recipe

PLAN = "plan.json"
CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
"""Files of a job's folder that a run which is not finished goes on by."""


@dataclass(frozen=True)
class Job:
    """One network to be trained.

    Attributes:
        backbone: key in the recipe.
        split: whom it is trained on; None: on all.
    """

    backbone: str
    split: Split | None

    @property
    def name(self) -> str:
        """Of its folder."""
        if self.split is None or self.split.fold is None:
            return f"all-{self.backbone}"
        return f"fold{self.split.fold}-{self.backbone}"

    @property
    def fold(self) -> int | None:
        """The fold that it is judged on, if any."""
        return None if self.split is None else self.split.fold


@dataclass(frozen=True)
class Plan:
    """A training run.

    Attributes:
        starts: what the training starts from, by fold; None for the model on all.
        search_dirs, models_dir: where weights are, and where they go.
        device: cpu, cuda:N or mps.
        vram_mb: MiB of a card that each training may use; None: 75 % of it.
    """

    config: TrainingConfig
    data: TrainingSet
    starts: Mapping[int | None, Recipe]
    search_dirs: tuple[str, ...]
    models_dir: str
    device: str
    vram_mb: int | None = None

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """One a fold, or the one split where no folds are wanted."""
        return tuple(splits_of(self.config, self.data))

    @property
    def keys(self) -> tuple[str, ...]:
        """Backbones to be trained, the one of the multiscale branch first."""
        second = self.config.second if self.config.second is not None else not self.device.startswith("cpu")
        wanted = ("multiscale", "efficientnet") if second else ("multiscale",)
        return tuple(dict.fromkeys(self.base.branches[branch].backbone for branch in wanted))

    @property
    def base(self) -> Recipe:
        """What the model on all starts from."""
        return self.starts[None]

    @property
    def id(self) -> str:
        """12 hex digits over everything but the machine that decides the weights.

        How many trainings run side by side (`workers`) decides nothing, nor does the memory of a card (`vram_mb`), but
        for the last digits of sums that are made in portions.
        """
        said = {
            "config": self.config.model_dump(mode="json", exclude={"workers"}),
            "data": self.data.digest,
            "starts": {str(fold): recipe.id for fold, recipe in self.starts.items()},
            "device": self.device.split(":")[0],
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def jobs(self) -> list[Job]:
        """In the order in which they are started: the folds first, since they decide how long the last is trained."""
        if len(self.splits) == 1:
            return [Job(key, self.splits[0]) for key in self.keys]
        folds = [Job(key, split) for key in self.keys for split in self.splits]
        return folds + [Job(key, None) for key in self.keys]

    def job(self, name: str) -> Job:
        """The job of this name."""
        return next(job for job in self.jobs() if job.name == name)

    def write(self, folder: Path) -> None:
        """Write the plan into the run's folder."""
        said = {
            "config": self.config.model_dump(mode="json"),
            "pictures": [[p.key, p.individual, p.flank, p.encounter] for p in self.data.pictures],
            "starts": [[fold, recipe.to_json()] for fold, recipe in self.starts.items()],
            "search_dirs": list(self.search_dirs),
            "models_dir": self.models_dir,
            "device": self.device,
            "vram_mb": self.vram_mb,
        }
        write_whole(folder / PLAN, json.dumps(said).encode("ascii"))


def refuse_pointless(plan: Plan) -> None:
    """Make sure that a plan can lead to a recipe that holds for other animals and can be released.

    Raises:
        TrainingError: there is too little to train on, or the start has random weights.
    """
    refuse_too_little(plan.data, plan.splits)
    if plan.base.random_weights:
        raise TrainingError(
            f"recipe {plan.base.name} has random weights here: what is trained from them can be tried out, never "
            "released. Get its weights (deer-reid doctor says how), or choose --from lite or --from mobile"
        )


def splits_of(config: TrainingConfig, data: TrainingSet) -> list[Split]:
    """One split a fold, or the one split where no folds are wanted."""
    return folds_of(data.individuals, config.folds) if config.folds > 1 else [one_split(data.individuals)]


def read_plan(folder: Path) -> Plan:
    """The plan in a run's folder.

    Raises:
        TrainingError: there is none, or it is damaged.
    """
    try:
        said: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="ascii"))
        return Plan(
            config=TrainingConfig.model_validate(said["config"]),
            data=TrainingSet(tuple(Picture(*row) for row in said["pictures"])),
            starts={fold: Recipe.from_json(spec) for fold, spec in said["starts"]},
            search_dirs=tuple(said["search_dirs"]),
            models_dir=said["models_dir"],
            device=said["device"],
            vram_mb=said.get("vram_mb"),  # plans of earlier versions have none
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / PLAN} cannot be used: {error}; delete {folder} and train again") from error
