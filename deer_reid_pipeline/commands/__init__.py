"""Groups of commands; `deer_reid_pipeline.cli` puts them together."""
