"""`benchmark_report` and `gpu_memory_report`: measured, written as files and as rows of `reports`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig, GpuMemoryConfig
from deer_reid_pipeline.steps.benchmark.criteria import speed_criteria
from deer_reid_pipeline.steps.benchmark.files import PAGE, write_report
from deer_reid_pipeline.steps.benchmark.gpu_memory import GpuMemory, measure_gpu_memory
from deer_reid_pipeline.steps.benchmark.measure import Benchmark, Say, run_benchmark
from deer_reid_pipeline.steps.benchmark.plots import speed_plot
from deer_reid_pipeline.steps.benchmark.tables import Table, headline, tables, warnings
from deer_reid_pipeline.steps.owner_criteria import Criterion
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.reports import BENCHMARK, GPU_MEMORY, add_report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkReport:
    """A benchmark and what was written of it."""

    measured: Benchmark
    criteria: tuple[Criterion, ...]
    headline: str
    warnings: tuple[str, ...]
    tables: tuple[Table, ...]
    plot: bytes
    found: dict[str, Any]
    folder: Path


def report_benchmark(
    site: Site, config: BenchmarkConfig, run_id: str | None = None, say: Say = log.info
) -> BenchmarkReport:
    """Measure this installation on this machine, and write the report.

    Raises:
        DeerReidError: see `run_benchmark`; or the report cannot be written.
    """
    measured = run_benchmark(site, config, say)
    criteria = speed_criteria(measured)
    made = tables(measured, criteria)
    plot = speed_plot(measured)
    said, notes = headline(measured), warnings(measured)
    found = {**measured.to_json(), "owner": [item.as_dict() for item in criteria], "in_words": said, "warnings": notes}
    folder = write_report(
        site.settings.home,
        "benchmark",
        title="Benchmark",
        headline=said,
        warnings=notes,
        found=found,
        made=made,
        plot=plot,
        made_at=measured.made_at,
        recipe_id=measured.subject.recipe.id,
    )
    found["report"] = str(folder / PAGE)
    _store(site, BENCHMARK, found, measured.subject.recipe.id, measured.subject.release_id, folder, run_id)
    return BenchmarkReport(measured, criteria, said, tuple(notes), made, plot, found, folder)


def report_gpu_memory(site: Site, config: GpuMemoryConfig, run_id: str | None = None, say: Say = log.info) -> GpuMemory:
    """Measure the card's memory by batch size, and write the report; without a card the report says so.

    Raises:
        DeerReidError: the recipe cannot be used, or the report cannot be written.
    """
    measured = measure_gpu_memory(site, config.recipe, say)
    made_at = datetime.now(UTC)
    found = measured.to_json()
    folder = write_report(
        site.settings.home,
        "gpu-memory",
        title="Memory of the GPU",
        headline=measured.sentence,
        warnings=(),
        found=found,
        made=measured.tables(),
        plot=None,
        made_at=made_at,
        recipe_id=measured.recipe_id,
    )
    found["report"] = str(folder / PAGE)
    _store(site, GPU_MEMORY, found, measured.recipe_id, None, folder, run_id)
    return measured


def _store(
    site: Site,
    kind: str,
    found: dict[str, Any],
    recipe_id: str,
    release_id: int | None,
    folder: Path,
    run_id: str | None,
) -> None:
    with site.database.session() as session:
        add_report(
            session,
            kind,
            found,
            recipe_id=recipe_id,
            release_id=release_id,
            folder=str(folder.relative_to(site.settings.home)),
            run_id=run_id,
        )


def criteria_lines(criteria: Sequence[dict[str, Any]]) -> list[str]:
    """The owner's criteria, one a line, from JSON."""
    return [
        f"{item['result']:<12} {item['title']} (wanted {item['wanted']}): "
        + ("" if item["value"] is None else f"{item['value']:,.3g} {item['unit']}; ")
        + item["detail"]
        for item in criteria
    ]
