"""Stands in for nvidia-ml-py: replays the snapshot that NVML_SNAPSHOT names; without one, there is no driver.

It reads the file at every call, so that a card can vanish or fill up between two calls. NVML_SLOW_S makes it slow.
"""

# ruff: noqa: N802 - the names are those of the library

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace


class NVMLError(Exception):
    """As in the real library."""


def _devices():
    return json.loads(Path(os.environ["NVML_SNAPSHOT"]).read_text(encoding="ascii"))["devices"]


def nvmlInit():
    if not os.environ.get("NVML_SNAPSHOT"):
        raise NVMLError("NVML Shared Library Not Found")


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return len(_devices())


def nvmlDeviceGetHandleByIndex(index):
    device = _devices()[index]
    if device.get("lost"):
        raise NVMLError("GPU is lost")
    return device


def nvmlDeviceGetMigMode(handle):
    if handle["mig"] is None:
        raise NVMLError("Not Supported")
    return [handle["mig"], handle["mig"]]


def nvmlDeviceGetMemoryInfo(handle):
    time.sleep(float(os.environ.get("NVML_SLOW_S", "0")))
    return SimpleNamespace(**handle["memory"])


def nvmlDeviceGetUUID(handle):
    return handle["uuid"]


def nvmlDeviceGetName(handle):
    return handle["name"]


def nvmlDeviceGetComputeRunningProcesses(handle):
    return [SimpleNamespace(**process) for process in handle["processes"]]
