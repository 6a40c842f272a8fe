"""The model card (Mitchell et al. 2019, Model Cards for Model Reporting) as data; it names no individual."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline import __version__
from deer_reid_pipeline.steps.report.catalogue import MEANINGS
from deer_reid_pipeline.steps.training_report.facts import (
    counts_by_flank,
    fold_facts,
    trained_individuals,
    trainings,
    weight_files,
)
from deer_reid_pipeline.steps.training_report.figures import Comparison, measured_names
from deer_reid_pipeline.steps.training_report.words import LIMITS, USES, licence, protocol, unrepeatable, validation

if TYPE_CHECKING:
    from deer_reid_pipeline.training.outcome import Outcome

FORMAT = 2


def model_card(
    outcome: Outcome,
    compared: Comparison,
    made_at: datetime,
    models_dir: Path,
) -> dict[str, Any]:
    """Everything that is known of a fine-tuned model, ready for JSON.

    Args:
        made_at: UTC.
        models_dir: the model store.
    """
    plan = outcome.plan
    trained = outcome.seen.of(trained_individuals(outcome))
    done = trainings(outcome)
    return {
        "format_version": FORMAT,
        "recipe": outcome.recipe.id,
        "name": outcome.recipe.name,
        "base": plan.base.id,
        "run": plan.id,
        "made_at": made_at.isoformat(timespec="seconds"),
        "program": f"deer-reid-pipeline {__version__}",
        "validation": validation(outcome.recipe.id),
        "trained_on": {
            "dataset_digest": plan.data.digest,
            "labelled": plan.data.counts(),
            "unreadable_pictures": len(outcome.left_out),
            "seen_digest": outcome.seen.digest,
            "trained_on": trained.counts(),
            "by_flank": counts_by_flank(trained),
        },
        "config": plan.config.model_dump(mode="json"),
        "folds": fold_facts(outcome),
        "protocol": list(protocol(outcome)),
        "meanings": {name: MEANINGS[name].definition for name in measured_names(compared.figures)},
        "figures": [item.as_json() for item in compared.figures],
        "not_compared": [asdict(item) for item in compared.left_out],
        "trainings": done,
        "seconds": round(outcome.seconds, 1),
        "devices": sorted({item["device"] for item in done}),
        "weights": weight_files(outcome, models_dir),
        "limits": [*LIMITS, *unrepeatable(outcome)],
        "use": list(USES),
        "licence": list(licence(outcome)),
    }
