"""Looks at an installation and says what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from typing import Any

from deer_reid_pipeline import __version__
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.settings import Settings, load_settings


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ok True, False for a fault, None for something worth knowing."""

    what: str
    ok: bool | None
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at settings, disk, database, weights, device and detector. Changes nothing but starting the database.

    Raises:
        SettingsError: a setting is wrong, so that nothing else can be looked at.
    """
    settings = load_settings()
    database, live = _database(settings)
    findings = [
        Finding("deer-reid", True, f"{__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"),
        _disk(settings),
        database,
        *_weights(settings, _recipe_in_use(settings, live)),
        _device(settings),
        _detector(settings),
    ]
    if not settings.use_enhanced_reid:
        findings.append(Finding("USE_ENHANCED_REID", None, "false: matching uses the v1 column deer.feature_vector"))
    if settings.reid_threshold is not None:
        findings.append(Finding("REID_THRESHOLD", None, f"{settings.reid_threshold:g} overrides the release's"))
    return findings


def _disk(settings: Settings) -> Finding:
    probe = settings.home
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free / 2**30
    writable = os.access(probe, os.W_OK)
    detail = f"{settings.home}, {free:.1f} GiB free"
    if not writable:
        return Finding("home", False, f"{detail}, not writable: set DEER_REID_HOME")
    return Finding("home", free > 1.0, detail if free > 1.0 else f"{detail}: at least 1 GiB is needed")


def _database(settings: Settings) -> tuple[Finding, str | None]:
    """The database, and the name of the live release's recipe where there is one."""
    from deer_reid_pipeline.steps.site import Site
    from deer_reid_pipeline.store.database import connect

    if settings.database_url is None and not (settings.home / "postgres").exists():
        return Finding("database", None, "none yet: `deer-reid init` or `deer-reid process FOLDER` makes it"), None
    try:
        database = connect(settings)
        database.check_revision()
        live = Site(settings, database).live_recipe_name()
    except DeerReidError as error:
        return Finding("database", False, str(error)), None
    kind = "embedded" if settings.database_url is None else "external"
    return Finding("database", True, f"{kind}, {database.safe_url}, schema {database.revision()}"), live


def _recipe_in_use(settings: Settings, live: str | None) -> str:
    """The recipe whose weights must be here: the one that is asked for, else the live one, else a new home's."""
    return settings.recipe if live is None or "recipe" in settings.model_fields_set else live


def _weights(settings: Settings, in_use: str) -> list[Finding]:
    from deer_reid_pipeline.vision.catalog import RECIPE_NAMES, architectures
    from deer_reid_pipeline.vision.weights import WeightStore

    store = WeightStore(settings.weight_search_dirs, settings.models_dir, offline=True, allow_random=False)
    findings = []
    for recipe in RECIPE_NAMES:
        try:
            refs = [store.resolve(arch) for arch in architectures(recipe)]
            findings.append(Finding(f"recipe {recipe}", True, ", ".join(ref.name for ref in refs)))
        except DeerReidError as error:
            detail = str(error).replace(" and downloading is switched off", "; it is fetched when first needed")
            findings.append(Finding(f"recipe {recipe}", False if recipe == in_use else None, detail))
    return findings


def _device(settings: Settings) -> Finding:
    from deer_reid_pipeline.vision.embedder import resolve_device

    try:
        return Finding("device", True, f"{settings.device} -> {resolve_device(settings.device)}")
    except DeerReidError as error:
        return Finding("device", False, str(error))


def _detector(settings: Settings) -> Finding:
    from deer_reid_pipeline.vision.detectors import WholeFrame, open_detector

    try:
        name = open_detector(settings.detector, settings.weight_search_dirs).name
    except DeerReidError as error:
        return Finding("detector", False, str(error))
    if name == WholeFrame.name:
        return Finding("detector", None, "none: pictures without boxes count as one animal each")
    return Finding("detector", True, name)
