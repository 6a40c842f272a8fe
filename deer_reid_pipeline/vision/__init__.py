"""Pixels in, vectors out: decode, crop, detect, and embed by a recipe. No SQL, no Dagster, no settings.

Importing this package imports nothing heavy; `decode`, `crops` and `recipe` work without torch.
"""
