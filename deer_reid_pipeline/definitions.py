"""The code location: everything under `defs/`, its resources and its executor."""

import dagster as dg

from deer_reid_pipeline.defs.automation.failures import run_failure_sensor
from deer_reid_pipeline.defs.automation.pruning import prune_history_job
from deer_reid_pipeline.defs.automation.schedules import night_schedules
from deer_reid_pipeline.defs.automation.upkeep import kept_up, morning_automation_sensor
from deer_reid_pipeline.defs.embeddings import assets as embedding_assets
from deer_reid_pipeline.defs.evaluation import assets as evaluation_assets
from deer_reid_pipeline.defs.ingest import assets as ingest_assets
from deer_reid_pipeline.defs.ingest.sensor import image_drop_sensor
from deer_reid_pipeline.defs.jobs import process_drop_job, reembedding_job, tuning_job, validation_job
from deer_reid_pipeline.defs.monitoring import assets as monitoring_assets
from deer_reid_pipeline.defs.performance import assets as performance_assets
from deer_reid_pipeline.defs.profiles import assets as profile_assets
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.defs.training import assets as training_assets
from deer_reid_pipeline.settings import load_settings

SETTINGS = load_settings()

defs = dg.Definitions(
    assets=kept_up(
        dg.load_assets_from_modules(
            [
                ingest_assets,
                embedding_assets,
                profile_assets,
                training_assets,
                evaluation_assets,
                monitoring_assets,
                performance_assets,
            ]
        ),
        SETTINGS,
    ),
    jobs=[
        process_drop_job,
        reembedding_job,
        validation_job,
        tuning_job,
        monitoring_assets.fp_monitoring_job,
        training_assets.training_job,
        performance_assets.benchmark_job,
        prune_history_job,
    ],
    schedules=night_schedules(SETTINGS),
    sensors=[image_drop_sensor, run_failure_sensor, morning_automation_sensor],
    resources={"site": SiteResource()},
    # One process a run: models are loaded once, and a step does not cost a process start.
    executor=dg.in_process_executor,
)
