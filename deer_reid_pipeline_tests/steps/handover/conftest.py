"""A home with everything that is hard to hand over, and its packages, made once.

Vectors are made up, so that no network is needed: how alike two detections are is written in their events.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.handover.export import ExportReport, export_package
from deer_reid_pipeline.steps.handover.package import Choices
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Matcher, Site
from deer_reid_pipeline.steps.summary import finish_drop
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.deployments import Place, put_deployments
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline.store.media import detections_without_vectors
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.store.releases import add_first_release, live_release
from deer_reid_pipeline.store.reviews import PairReview, add_reviews
from deer_reid_pipeline.store.vectors import put_embeddings
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline_tests.coats import striped
from deer_reid_pipeline_tests.sites import query, run_sql, settings_for, write_table
from deer_reid_pipeline_tests.vision.test_recipe import data as recipe_data

LATITUDE, LONGITUDE = 51.5678912, -7.1234567
"""Where the camera of the home stands."""

PLACE = "Oak of the far meadow"
NAMES = ("=HYPERLINK(1)", 'O"Neil, the "old" one', "B\u00e4r \u9e7f | x", "-12")
"""What individuals are called by the tables of the home."""

LINES = '=1+1\n"two", \r\nlines\\ '
"""What one is called in the database of the owner, where a name may hold anything."""

POLICY = MatchPolicy(threshold=0.9, new_below=0.3)
NAMED, SEEN, DOUBTFUL = 98, 97, 60
"""Cosine to the animal's own direction, in hundredths: a person's, one that is matched, one that stays uncertain."""


@dataclass
class Source:
    """The home, and the folder that holds its drops."""

    site: Site
    drops: Path


@pytest.fixture(scope="module")
def fresh_site(
    server: EmbeddedServer, migrated_template: str, make_home: Callable[[], Path]
) -> Iterator[Callable[[], Site]]:
    """Makes installations on fresh databases."""
    made: list[Site] = []

    def make() -> Site:
        name = f"handover_{uuid.uuid4().hex}"
        run_sql(server.url("postgres"), f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
        made.append(Site(settings_for(make_home()), Database(server.url(name), server=server)))
        return made[-1]

    yield make
    for site in made:
        site.database.close()


def process(site: Site, folder: Path) -> str:
    """Every step of a drop, with made-up vectors of a made-up recipe."""
    recipe = Recipe.from_json(recipe_data())
    with site.database.session() as session:
        register_recipe(session, recipe.id, recipe.name, recipe.to_json(), False)
        release = live_release(session) or add_first_release(session, recipe.id, POLICY, "first\nof 'all'", "somebody")
        matcher = Matcher(recipe, POLICY, release.id, ())
    key = register_drop(site, folder, "none").key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    make_up_vectors(site, recipe, key)
    match_drop(site, matcher, key)
    update_profiles(site, recipe)
    finish_drop(site, key)
    return key


def make_up_vectors(site: Site, recipe: Recipe, key: str) -> None:
    """Vectors of the detections of a drop that lack them: events are called `animal/hundredths/...`."""
    with site.database.session() as session:
        todo = detections_without_vectors(session, recipe.id, BRANCHES, drop_key=key)
        if not todo:
            return
        events = {
            detection: event or "stranger/98"
            for detection, event in query(
                site, "SELECT d.id, i.event_id FROM detections d JOIN images i ON i.id = d.image_id"
            )
        }
        rows = []
        for detection in todo:
            animal, hundredths = events[detection].split("/")[:2]
            cosine = int(hundredths) / 100
            rows.append(cosine * _direction(animal) + np.sqrt(1 - cosine**2) * _direction(str(detection)))
        matrix = np.array(rows, dtype=np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        put_embeddings(session, recipe.id, todo, dict.fromkeys(BRANCHES, matrix))


def _direction(name: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=512)
    return vector / np.linalg.norm(vector)


def drop_of(folder: Path, events: list[tuple[int, int, bool]], start: int) -> list[dict[str, str]]:
    """Two pictures of each (animal, hundredths, named), half of which say where they were taken."""
    (folder / "CAM 1").mkdir(parents=True)
    rows = []
    for number, (animal, hundredths, named) in enumerate(events, start=start):
        for shot in range(2):
            name = f"CAM 1/IMG_{number:02d}_{shot}.jpg"
            Image.fromarray(striped(number, shot)).save(folder / name, quality=95)
            if shot:
                tell_position(folder / name)
            rows.append(
                {
                    "filePath": name,
                    "individualID": NAMES[animal] if named else "",
                    "eventID": f"a{animal}/{hundredths}/{number}",
                    "viewpoint": "left",
                    "sex": "male" if animal % 2 else "",
                    "lifeStage": "adult" if named else "",
                    "timestamp": f"2026-01-{number + 1:02d}T06:00:0{shot}.25",
                    "deploymentID": f"CAM{number % 2}",
                    "bboxX": "0.1234567891",
                    "bboxY": "0.2",
                    "bboxWidth": "0.333333333333",
                    "bboxHeight": "0.5",
                }
            )
    write_table(folder, rows)
    return rows


@pytest.fixture(scope="module")
def source(fresh_site: Callable[[], Site], tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Two drops: named, matched, new and uncertain encounters, corrected names, quarantine, reviews, places."""
    site = fresh_site()
    drops = tmp_path_factory.mktemp("drops")
    first = drops / "first drop"
    rows = drop_of(first, [(0, NAMED, True), (1, NAMED, True), (2, NAMED, True), (0, SEEN, False)], 0)
    (first / "broken.jpg").write_text("no picture")
    process(site, first)
    second = drops / "second"
    drop_of(second, [(1, SEEN, False), (2, DOUBTFUL, False), (9, SEEN, False), (3, NAMED, True)], 10)
    shutil.copyfile(first / "CAM 1" / "IMG_00_0.jpg", second / "copy of one.jpg")
    Image.fromarray(striped(50, 0)).save(second / "plain.png")
    process(site, second)
    for row in rows[-2:]:  # the machine said that it is the first one
        row["individualID"] = NAMES[1]
    write_table(first, rows)
    process(site, first)
    with site.database.session() as session:
        put_deployments(session, [Place(name, PLACE, LATITUDE, LONGITUDE) for name in ("CAM0", "CAM1", "unused")])
        a, b, c = [key for (key,) in query(site, "SELECT id FROM detections ORDER BY id LIMIT 3")]
        moment = datetime(2026, 1, 5, 10, 0, 0, 123456, UTC)
        add_reviews(
            session,
            [PairReview(a, b, "same", 'R "1",\n', moment, "r.csv"), PairReview(b, c, "unsure", "R2", moment, "r.csv")],
        )
    query(site, "UPDATE deer SET name = :name WHERE name = :old RETURNING 1", name=LINES, old=NAMES[3])
    query(
        site,
        "UPDATE images SET deployment_id = '', exif_data = CAST(:exif AS json) WHERE filename = 'plain.png' "
        "RETURNING 1",
        exif=f'{{"GPSLatitude": {LATITUDE},  "GPSLongitude": {LONGITUDE}}}',
    )
    return Source(site, drops)


def tell_position(path: Path) -> None:
    """Let a picture say where it was taken: in EXIF, in XMP and in a comment."""
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 1
        exif[0x010F] = f"maker {LATITUDE}"
        exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2], gps[3], gps[4] = "N", (51.0, 34.0, 4.40832), "W", (7.0, 7.0, 24.44412)
        image.save(
            path,
            quality=95,
            exif=exif,
            xmp=f'<x exif:GPSLatitude="{LATITUDE}" exif:GPSLongitude="{LONGITUDE}"/>'.encode(),
            comment=f"{LATITUDE},{LONGITUDE}".encode(),
        )


@pytest.fixture(scope="module")
def package(source: Source, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """The home without places and files."""
    return export_package(source.site, tmp_path_factory.mktemp("plain") / "package", Choices())


@pytest.fixture(scope="module")
def with_files(source: Source, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """The home with files, without places."""
    return export_package(source.site, tmp_path_factory.mktemp("files") / "package", Choices(files=True))


@pytest.fixture(scope="module")
def empty(fresh_site: Callable[[], Site]) -> Site:
    """An empty home that stays empty, for imports that are refused."""
    return fresh_site()
