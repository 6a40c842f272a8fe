"""The measuring itself: its figures belong together, and its loop gives the vectors that it is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deer_reid_pipeline.vision.crops import encode_crop, open_for_crop
from deer_reid_pipeline.vision.decode import ImageError, decode_image
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.engine.measuring import PlainLoop, measure_speed, peak_mib
from deer_reid_pipeline.vision.engine.options import Choice
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops


@pytest.fixture
def embedder(small_recipe: Recipe, small_store: WeightStore) -> Embedder:
    return Embedder(small_recipe, small_store, "cpu")


def stored(folder: Path, count: int) -> list[Job[int]]:
    jobs = []
    for number, crop in enumerate(draw_crops(count)):
        path = folder / f"{number}.jpg"
        path.write_bytes(encode_crop(crop))
        jobs.append(Job(number, path))
    return jobs


def test_figures_of_one_run_belong_together(embedder: Embedder, tmp_path: Path) -> None:
    embedder.use({"main": Choice("torch", "float32")})
    found = measure_speed(embedder, stored(tmp_path, 12), batch=4, rounds=1, loop_crops=3)
    stages = found.stages
    assert set(stages) == {"decode", "forward", "engine", "loop"}
    assert min(stages.values()) > 0
    assert found.floor == pytest.approx(12 / (stages["decode"] + stages["forward"]))
    assert found.engine_vs_floor == pytest.approx(found.engine / found.floor)
    assert found.engine_vs_loop == pytest.approx(found.engine / found.loop)
    assert (found.crops, found.batch, found.loop_crops) == (12, 4, 3)
    assert found.plan == {"main": "torch float32"}
    assert 0.9999 <= found.cosine_min <= 1.00001
    assert 10 < found.peak_mib <= peak_mib()
    assert json.loads(json.dumps(found.to_json()))["machine"]["torch"]


def test_the_loop_gives_the_vectors_of_the_embedder(embedder: Embedder, tmp_path: Path) -> None:
    for job in stored(tmp_path, 3):
        assert isinstance(job.source, Path)
        expected = embedder.embed([decode_image(job.source)]).vectors
        for name, values in PlainLoop(embedder).embed(job).items():
            assert float(values[0] @ expected[name][0]) >= 0.9999


def test_a_picture_is_decoded_as_small_as_its_crop_allows(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(np.tile(draw_crops(1)[0], (20, 20, 1))[:1200, :1600]).save(path)
    assert open_for_crop(path, (0.0, 0.0, 1.0, 1.0)).size == (800, 600)
    assert open_for_crop(path, (0.0, 0.0, 0.3, 0.3)).size == (1600, 1200)


def test_pictures_that_cannot_be_read_are_errors(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        measure_speed(embedder, [])
    jobs = stored(tmp_path, 20)
    (tmp_path / "19.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError):
        measure_speed(embedder, jobs, batch=16, rounds=1, loop_crops=1)


def test_no_more_crops_than_the_limit_go_through_at_once(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card the limit is what the memory budget holds, whatever the benchmark's batch is."""
    network, sizes = embedder.trunks["main"].network, []
    forward = network.forward_taps
    monkeypatch.setattr(network, "forward_taps", lambda x, layers: (sizes.append(len(x)), forward(x, layers))[1])
    embedder.limit.crops = 3
    measure_speed(embedder, stored(tmp_path, 7), batch=5, rounds=1, loop_crops=1)
    assert max(sizes) == 3
