"""Deer re-identification pipeline: trail-camera pictures in, identified deer out, as Dagster assets."""

__version__ = "0.1.0"
