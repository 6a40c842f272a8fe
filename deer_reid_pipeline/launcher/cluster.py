"""Other launchers of Dagster, made from their config. Their packages are imported only when one is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from deer_reid_pipeline.launcher.back_end import DelegatedBackEnd
from deer_reid_pipeline.launcher.dagster_private import ConfigurableClassData, DagsterInstance, RunLauncher
from deer_reid_pipeline.launcher.errors import LauncherError


class _Cluster(NamedTuple):
    package: str
    extra: str
    class_name: str
    chooses_cards: bool


_CLUSTERS = {
    "docker": _Cluster("dagster_docker", "docker", "GpuDockerRunLauncher", chooses_cards=False),
    "kubernetes": _Cluster("dagster_k8s", "k8s", "GpuK8sRunLauncher", chooses_cards=True),
    "ray": _Cluster("dagster_ray", "ray", "GpuRayRunLauncher", chooses_cards=True),
}


def cluster_back_end(name: str, config: Mapping[str, Any]) -> DelegatedBackEnd:
    """The back end docker, kubernetes or ray.

    Raises:
        LauncherError: its package is not installed.
        DagsterInvalidConfigError: the config is not that of its launcher.
    """
    cluster = _CLUSTERS[name]
    if importlib.util.find_spec(cluster.package) is None:
        raise LauncherError(
            f"the run launcher's back end {name} needs {cluster.package.replace('_', '-')}: "
            f"pip install 'deer-reid-pipeline[{cluster.extra}]'"
        )
    launcher = launcher_from(f"{__package__}.{name}_back_end", cluster.class_name, config)
    return DelegatedBackEnd(
        name, launcher, chooses_cards=cluster.chooses_cards, uses_card=getattr(launcher, "uses_card", None)
    )


def launcher_from(module: str, class_name: str, config: Mapping[str, Any]) -> RunLauncher[DagsterInstance]:
    """A launcher as dagster.yaml names it; `{env: NAME}` inside its config is resolved.

    Raises:
        LauncherError: the module cannot be imported, or has no such class.
        DagsterInvalidConfigError: the config is not that of the class.
    """
    try:
        found = getattr(importlib.import_module(module), class_name, None)
    except ImportError as error:
        raise LauncherError(f"the run launcher needs {module}, which cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, RunLauncher)):
        raise LauncherError(f"{module} has no run launcher named {class_name}; correct 'delegate' in dagster.yaml")
    named = ConfigurableClassData(module, class_name, json.dumps(config))
    return named.rehydrate(as_type=RunLauncher)  # type: ignore[type-abstract]
