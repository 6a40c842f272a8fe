"""The launcher's part of dagster.yaml: its fields, and what they mean once Dagster has checked them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from deer_reid_pipeline.launcher.errors import LauncherError

_CHOICES = {
    "cpu": "run it on the CPU, through the delegate",
    "wait": "wait up to wait_seconds for room, then fail",
    "fail": "fail at once",
}

SCHEMA: dict[str, dg.Field] = {
    "gpu": dg.Field(
        dg.Selector(
            {
                "process": dg.Field(
                    {
                        "terminate_grace_seconds": dg.Field(
                            dg.IntSource,
                            default_value=30,
                            description="Seconds between SIGTERM and SIGKILL when a run is terminated.",
                        )
                    },
                    description="A process of this machine.",
                ),
                "docker": dg.Field(dg.Permissive(), description="Config of DockerRunLauncher; the extra docker."),
                "kubernetes": dg.Field(
                    dg.Permissive(), description="Config of K8sRunLauncher, gpus and resource; the extra k8s."
                ),
                "ray": dg.Field(dg.Permissive(), description="Config of RayRunLauncher and num_gpus; the extra ray."),
            }
        ),
        default_value={"process": {"terminate_grace_seconds": 30}},
        description="Back end of the runs that get a card.",
    ),
    "delegate": dg.Field(
        {
            "module": dg.Field(dg.StringSource),
            "class": dg.Field(dg.StringSource),
            "config": dg.Field(dg.Permissive(), default_value={}),
        },
        is_required=False,
        description="Launcher of the runs that get none; unset: processes of this machine that see no card.",
    ),
    "when_unavailable": dg.Field(
        dg.Enum("WhenUnavailable", [dg.EnumValue(name, description=text) for name, text in _CHOICES.items()]),
        default_value="cpu",
        description="What becomes of a run that wants a card where none has room.",
    ),
    "wait_seconds": dg.Field(dg.IntSource, default_value=120, description="Longest wait of when_unavailable: wait."),
    "vram_mb": dg.Field(
        dg.IntSource,
        is_required=False,
        description="MiB promised to a run; unset: DEER_REID_VRAM_MB, else three quarters of the card.",
    ),
    "reserve_mb": dg.Field(dg.IntSource, default_value=512, description="MiB of each card that are never promised."),
    "pools": dg.Field([str], default_value=["gpu"], description="Runs with a step in one of these want a card."),
    "devices": dg.Field([str], default_value=[], description="Uuids of the cards that may be used; empty: all."),
    "state_dir": dg.Field(
        dg.StringSource,
        is_required=False,
        description="Leases, locks and worker logs, on a local disk; unset: gpu-runs under DAGSTER_HOME.",
    ),
}


@dataclass(frozen=True)
class Delegate:
    """Where a launcher class is and its config, as in dagster.yaml."""

    module: str
    class_name: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """The checked config; `vram_mb` None means the environment's, else a share of the card."""

    back_end: str
    back_end_config: Mapping[str, Any]
    delegate: Delegate | None
    when_unavailable: str
    wait_seconds: int
    vram_mb: int | None
    reserve_mb: int
    pools: tuple[str, ...]
    devices: tuple[str, ...]
    state_dir: Path | None


def options_from(config: Mapping[str, Any]) -> Options:
    """Read a config that fits `SCHEMA`.

    Raises:
        LauncherError: a number is out of range; the text names the field.
    """
    for name, low in (("wait_seconds", 1), ("vram_mb", 1), ("reserve_mb", 0)):
        if config.get(name, low) < low:
            raise LauncherError(f"{name} of the run launcher in dagster.yaml is {config[name]}; {low} is the least")
    if not config["pools"]:
        raise LauncherError("pools of the run launcher in dagster.yaml is empty; name at least one pool, such as gpu")
    ((back_end, back_end_config),) = config["gpu"].items()
    delegate, state_dir = config.get("delegate"), config.get("state_dir")
    return Options(
        back_end=back_end,
        back_end_config=back_end_config,
        delegate=None if delegate is None else Delegate(delegate["module"], delegate["class"], delegate["config"]),
        when_unavailable=config["when_unavailable"],
        wait_seconds=config["wait_seconds"],
        vram_mb=config.get("vram_mb"),
        reserve_mb=config["reserve_mb"],
        pools=tuple(config["pools"]),
        devices=tuple(config["devices"]),
        state_dir=None if state_dir is None else Path(state_dir).expanduser().absolute(),
    )
