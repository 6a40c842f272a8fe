"""A code location whose one asset does what its run's tags ask, in the pool `gpu`; beside it one without a pool."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg

FOLDER, DEED = "test/folder", "test/deed"
SEEN = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "DEER_REID_VRAM_MB", "DEER_REID_DEVICE", "DEER_REID_RUN_ID")

if os.environ.get("DIE_ON_IMPORT"):
    time.sleep(1.5)
    os._exit(7)


def obey(context: dg.AssetExecutionContext) -> None:
    """Leave a note of the process and its environment, then do the deed of the tag."""
    folder, deed = context.run.tags.get(FOLDER), context.run.tags.get(DEED, "end")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) if deed == "parent" else None
    if deed == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if folder is not None:
        note = {"pid": os.getpid(), "child": child and child.pid, **{name: os.environ.get(name) for name in SEEN}}
        draft = Path(folder) / "draft"
        draft.write_text(json.dumps(note), encoding="ascii")
        draft.replace(Path(folder) / "note.json")
    if deed == "die":
        while not (Path(str(folder)) / "now").exists():
            time.sleep(0.05)
        os._exit(9)
    while deed in ("sleep", "stubborn", "parent"):
        time.sleep(0.1)


@dg.asset(pool="gpu")
def on_card(context: dg.AssetExecutionContext) -> None:
    obey(context)


@dg.asset
def without_card(context: dg.AssetExecutionContext) -> None:
    obey(context)


@dg.asset(pool="gpu", partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def partitioned() -> None:
    pass


gpu_job = dg.define_asset_job("gpu_job", ["on_card"], executor_def=dg.in_process_executor)
cpu_job = dg.define_asset_job("cpu_job", ["without_card"], executor_def=dg.in_process_executor)
steps_job = dg.define_asset_job("steps_job", ["on_card"], executor_def=dg.multiprocess_executor)


@dg.sensor(target=["on_card"])
def gpu_sensor() -> dg.RunRequest:
    return dg.RunRequest(run_key="one")


@dg.sensor(job=cpu_job)
def cpu_sensor() -> dg.RunRequest:
    return dg.RunRequest(run_key="one")


defs = dg.Definitions(
    assets=[on_card, without_card, partitioned],
    jobs=[gpu_job, cpu_job, steps_job],
    sensors=[gpu_sensor, cpu_sensor],
)
