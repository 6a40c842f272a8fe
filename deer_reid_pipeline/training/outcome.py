"""The recipes that a finished run made, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deer_reid_pipeline.training.dataset import SALT, Split, TrainingSet
from deer_reid_pipeline.training.left_out import read_left_out
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
        left_out: labelled detections whose crops could not be read, which nothing was learned from.
    """

    plan: Plan
    folder: Path
    recipe: Recipe
    folds: Mapping[int, Recipe]
    results: Mapping[str, Result]
    logs: Mapping[str, list[dict[str, Any]]]
    left_out: frozenset[str] = frozenset()

    @cached_property
    def seen(self) -> TrainingSet:
        """The labelled pictures that could be read."""
        return self.plan.data.without(self.left_out)

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """Those of the plan, with the individuals of whom a picture could be read."""
        return tuple(split.among(self.seen.individuals) for split in self.plan.splits)

    @property
    def seconds(self) -> float:
        """Of all trainings together, as if one after the other."""
        return sum(result.seconds for result in self.results.values())

    @property
    def epochs(self) -> int:
        """Of the model that is used, in its multiscale network."""
        return self.results[self.plan.jobs()[-len(self.plan.keys)].name].epochs

    def record(self, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the database keeps of it: who was trained on, and who judges whom.

        What an earlier training saw, this one has seen too, since it went on from it. An animal or a picture that was
        in another fold then has no model that never saw it.

        Args:
            before: the record of the recipe that it started from, if that was fine-tuned.
        """
        folds = {
            name: split.fold
            for split in self.plan.splits
            for name in sorted(split.test if self.folds else split.train | split.validation)
        }
        detections = {p.key: folds[p.individual] for p in self.plan.data.pictures if p.individual in folds}
        return {
            "individuals": _inherited(folds, (before or {}).get("individuals", {})),
            "detections": _inherited(detections, (before or {}).get("detections", {})),
            "folds": len(self.folds),
            "salt": SALT,
            "dataset_digest": self.plan.data.digest,
            "seen_digest": self.seen.digest,
            "config": self.plan.config.model_dump(mode="json"),
            "base": self.plan.base.id,
            "counts": self.seen.counts(),
            "run": self.plan.id,
        }


def _inherited(now: Mapping[str, int | None], before: Mapping[str, int | None]) -> dict[str, int | None]:
    """The folds of now with those of before: None where they differ."""
    return {**before, **{key: fold if before.get(key, fold) == fold else None for key, fold in now.items()}}


def outcome_of(plan: Plan, folder: Path, results: Mapping[str, Result]) -> Outcome:
    """Make the recipes of a run whose jobs are all done."""
    digest = plan.data.digest
    made: dict[int | None, dict[str, TrainedBackbone]] = {}
    for job in plan.jobs():
        result = results[job.name]
        made.setdefault(job.fold, {})[job.backbone] = TrainedBackbone(result.weights, result.projections)
    folds = {
        fold: tuned_recipe(plan.starts[fold], trained, plan.config, digest, plan.id, fold)
        for fold, trained in made.items()
        if fold is not None
    }
    return Outcome(
        plan=plan,
        folder=folder,
        recipe=tuned_recipe(plan.base, made[None], plan.config, digest, plan.id),
        folds=folds,
        results=dict(results),
        logs={job.name: read_log(folder / job.name) for job in plan.jobs()},
        left_out=read_left_out(folder),
    )
