"""Metric learning: from labelled crops to the weights of a fine-tuned recipe. No Dagster, no SQL.

Imports run: `runs` (processes) -> `worker` -> `trainer` -> `network`, `losses`, `sampler`, `augment`, `checkpoint`
-> `dataset`, `config`. Nothing above imports this package but steps.
"""
