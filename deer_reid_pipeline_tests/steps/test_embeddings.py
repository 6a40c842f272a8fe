"""Embedding what is stored: by the engine, a transaction a batch, and a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.progress import listening
from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.steps import embeddings
from deer_reid_pipeline.steps.background_control import control_recipe
from deer_reid_pipeline.steps.contact_sheets import SheetItem, draw_sheet
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.embed_folder import embed_folder
from deer_reid_pipeline.steps.embeddings import embed_detections, embed_drop, load_crops
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.policies import first_policy
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.checks import vectors_of_drop
from deer_reid_pipeline.store.media import detections_without_vectors
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.store.releases import add_first_release
from deer_reid_pipeline.vision.background import BackgroundSpec
from deer_reid_pipeline.vision.crops import CropSpec, cut_crops
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.engine.options import PLAIN
from deer_reid_pipeline.vision.recipe import Recipe, RecipeError
from deer_reid_pipeline_tests.sites import query, run_all, settings_for


@pytest.fixture
def drop(site: Site, herd: Path) -> str:
    """A drawn herd with its crops cut, in batches of four, and nothing embedded."""
    site.settings.batch_size = 4
    key = register_drop(site, herd, "auto").key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    return key


def vectors(site: Site) -> int:
    return int(query(site, "SELECT count(*) FROM embeddings")[0][0])


def test_stored_vectors_are_those_of_the_stored_crops(site: Site, drop: str) -> None:
    recipe = site.matcher().recipe
    told: list[tuple[int, int]] = []
    said: list[str] = []
    with listening(lambda step, done, total: told.append((done, total))):
        report = embed_drop(site, recipe, drop, said.append)
    total = report.embedded
    assert vectors(site) == total * len(BRANCHES) > 0
    assert [done for done, _ in told] == [min(total, 4 * turn) for turn in range(1, -(-total // 4) + 1)]
    assert len(said) == len(told)
    ids = [row[0] for row in query(site, "SELECT DISTINCT detection_id FROM embeddings ORDER BY 1 LIMIT 3")]
    found, crops = load_crops(site, recipe, ids)
    embedder = site.embedder(recipe)
    assert dict(embedder.plan) == dict.fromkeys(embedder.trunks, PLAIN), "so little work is not measured for"
    expected = embedder.embed(crops).vectors
    rows = query(site, "SELECT detection_id, branch, vector FROM embeddings")
    stored = {(row[0], row[1]): np.array(json.loads(row[2])) for row in rows}
    for name in BRANCHES:
        for key, vector in zip(found, expected[name], strict=True):
            assert float(stored[key, name] @ vector) >= 0.9999


def older_release(site: Site) -> Recipe:
    """The live recipe of a home that an earlier version made, which shrunk crops otherwise."""
    older = site.build_recipe("lite").model_copy(update={"crop": CropSpec(shrinking="lanczos").id})
    with site.database.session() as session:
        register_recipe(session, older.id, older.name, older.to_json(), older.random_weights)
        add_first_release(session, older.id, first_policy(older), "made by an earlier version", None)
    return older


def test_a_release_keeps_the_crops_that_its_recipe_reads(site: Site, herd: Path) -> None:
    """A home whose live recipe was made when crops were cut otherwise; one beside it reads crops of its own."""
    newer = site.build_recipe("lite")
    older = older_release(site)
    key, summary = run_all(site, herd)
    assert summary.encounters == summary.matched + summary.new + summary.uncertain > 0
    by_spec = "SELECT spec_id, count(*) FROM detection_crops GROUP BY spec_id ORDER BY spec_id"
    count = summary.detections
    assert query(site, by_spec) == [(older.crop, count)]
    assert draw_sheet(site, [SheetItem(row[0], "") for row in query(site, "SELECT id FROM detections LIMIT 3")])
    assert embed_drop(site, newer, key).embedded == count
    assert query(site, by_spec) == [(older.crop, count), (newer.crop, count)]
    assert site.crop_spec() == CropSpec(shrinking="lanczos"), "what is live decides"
    assert site.recipe("lite").id == older.id == site.matcher().recipe.id, "built-in recipes keep to it"
    assert control_recipe(older).crop == BackgroundSpec(shrinking="lanczos").id == "background-m75-b5-r80-s512-q95"
    for branch in older.branches.values():
        (site.settings.models_dir / f"{branch.projection.sha256}.safetensors").unlink()
    assert site.usable(older) == older, "and can be made again"


def test_a_crop_is_stored_as_the_live_recipe_reads_it(site: Site, tmp_path: Path) -> None:
    older = older_release(site)
    picture = tmp_path / "drop" / "large.jpg"
    picture.parent.mkdir()
    Image.effect_noise((900, 700), 60).convert("RGB").save(picture)
    key, _ = run_all(site, picture.parent)
    (stored,) = (site.settings.crops_dir / row[0] for row in query(site, "SELECT file FROM detection_crops"))
    (old,), (new,) = (cut_crops(picture, [(0.0, 0.0, 1.0, 1.0)], spec) for spec in (older.crop_spec, CropSpec()))
    assert stored.read_bytes() == old != new
    home = settings_for(site.settings.home, database_url=site.database.url)
    assert embed_folder(home, picture.parent, tmp_path / "v.parquet", None, "auto").recipe == older.id
    with site.database.session() as session:
        ((_, stored_vector),) = vectors_of_drop(session, older.id, "multiscale", key)
    (embedded,) = pq.read_table(tmp_path / "v.parquet").column("multiscale").to_pylist()
    assert float(stored_vector @ np.array(embedded)) >= 0.9999


def test_a_recipe_of_crops_that_nobody_knows_is_an_error(site: Site) -> None:
    recipe = site.build_recipe("lite")
    with pytest.raises(RecipeError, match=r"cannot cut .no crop specification has the id 'm05-s512-q95-box'"):
        site.usable(recipe.model_copy(update={"crop": "m05-s512-q95-box"}))


def test_a_run_that_dies_loses_only_what_was_under_way(site: Site, drop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = site.matcher().recipe
    with site.database.session() as session:
        todo = detections_without_vectors(session, recipe.id, BRANCHES, drop_key=drop)
    embedder = site.embedder(recipe)
    whole, calls = embedder.embed_prepared, []

    def failing(crops: list[tuple[Pixels, ...]]) -> object:
        calls.append(len(crops))
        if len(calls) == 3:
            raise DeerReidError("the third batch fails")
        return whole(crops)

    monkeypatch.setattr(embedder, "embed_prepared", failing)
    with pytest.raises(DeerReidError, match="third batch"):
        embed_detections(site, recipe, todo)
    assert vectors(site) == 8 * len(BRANCHES), "both batches before it are stored"
    monkeypatch.setattr(embedder, "embed_prepared", whole)
    report = embed_drop(site, recipe, drop)
    assert report.embedded == len(todo) - 8
    assert vectors(site) == len(todo) * len(BRANCHES)


def test_crops_that_are_lost_are_counted_and_cut_again_where_that_can_be(
    site: Site, drop: str, herd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = site.matcher().recipe
    with site.database.session() as session:
        todo = detections_without_vectors(session, recipe.id, BRANCHES, drop_key=drop)
    files = {row[0]: row[1] for row in query(site, "SELECT detection_id, file FROM detection_crops")}
    damaged, gone = (site.settings.crops_dir / files[key] for key in todo[:2])
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    gone.unlink()
    of_the_gone = "SELECT path FROM images WHERE id = (SELECT image_id FROM detections WHERE id = :id)"
    picture = Path(query(site, of_the_gone, id=todo[1])[0][0])
    away = picture.with_suffix(".away")
    told: list[int] = []
    picture.rename(away)
    try:
        with listening(lambda step, done, total: told.append(done)):
            report = embed_detections(site, recipe, todo, step="embeddings")
    finally:
        away.rename(picture)
    lost = len(todo) - report.embedded
    assert lost == report.without_crop >= 1
    assert told[-1] == len(todo)
    assert damaged.read_bytes() == whole
    assert embeddings.embed_drop(site, recipe, drop).embedded == lost


def test_nothing_to_do_loads_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Site, "embedder", lambda *_: pytest.fail("a model was loaded"))
    assert embed_detections(site, site.matcher().recipe, []).embedded == 0
