"""Epochs of a training as they happen, where Dagster charts them."""

from __future__ import annotations

import dagster as dg

from deer_reid_pipeline.training.runs import Told


class EpochEvents:
    """Logs each epoch as an observation of the asset, whose numbers the UI draws over time."""

    def __init__(self, context: dg.AssetExecutionContext, asset: dg.AssetKey) -> None:
        self._context, self._asset = context, asset

    def tell(self, told: Told) -> None:
        """One epoch of one training."""
        epoch = told.epoch
        figures = epoch["figures"]
        judged = {
            f"validation_{name}": float(value)
            for name, value in (figures.items() if isinstance(figures, dict) else ())
            if value is not None
        }
        self._context.log_event(
            dg.AssetObservation(
                self._asset,
                metadata={
                    "training": told.job,
                    "epoch": int(str(epoch["number"])),
                    "loss": float(str(epoch["loss"])),
                    "pictures_per_second": float(str(epoch["pictures_per_second"])),
                    "share_done": told.done / max(1, told.total),
                    "minutes_left": 0.0 if told.seconds_left is None else told.seconds_left / 60,
                    **judged,
                },
            )
        )
