"""The benchmarks' settings as the launchpad shows them."""

from typing import Any

from deer_reid_pipeline.defs.launchpad import shown
from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig, GpuMemoryConfig

BenchmarkSettings: Any = shown("BenchmarkSettings", BenchmarkConfig)
GpuMemorySettings: Any = shown("GpuMemorySettings", GpuMemoryConfig)
