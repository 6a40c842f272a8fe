"""Jobs: the main job on one drop, re-embedding, validation and tuning."""

import dagster as dg

from deer_reid_pipeline.defs.partitions import image_drop_partitions

process_drop_job = dg.define_asset_job(
    "process_drop_job",
    selection=dg.AssetSelection.assets("deer_profiles").upstream(),
    partitions_def=image_drop_partitions,
    description="From one drop's pictures to identified deer: store, detect, crop, embed, match, update profiles.",
)

reembedding_job = dg.define_asset_job(
    "reembedding_job",
    selection=dg.AssetSelection.assets("deer_profiles"),
    config={"ops": {"deer_profiles": {"config": {"backlog": True}}}},
    description="Embed whatever lacks vectors under the live recipe (or the one named) and bring profiles up to date.",
)

validation_job = dg.define_asset_job(
    "validation_job",
    selection=dg.AssetSelection.assets("similarity_distribution", "validation_report", "assignment_report"),
    config={"ops": {"validation_report": {"config": {"candidate": 0}}}},
    description="Judge what is live on the animals that people named.",
)

tuning_job = dg.define_asset_job(
    "tuning_job",
    selection=dg.AssetSelection.assets(
        "similarity_distribution", "ensemble_weights", "match_threshold", "validation_report", "embedding_release"
    ),
    description="Fit weights and thresholds, judge them on animals outside the fit, and make them live on a PASS.",
)
