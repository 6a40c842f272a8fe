"""The GPU run launcher: which Dagster run gets which card, and the life of its worker process.

`dagster.yaml` names `deer_reid_pipeline.launcher.run_launcher.GpuRunLauncher`. Nothing here imports torch, the steps or
the assets, so that the daemon starts without them.
"""
