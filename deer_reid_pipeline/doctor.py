"""Looks at an installation and says what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline import __version__
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from deer_reid_pipeline.steps.site import Site
    from deer_reid_pipeline.vision.recipe import Recipe
    from deer_reid_pipeline.vision.weights import WeightStore


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
    from deer_reid_pipeline.vision.catalog import RECIPE_NAMES

    settings = load_settings()
    database, site = _database(settings)
    live = None if site is None else _live_recipe(site)
    findings = [
        Finding("deer-reid", True, f"{__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"),
        _disk(settings),
        database,
        *_weights(settings, _recipe_in_use(settings, live)),
    ]
    if site is not None and live is not None and live.name not in RECIPE_NAMES:
        findings.append(_files_of(site, live))
    findings += [_device(settings), *_engine(settings), _detector(settings)]
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


def _database(settings: Settings) -> tuple[Finding, Site | None]:
    """The database, and the installation where one answers, however old its schema is."""
    from deer_reid_pipeline.steps.site import Site
    from deer_reid_pipeline.store.database import connect

    if settings.database_url is None and not (settings.home / "postgres").exists():
        return Finding("database", None, "none yet: `deer-reid init` or `deer-reid process FOLDER` makes it"), None
    site = None
    try:
        database = connect(settings)
        site = Site(settings, database)
        database.check_revision()
    except DeerReidError as error:
        return Finding("database", False, str(error)), site
    kind = "embedded" if settings.database_url is None else "external"
    return Finding("database", True, f"{kind}, {database.safe_url}, schema {database.revision()}"), site


def _live_recipe(site: Site) -> Recipe | None:
    """The live release's recipe; None in a new home, or where the database cannot say."""
    from sqlalchemy.exc import DBAPIError

    try:
        return site.live_recipe()
    except (DBAPIError, DeerReidError):
        return None  # the finding on the database says why


def _recipe_in_use(settings: Settings, live: Recipe | None) -> str:
    """The recipe whose weights must be here: the live one, unless another is asked for; else a new home's."""
    from deer_reid_pipeline.vision.recipe import base_name

    asked = "recipe" in settings.model_fields_set
    if live is None or (asked and settings.recipe != base_name(live.name)):
        return settings.recipe
    return live.name


def _weights(settings: Settings, in_use: str) -> list[Finding]:
    from deer_reid_pipeline.vision.catalog import RECIPE_NAMES, architectures

    store = _store(settings)
    findings = []
    for recipe in RECIPE_NAMES:
        try:
            refs = [store.resolve(arch) for arch in architectures(recipe)]
            findings.append(Finding(f"recipe {recipe}", True, ", ".join(ref.name for ref in refs)))
        except DeerReidError as error:
            detail = str(error).replace(" and downloading is switched off", "; it is fetched when first needed")
            findings.append(Finding(f"recipe {recipe}", False if recipe == in_use else None, detail))
    return findings


def _files_of(site: Site, live: Recipe) -> Finding:
    """Whether the files of a live recipe are here that is not a built-in one, and so is not made again."""
    what, store = f"recipe {live.id}", _store(site.settings)
    try:
        site.usable(live)
        for part in live.backbones.values():
            if part.weights.source in ("published", "declared") and not store.models.has(part.weights.sha256):
                found = store.resolve(part.arch)
                if found.sha256 != part.weights.sha256:
                    needs = f"needs {part.weights.name} with sha256 {part.weights.sha256}"
                    return Finding(what, False, f"{needs}, and {found.name} has {found.sha256}")
    except DeerReidError as error:
        return Finding(what, False, str(error))
    return Finding(what, True, f"live; its files are in {site.settings.models_dir}")


def _store(settings: Settings) -> WeightStore:
    from deer_reid_pipeline.vision.weights import WeightStore

    return WeightStore(settings.weight_search_dirs, settings.models_dir, offline=True, allow_random=False)


def _device(settings: Settings) -> Finding:
    from deer_reid_pipeline.vision.embedder import resolve_device

    try:
        return Finding("device", True, f"{settings.device} -> {resolve_device(settings.device)}")
    except DeerReidError as error:
        return Finding("device", False, str(error))


def _engine(settings: Settings) -> list[Finding]:
    """Of a cluster only; whether one answers is found out by using it."""
    if settings.engine == "local":
        return []
    from deer_reid_pipeline.scale_out.cluster import require_ray

    try:
        require_ray()
    except DeerReidError as error:
        return [Finding("engine", False, str(error))]
    return [Finding("engine", True, "ray: stored crops are embedded by a Ray cluster (docs/cluster.md)")]


def _detector(settings: Settings) -> Finding:
    from deer_reid_pipeline.vision.detectors import WholeFrame, open_detector

    try:
        name = open_detector(settings.detector, settings.weight_search_dirs).name
    except DeerReidError as error:
        return Finding("detector", False, str(error))
    if name == WholeFrame.name:
        return Finding("detector", None, "none: pictures without boxes count as one animal each")
    return Finding("detector", True, name)
