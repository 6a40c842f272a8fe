"""Partitions: one a UTC day of deciding, the present day included."""

import dagster as dg

FIRST_DAY = "2024-01-01"
"""Older decisions are none of this pipeline's."""

daily_partitions = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, timezone="UTC", end_offset=1)
