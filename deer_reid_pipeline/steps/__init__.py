"""What each asset does, one module an asset, without Dagster.

Every step can be killed at any moment and run again: work is committed batch by batch, and what is done is not done
again. Steps log one line a batch at most, never one a picture.
"""
