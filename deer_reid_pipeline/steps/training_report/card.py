"""The model card (Mitchell et al. 2019, Model Cards for Model Reporting) as data; it names no individual."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline import __version__
from deer_reid_pipeline.reid.evaluation.gate import Verdict
from deer_reid_pipeline.steps.report.catalogue import MEANINGS
from deer_reid_pipeline.steps.training_report.facts import (
    counts_by_flank,
    fold_facts,
    trained_individuals,
    trainings,
    weight_files,
)
from deer_reid_pipeline.steps.training_report.figures import RecipeFigures, measured_names
from deer_reid_pipeline.steps.training_report.words import LIMITS, USES, licence, protocol

if TYPE_CHECKING:
    from deer_reid_pipeline.training.outcome import Outcome

FORMAT = 1


def model_card(
    outcome: Outcome,
    compared: Sequence[RecipeFigures],
    verdict: Verdict | None,
    made_at: datetime,
    models_dir: Path,
) -> dict[str, Any]:
    """Everything that is known of a fine-tuned model, ready for JSON.

    Args:
        made_at: UTC.
        models_dir: the model store.
    """
    plan = outcome.plan
    trained = plan.data.of(trained_individuals(outcome))
    done = trainings(outcome)
    return {
        "format_version": FORMAT,
        "recipe": outcome.recipe.id,
        "name": outcome.recipe.name,
        "base": plan.base.id,
        "run": plan.id,
        "made_at": made_at.isoformat(timespec="seconds"),
        "program": f"deer-reid-pipeline {__version__}",
        "verdict": None if verdict is None else _verdict(verdict),
        "trained_on": {
            "dataset_digest": plan.data.digest,
            "labelled": plan.data.counts(),
            "trained_on": trained.counts(),
            "by_flank": counts_by_flank(trained),
        },
        "config": plan.config.model_dump(mode="json"),
        "folds": fold_facts(outcome),
        "protocol": list(protocol(outcome)),
        "meanings": {name: MEANINGS[name].definition for name in measured_names(compared)},
        "figures": [item.as_json() for item in compared],
        "trainings": done,
        "seconds": round(outcome.seconds, 1),
        "devices": sorted({item["device"] for item in done}),
        "weights": weight_files(outcome, models_dir),
        "limits": list(LIMITS),
        "use": list(USES),
        "licence": list(licence(outcome)),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.verdict,
        "findings": [{"name": item.name, "ok": item.ok, "text": item.text} for item in verdict.findings],
    }
