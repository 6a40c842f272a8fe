"""Choosing what a release matches with: weights, fusion, thresholds and odds, fitted on labelled individuals.

Nothing is judged on the animals that it was fitted on: `fit` gives a policy for use, and beside it policies fitted
without each group of individuals, by the same steps, which are what an evaluation judges.
"""

from deer_reid_pipeline.reid.tuning.fit import Tuned, fit
from deer_reid_pipeline.reid.tuning.grid import OWNER_WEIGHTS, GridRow, owner_choice, weight_grid

__all__ = ["OWNER_WEIGHTS", "GridRow", "Tuned", "fit", "owner_choice", "weight_grid"]
