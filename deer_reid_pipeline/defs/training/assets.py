"""Fine-tuning: what is trained on, the model, its vectors, and the candidate release that the gate decides on."""

from typing import Any

import dagster as dg

from deer_reid_pipeline.defs.evaluation.tables import comparison_table
from deer_reid_pipeline.defs.launchpad import config_of, defaults
from deer_reid_pipeline.defs.metadata import columns, picture
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.defs.training.config import TrainingSettings
from deer_reid_pipeline.defs.training.watching import EpochEvents
from deer_reid_pipeline.steps.finetuned import embed_finetuned, propose_finetuned, trained_recipe
from deer_reid_pipeline.steps.training import dataset_facts, note_training, train_model
from deer_reid_pipeline.steps.training_report import CARD_TEXT, PAGE
from deer_reid_pipeline.steps.training_report.plots import learning_curves
from deer_reid_pipeline.training.config import TrainingConfig

WARN = dg.AssetCheckSeverity.WARN


@dg.asset(
    group_name="training",
    deps=["deer_profiles"],
    kinds={"postgres"},
    description="The labelled crops that metric learning is made on: who is trained on, validated and judged by.",
    check_specs=[
        dg.AssetCheckSpec(
            "there_is_enough_to_learn_from",
            asset="triplet_dataset",
            description="Under the default settings, every fold has named animals to train on, to validate on and to "
            "be judged by.",
        )
    ],
)
def triplet_dataset(site: SiteResource) -> dg.MaterializeResult:
    """One row: a detection whose individual a person gave. Individuals fall into parts by a hash of their name."""
    config = TrainingConfig()
    facts = dataset_facts(site.site, config)
    table = dg.MetadataValue.table(
        records=[dg.TableRecord({"part": part, **counts}) for part, counts in facts.parts.items()],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("part", "string"),
                *(dg.TableColumn(name, "int") for name in {n: None for c in facts.parts.values() for n in c}),
            ]
        ),
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": facts.counts["pictures"],
            **facts.counts,
            "digest": facts.digest,
            "parts": table,
        },
        data_version=dg.DataVersion(facts.digest),
        check_results=[
            dg.AssetCheckResult(
                check_name="there_is_enough_to_learn_from",
                passed=facts.too_little is None,
                severity=WARN,
                description=f"under the default settings ({config.folds} folds): "
                + (facts.too_little or "every fold has animals to train on, to validate on and to be judged by"),
            )
        ],
    )


@dg.asset(
    group_name="training",
    deps=["triplet_dataset"],
    kinds={"pytorch"},
    pool="gpu",
    description="The fine-tuned recipe, and one recipe a fold that was trained without the fold's individuals.",
)
def finetuned_model(
    context: dg.AssetExecutionContext,
    config: TrainingSettings,  # type: ignore[valid-type]
    site: SiteResource,
) -> dg.MaterializeResult:
    """One row: a network trained on the labelled crops. A run that was stopped goes on at its last epoch."""
    settings: Any = config
    outcome = train_model(
        site.site,
        config_of(TrainingConfig, settings),
        start=settings.start,
        say=context.log.info,
        watch=EpochEvents(context, context.asset_key).tell,
    )
    note_training(site.site, outcome, context.run_id)
    return dg.MaterializeResult(
        metadata={
            "recipe": outcome.recipe.id,
            "started_from": outcome.plan.base.id,
            "fold_recipes": [recipe.id for recipe in outcome.folds.values()],
            "dataset_digest": outcome.plan.data.digest[:16],
            "pictures": len(outcome.seen.pictures),
            "unreadable_pictures": len(outcome.left_out),
            "epochs": outcome.epochs,
            "training_seconds": outcome.seconds,
            "best_epochs": {name: result.epoch for name, result in outcome.results.items()},
            "config": outcome.plan.config.model_dump(mode="json"),
            "learning_curves": picture("learning curves", learning_curves(outcome), "Nothing was trained."),
            "folder": dg.MetadataValue.path(str(outcome.folder)),
        },
        data_version=dg.DataVersion(outcome.recipe.id),
    )


@dg.asset(
    group_name="training",
    deps=["finetuned_model", "deer_profiles"],
    kinds={"postgres", "pytorch"},
    pool="gpu",
    description="All detections under the fine-tuned recipe, beside their old vectors; the candidate release of it.",
    check_specs=[
        dg.AssetCheckSpec(
            "fine_tuning_ranks_better",
            asset="finetuned_embeddings",
            description="On animals outside the training, its mAP is above that of every recipe compared with it.",
        )
    ],
)
def finetuned_embeddings(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: a detection's vectors under the fine-tuned recipe. An animal is judged by the model of its fold."""
    recipe = trained_recipe(site.site, context.run_id)
    embedded = embed_finetuned(site.site, recipe, context.log.info)
    proposed = propose_finetuned(site.site, recipe, run_id=context.run_id, say=context.log.info)
    own = next((item for item in proposed.compared if item.recipe == recipe), None)
    before = [item for item in proposed.compared if item.recipe != recipe]
    ranks = own is not None and before and own.figures["map"].value > max(i.figures["map"].value for i in before)
    return dg.MaterializeResult(
        metadata={
            "recipe": recipe,
            "detections_embedded": embedded.detections,
            "embedded_by_fold_models": embedded.by_folds,
            "candidate": proposed.candidate or 0,
            "in_words": proposed.reason,
            **({} if own is None else {name: item.value for name, item in own.figures.items() if item.n}),
            "compared": dg.MetadataValue.md(
                comparison_table({item.recipe: item.as_json() for item in proposed.compared})
            ),
            "report": dg.MetadataValue.path(str(proposed.folder / PAGE)),
            "model_card": dg.MetadataValue.md((proposed.folder / CARD_TEXT).read_text(encoding="utf-8")),
            "dagster/column_schema": columns(
                detection_id="uuid: the detection",
                recipe_id="text: the fine-tuned recipe",
                branch="text: baseline, multiscale or efficientnet",
                vector="vector(512): unit norm",
            ),
        },
        data_version=dg.DataVersion(recipe),
        check_results=[
            dg.AssetCheckResult(
                check_name="fine_tuning_ranks_better",
                passed=bool(ranks),
                severity=WARN,
                description="mAP on animals outside the training; the gate asks for more than this"
                if before
                else "there was nothing to compare with",
            )
        ],
    )


training_job = dg.define_asset_job(
    "training_job",
    selection=dg.AssetSelection.assets(
        "triplet_dataset",
        "finetuned_model",
        "finetuned_embeddings",
        "ab_report",
        "validation_report",
        "embedding_release",
    ),
    # Spelt out, so that the launchpad opens with everything that can be changed.
    config={
        "ops": {
            "finetuned_model": {"config": {"start": "", **defaults(TrainingConfig)}},
            "embedding_release": {"config": {"promote": False}},
        }
    },
    description="Learn from the labelled animals, judge the result on animals outside the training, and propose it.",
)
