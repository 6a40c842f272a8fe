"""`TrainingConfig` as the launchpad shows it."""

from typing import Any

from pydantic import Field

from deer_reid_pipeline.defs.launchpad import shown
from deer_reid_pipeline.training.config import TrainingConfig

START = (
    "Name or id of the recipe to start from; empty: the live one. A fine-tuned recipe goes on where it was left, with "
    "what was named since."
)

TrainingSettings: Any = shown("TrainingSettings", TrainingConfig, start=(str, Field(default="", description=START)))
