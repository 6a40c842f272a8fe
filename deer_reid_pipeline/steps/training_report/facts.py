"""What a training was made on and what it left: counts and files, and no individual's name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline.training.scoring import STOPS_BY

if TYPE_CHECKING:
    from deer_reid_pipeline.training.dataset import TrainingSet
    from deer_reid_pipeline.training.outcome import Outcome
    from deer_reid_pipeline.training.plan import Job
    from deer_reid_pipeline.vision.recipe import Recipe


def trained_individuals(outcome: Outcome) -> frozenset[str]:
    """Those whose pictures changed the weights of the model that is used."""
    return frozenset(outcome.seen.individuals) if outcome.folds else outcome.splits[0].train


def counts_by_flank(data: TrainingSet) -> dict[str, dict[str, int]]:
    """Flank ("unknown" where no one said) -> pictures, individuals, encounters, and individuals met twice from it."""
    met = data.encounters()
    found = {}
    for flank in sorted({picture.flank for picture in data.pictures}):
        pictures = [picture for picture in data.pictures if picture.flank == flank]
        found[flank or "unknown"] = {
            "pictures": len(pictures),
            "individuals": len({picture.individual for picture in pictures}),
            "encounters": len({picture.encounter for picture in pictures}),
            "returning_individuals": sum(label[1] == flank and len(each) > 1 for label, each in met.items()),
        }
    return found


def fold_facts(outcome: Outcome) -> list[dict[str, Any]]:
    """One entry a fold: its recipe, and how many individuals were trained on, decided when to stop, and are judged."""
    return [
        {
            "fold": split.fold,
            "recipe": outcome.folds[split.fold].id,
            "individuals_trained_on": len(split.train),
            "individuals_for_validation": len(split.validation),
            "individuals_judged": len(split.test),
        }
        for split in outcome.splits
        if split.fold is not None and split.fold in outcome.folds
    ]


def training_title(outcome: Outcome, job: Job) -> str:
    """A training in words: what it was trained on, and which network."""
    arch = outcome.plan.base.backbones[job.backbone].arch
    who = "all animals" if job.split is None else "training part"
    return f"{who if job.fold is None else f'without fold {job.fold}'}, {arch} ({job.backbone})"


def trainings(outcome: Outcome) -> list[dict[str, Any]]:
    """One entry a training: epochs, the best of them, its mAP on the validation individuals (None without), time."""
    found = []
    for job in outcome.plan.jobs():
        result = outcome.results[job.name]
        kept = next((entry for entry in outcome.logs.get(job.name, ()) if entry["number"] == result.epoch), None)
        found.append(
            {
                "training": training_title(outcome, job),
                "job": job.name,
                "epochs": result.epochs,
                "best_epoch": result.epoch,
                "validation_map": None if kept is None else kept["figures"].get(STOPS_BY),
                "seconds": round(result.seconds, 1),
                "device": result.device,
                "gpu_memory_mb": result.memory_mb,
            }
        )
    return found


def weight_files(outcome: Outcome, models_dir: Path) -> list[dict[str, Any]]:
    """One entry a weight file of the recipe and of the recipes of its folds.

    `file` names it, `model_store` says whether it is one of the model store, `bytes` is None where it is not there.
    """
    found: list[dict[str, Any]] = []
    for recipe in (outcome.recipe, *(outcome.folds[fold] for fold in sorted(outcome.folds))):
        for part, arch, sha256, name, trained in _files_of(recipe, outcome.plan.keys):
            path = models_dir / name
            found.append(
                {
                    "recipe": recipe.id,
                    "part": part,
                    "architecture": arch,
                    "sha256": sha256,
                    "file": name,
                    "model_store": name == f"{sha256}.safetensors",
                    "trained": trained,
                    "bytes": path.stat().st_size if path.is_file() else None,
                }
            )
    return found


def _files_of(recipe: Recipe, trained: tuple[str, ...]) -> list[tuple[str, str, str, str, bool]]:
    files: list[tuple[str, str, str, str, bool]] = []
    for key, backbone in recipe.backbones.items():
        ref = backbone.weights
        name = f"{ref.sha256}.safetensors" if ref.source == "store" else ref.name
        files.append((f"network {key}", backbone.arch, ref.sha256, name, key in trained))
    for name, branch in recipe.branches.items():
        sha256 = branch.projection.sha256
        arch = recipe.backbones[branch.backbone].arch
        files.append((f"projection {name}", arch, sha256, f"{sha256}.safetensors", branch.projection.kind == "trained"))
    return files
