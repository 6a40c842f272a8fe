"""How a cluster computes: as named, with nothing left to what each machine would measure."""

from __future__ import annotations

from deer_reid_pipeline.vision.engine.options import PLAIN, EngineOptions


def fixed(options: EngineOptions) -> EngineOptions:
    """The same with nothing 'auto': float32 and torch where nobody named another."""
    precision = PLAIN.precision if options.precision == "auto" else options.precision
    backend = PLAIN.backend if options.backend == "auto" else options.backend
    return EngineOptions(precision, backend, options.vram_mb)


def is_plain(options: EngineOptions) -> bool:
    """Whether fixed options mean the network as loaded."""
    return (options.precision, options.backend) == (PLAIN.precision, PLAIN.backend)
