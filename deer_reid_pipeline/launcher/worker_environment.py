"""What the environment of a run's worker says about its card."""

from __future__ import annotations

from collections.abc import Mapping

from deer_reid_pipeline.launcher.processes import RUN_VARIABLE
from deer_reid_pipeline.launcher.records import WorkerRecord


def card_variables(record: WorkerRecord) -> dict[str, str]:
    """The card by its uuid, which holds whatever else is visible, and the budget in MiB; no card: none visible."""
    variables = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": record.device}
    if record.budget_mb is not None:
        variables["DEER_REID_VRAM_MB"] = str(record.budget_mb)
    return variables


def worker_environment(record: WorkerRecord, inherited: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a worker process.

    DEER_REID_DEVICE follows the placement: a run with a card that torch cannot use fails instead of keeping it idle,
    and `cuda:1` would not exist where one card is visible. A DEER_REID_DEVICE=cpu is left alone.
    """
    device = "cuda" if record.device and inherited.get("DEER_REID_DEVICE") != "cpu" else "cpu"
    own = {RUN_VARIABLE: record.run_id, "DEER_REID_DEVICE": device, "PYTHONUNBUFFERED": "1"}
    return {**inherited, **own, **card_variables(record)}
