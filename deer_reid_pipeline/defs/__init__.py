"""Everything Dagster: assets, checks, partitions, resources and jobs, one folder a concern. No maths, no SQL."""
