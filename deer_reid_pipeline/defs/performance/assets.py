"""`benchmark_report` and `gpu_memory_report`: how fast this machine is, and how much memory of its card is needed."""

from typing import Any

import dagster as dg

from deer_reid_pipeline.defs.launchpad import config_of, defaults
from deer_reid_pipeline.defs.metadata import picture
from deer_reid_pipeline.defs.performance.config import BenchmarkSettings, GpuMemorySettings
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig, GpuMemoryConfig
from deer_reid_pipeline.steps.benchmark.files import PAGE
from deer_reid_pipeline.steps.benchmark.stored import report_benchmark, report_gpu_memory


@dg.asset(
    group_name="performance",
    kinds={"pytorch", "postgres"},
    pool="gpu",
    description="Stages apart and end to end, always beside the machine's floor and the plain loop a user would write.",
)
def benchmark_report(
    context: dg.AssetExecutionContext,
    config: BenchmarkSettings,  # type: ignore[valid-type]
    site: SiteResource,
) -> dg.MaterializeResult:
    """One benchmark of this installation on this machine. Nothing depends on it, and no other job selects it."""
    settings: Any = config
    report = report_benchmark(site.site, config_of(BenchmarkConfig, settings), context.run_id, context.log.info)
    found = report.found
    criteria, *others = report.tables
    return dg.MaterializeResult(
        metadata={
            "in_words": report.headline,
            "engine_vs_floor": found["engine_vs_floor"],
            "engine_vs_loop": found["engine_vs_loop"],
            "cosine_min": found["cosine_min"],
            "crops_per_second": found["crops_per_second"],
            "pictures_per_second": found["pictures_per_second"],
            "search_p95_ms": found["database"]["search"]["p95_ms"],
            "process_peak_mib": found["memory"]["process_peak_mib"],
            "seconds": found["seconds"],
            "recipe": found["recipe"],
            "device": found["device"],
            "owners_criteria": dg.MetadataValue.md(criteria.markdown()),
            "warnings": dg.MetadataValue.md("\n\n".join(report.warnings) or "none"),
            "speeds": picture("speeds", report.plot, "Nothing was measured."),
            **{_key(table.title): dg.MetadataValue.md(table.markdown()) for table in others},
            "report": dg.MetadataValue.path(str(report.folder / PAGE)),
        }
    )


@dg.asset(
    group_name="performance",
    kinds={"pytorch"},
    pool="gpu",
    description="Memory of the card at batch 1, 8, 16 and 32, and the largest batch that stays within the budget.",
)
def gpu_memory_report(
    context: dg.AssetExecutionContext,
    config: GpuMemorySettings,  # type: ignore[valid-type]
    site: SiteResource,
) -> dg.MaterializeResult:
    """One measurement of the card; where there is none, the statement that there is none."""
    settings: Any = config
    report = report_gpu_memory(site.site, config_of(GpuMemoryConfig, settings), context.run_id, context.log.info)
    measured: dict[str, float] = {}
    if report.measured is not None:
        measured = {f"mib_at_batch_{n}": held for n, held in report.measured.peaks.items() if held is not None}
        measured |= {"largest_safe_batch": report.measured.largest, "budget_mib": report.measured.budget}
    return dg.MaterializeResult(
        metadata={
            "in_words": report.sentence,
            "card": report.measured is not None,
            **measured,
            "recipe": report.recipe_id,
            "device": report.device,
            "owners_criterion": f"{report.criterion.result}: {report.criterion.detail}",
            **{_key(table.title): dg.MetadataValue.md(table.markdown()) for table in report.tables()},
        }
    )


benchmark_job = dg.define_asset_job(
    "benchmark_job",
    selection=dg.AssetSelection.assets("benchmark_report", "gpu_memory_report"),
    # Spelt out, so that the launchpad opens with everything that can be changed.
    config={
        "ops": {
            "benchmark_report": {"config": defaults(BenchmarkConfig)},
            "gpu_memory_report": {"config": defaults(GpuMemoryConfig)},
        }
    },
    description="Measure speed and memory on this machine. Run it while nothing else runs.",
)


def _key(title: str) -> str:
    """A metadata label out of a table's title."""
    return "_".join(title.lower().replace(",", "").replace(":", "").replace("-", "_").split())
