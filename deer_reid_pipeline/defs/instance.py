"""The installation's Dagster instance: where it is, and its settings file."""

from __future__ import annotations

import hashlib
import os
import shutil

from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.shipped import shipped

SHIPPED_BEFORE = frozenset(
    {
        "b3be902cb2347c8423331180cf86f289f8ba68b5ad41bb9e0533ddee22db2b5c",
        "8f4ccbd38f3bb961c3b720532451be580b1d376db6b873f16ed1b8f0f2ae2383",
        "a6615777ba181ef1499a02d42960cd5af06e5efce6e21c938b10bb01082dcff1",
        "65f693110798ba1a8fb5ea60e0a38a9f2400294f5bf7029f21087f04f1c372a5",
    }
)
"""sha256 of each `dagster.yaml` that an older version shipped."""


def prepare_instance(settings: Settings, dagster_url: str) -> None:
    """Point this process and its children at the installation's Dagster instance.

    Writes `dagster.yaml` into DAGSTER_HOME when there is none or when it is one that an older version put there; one
    that a person changed is left alone.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists() or hashlib.sha256(target.read_bytes()).hexdigest() in SHIPPED_BEFORE:
        part = home / f".dagster.yaml-{os.getpid()}"
        shutil.copyfile(shipped("dagster.yaml"), part)
        part.replace(target)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DEER_REID_DAGSTER_DATABASE_URL"] = dagster_url
    os.environ["DEER_REID_HOME"] = str(settings.home)
