"""The code location: everything under `defs/`, its resources and its executor."""

import dagster as dg

from deer_reid_pipeline.defs.embeddings import assets as embedding_assets
from deer_reid_pipeline.defs.evaluation import assets as evaluation_assets
from deer_reid_pipeline.defs.ingest import assets as ingest_assets
from deer_reid_pipeline.defs.jobs import process_drop_job, reembedding_job, tuning_job, validation_job
from deer_reid_pipeline.defs.monitoring import assets as monitoring_assets
from deer_reid_pipeline.defs.profiles import assets as profile_assets
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.defs.training import assets as training_assets

defs = dg.Definitions(
    assets=dg.load_assets_from_modules(
        [ingest_assets, embedding_assets, profile_assets, training_assets, evaluation_assets, monitoring_assets]
    ),
    jobs=[
        process_drop_job,
        reembedding_job,
        validation_job,
        tuning_job,
        monitoring_assets.fp_monitoring_job,
        training_assets.training_job,
    ],
    resources={"site": SiteResource()},
    # One process a run: models are loaded once, and a step does not cost a process start.
    executor=dg.in_process_executor,
)
