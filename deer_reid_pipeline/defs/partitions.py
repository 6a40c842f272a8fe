"""Partitions: one key a sealed drop."""

import dagster as dg

image_drop_partitions = dg.DynamicPartitionsDefinition(name="image_drops")
