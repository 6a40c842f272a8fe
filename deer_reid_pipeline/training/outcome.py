"""The recipes that a finished run made, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deer_reid_pipeline.training.plan import Plan
from deer_reid_pipeline.training.shape import TrainedBackbone, tuned_recipe
from deer_reid_pipeline.training.worker import Result, read_log
from deer_reid_pipeline.vision.recipe import Recipe


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        recipe: trained on all individuals, or on the training part where there is one split.
        folds: fold -> the recipe that was trained without it; empty where there is one split.
        results: name of the job -> what it left.
        logs: name of the job -> its epochs, as `worker.read_log` gives them.
    """

    plan: Plan
    folder: Path
    recipe: Recipe
    folds: Mapping[int, Recipe]
    results: Mapping[str, Result]
    logs: Mapping[str, list[dict[str, Any]]]

    @property
    def seconds(self) -> float:
        """Of all trainings together, as if one after the other."""
        return sum(result.seconds for result in self.results.values())

    @property
    def epochs(self) -> int:
        """Of the model that is used, in its multiscale network."""
        return self.results[self.plan.jobs()[-len(self.plan.keys)].name].epochs

    def record(self) -> dict[str, Any]:
        """What the database keeps of it: who was trained on, and who judges whom."""
        folds = {
            name: split.fold
            for split in self.plan.splits
            for name in sorted(split.test if self.folds else split.train | split.validation)
        }
        return {
            "individuals": folds,
            "detections": {
                picture.key: folds[picture.individual]
                for picture in self.plan.data.pictures
                if picture.individual in folds
            },
            "folds": len(self.folds),
            "dataset_digest": self.plan.data.digest,
            "config": self.plan.config.model_dump(mode="json"),
            "base": self.plan.base.id,
            "counts": self.plan.data.counts(),
            "run": self.plan.id,
        }


def outcome_of(plan: Plan, folder: Path, results: Mapping[str, Result]) -> Outcome:
    """Make the recipes of a run whose jobs are all done."""
    digest = plan.data.digest
    made: dict[int | None, dict[str, TrainedBackbone]] = {}
    for job in plan.jobs():
        result = results[job.name]
        made.setdefault(job.fold, {})[job.backbone] = TrainedBackbone(result.weights, result.projections)
    folds = {
        fold: tuned_recipe(plan.starts[fold], trained, plan.config, digest, fold)
        for fold, trained in made.items()
        if fold is not None
    }
    return Outcome(
        plan=plan,
        folder=folder,
        recipe=tuned_recipe(plan.base, made[None], plan.config, digest),
        folds=folds,
        results=dict(results),
        logs={job.name: read_log(folder / job.name) for job in plan.jobs()},
    )
