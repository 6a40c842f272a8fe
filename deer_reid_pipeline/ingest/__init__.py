"""A drop's folder to records: layouts, tables, sealing, and the reasons why something was not used.

Never decodes pixels, never talks to a database, and imports neither Dagster nor torch. Two calls are the
whole interface: `seal_drop` and `read_drop`.
"""

from deer_reid_pipeline.ingest.read import read_drop
from deer_reid_pipeline.ingest.records import BoxRecord, DropContents, MediaRecord, QuarantineEntry
from deer_reid_pipeline.ingest.seal import SealedDrop, SealedFile, seal_drop

__all__ = [
    "BoxRecord",
    "DropContents",
    "MediaRecord",
    "QuarantineEntry",
    "SealedDrop",
    "SealedFile",
    "read_drop",
    "seal_drop",
]
