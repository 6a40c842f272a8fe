"""Drops of striped coats, one animal a picture, and homes in which a recipe was fine-tuned on them.

Coats are cheap to draw, and an animal can be learned from its stripes.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.training import train_model
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline_tests.sites import query, run_all, run_sql, settings_for, write_table

SHORT = TrainingConfig(
    epochs=1, folds=2, width=64, height=64, classes_per_batch=8, pictures_per_class=2, last_stride=2, second=False
)
"""A training that takes seconds."""


def striped(individual: int, encounter: int) -> np.ndarray:
    """uint8 [80, 96, 3]: width and slope of the stripes are the animal's, light and colour the encounter's."""
    rng = np.random.default_rng((individual, encounter))
    y, x = np.mgrid[0:80, 0:96]
    phase = (x + (individual % 5) * y / 8) * (0.15 + 0.06 * individual) + rng.uniform(0, 6)
    grey = 110 + 70 * np.sin(phase) + rng.normal(0, 6, (80, 96))
    tint = rng.uniform(0.7, 1.2, 3)
    return np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8)


def drop_of_coats(folder: Path, individuals: int, encounters: int, first: int = 0) -> Path:
    """A folder of pictures with the table that names their animals.

    Args:
        first: number of the first encounter, so that a second drop shows other ones.
    """
    folder.mkdir(parents=True)
    rows = []
    for who in range(individuals):
        for when in range(first, first + encounters):
            name = f"c{who:02d}_{when:02d}.jpg"
            Image.fromarray(striped(who, when)).save(folder / name, quality=95)
            event = f"e{who:02d}-{when:02d}"
            rows.append({"filePath": name, "individualID": f"C{who:02d}", "eventID": event, "viewpoint": "left"})
    write_table(folder, rows)
    return folder


class Homes:
    """Homes that tests get copies of: what is in them takes a while to make."""

    def __init__(self, server: EmbeddedServer, make_home: Callable[[], Path], models: Path, pictures: Path) -> None:
        self._server, self._make_home = server, make_home
        self.named = self._fresh("migrated")
        shutil.copytree(models, self.named.settings.home / "models")
        run_all(self.named, drop_of_coats(pictures, 24, 3))
        self.named.database.close()
        self._trained: Site | None = None

    def copy(self, of: Site) -> Site:
        """A home of one's own with the same content."""
        made = self._fresh(of.database.url.rsplit("/", 1)[-1].split("?")[0])
        shutil.copytree(of.settings.home, made.settings.home, dirs_exist_ok=True)
        return made

    @property
    def trained(self) -> Site:
        """A home with a fine-tuned recipe, under which nothing is embedded yet."""
        if self._trained is None:
            self._trained = self.copy(self.named)
            train_model(self._trained, SHORT)
            self._trained.database.close()
        return self._trained

    def _fresh(self, template: str) -> Site:
        name = f"coats_{uuid.uuid4().hex}"
        run_sql(self._server.url("postgres"), f"CREATE DATABASE {name} TEMPLATE {template}")
        return Site(settings_for(self._make_home()), Database(self._server.url(name), server=self._server))


def trained_id(site: Site) -> str:
    """Id of the one fine-tuned recipe of a home."""
    (row,) = query(site, "SELECT id FROM recipes WHERE training IS NOT NULL")
    return str(row.id)
