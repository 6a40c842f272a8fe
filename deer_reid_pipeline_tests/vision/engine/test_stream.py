"""Streams: every crop once and in order, failures in their place, and memory bounded by the work ahead."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deer_reid_pipeline.vision.crops import cut_crops, decode_crop, encode_crop
from deer_reid_pipeline.vision.decode import ImageError, Pixels
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine.loading import Job, in_order, load_crop
from deer_reid_pipeline.vision.engine.stream import AHEAD, Loaded, embed_jobs, embed_stream
from deer_reid_pipeline.vision.recipe import BRANCHES, Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops


@pytest.fixture(scope="module")
def embedder(small_recipe: Recipe, small_store: WeightStore) -> Embedder:
    return Embedder(small_recipe, small_store, "cpu")


def test_results_keep_their_order_and_little_is_drawn_ahead() -> None:
    drawn: list[int] = []
    handed_out: list[int] = []
    ahead: list[int] = []

    def source() -> Iterator[int]:
        for number in range(50):
            drawn.append(number)
            ahead.append(len(drawn) - len(handed_out))
            yield number

    def work(number: int) -> int:
        time.sleep(0.002 if number % 3 else 0.0)
        return number * number

    with ThreadPoolExecutor(4) as pool:
        for result in in_order(pool, work, source(), ahead=7):
            handed_out.append(result)
    assert handed_out == [number * number for number in range(50)]
    assert max(ahead) == 7


def test_an_error_comes_out_in_its_place_and_a_stream_may_be_left() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise KeyError("third")
        return number

    with ThreadPoolExecutor(2) as pool:
        found = in_order(pool, work, range(10), ahead=5)
        assert [next(found) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError, match="third"):
            next(found)
        endless = in_order(pool, work, iter(int, 1), ahead=2)
        assert next(endless) == 0
        endless.close()


def test_a_stream_gives_the_vectors_of_one_call(embedder: Embedder, tmp_path: Path) -> None:
    crops = draw_crops(23)
    jobs: list[Job[int]] = []
    for number, crop in enumerate(crops):
        content = encode_crop(crop)
        (tmp_path / f"{number}.jpg").write_bytes(content)
        source: Path | bytes = content if number % 2 else tmp_path / f"{number}.jpg"
        jobs.append(Job(number, source, sha256=hashlib.sha256(content).hexdigest()))
    batches = list(embed_jobs(embedder, iter(jobs), 10))
    assert [len(batch.keys) for batch in batches] == [10, 10, 3]
    assert [batch.taken for batch in batches] == [10, 20, 23]
    assert [key for batch in batches for key in batch.keys] == list(range(23))
    expected = embedder.embed([decode_crop(encode_crop(crop)) for crop in crops]).vectors
    for name in BRANCHES:
        found = np.concatenate([batch.made.vectors[name] for batch in batches])
        assert (found * expected[name]).sum(axis=1).min() >= 0.9999
    assert list(embed_jobs(embedder, [], 10)) == []


def test_a_box_gives_the_crop_that_would_be_stored(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(np.tile(draw_crops(1)[0], (20, 20, 1))).save(path)
    box = (0.1, 0.2, 0.6, 0.5)
    (batch,) = embed_jobs(embedder, [Job("one", path, box)], 8)
    stored = cut_crops(path, [box])[0]
    assert (load_crop(Job("one", path, box)) == decode_crop(stored)).all()
    expected = embedder.embed([decode_crop(stored)]).vectors["baseline"]
    assert (batch.made.vectors["baseline"] == expected).all()
    with pytest.raises(ValueError, match="out of a picture file"):
        load_crop(Job("one", b"", box))


def test_what_cannot_be_loaded_is_told_apart_and_stops_nothing(embedder: Embedder, tmp_path: Path) -> None:
    good = encode_crop(draw_crops(1)[0])
    jobs = [
        Job("good", good),
        Job("gone", tmp_path / "gone.jpg"),
        Job("cut short", good[:300]),
        Job("another", good, sha256="0" * 64),
        Job("good too", good),
    ]
    (batch,) = embed_jobs(embedder, jobs, 8)
    assert batch.keys == ["good", "good too"]
    assert [(key, type(error)) for key, error in batch.failed] == [
        ("gone", FileNotFoundError),
        ("cut short", ImageError),
        ("another", ImageError),
    ]
    (alone,) = embed_jobs(embedder, jobs[1:2], 8)
    assert (alone.keys, len(alone.failed), alone.taken) == ([], 1, 1)
    assert alone.made.vectors["baseline"].shape == (0, 512)


def test_items_with_several_crops_or_none_fill_the_same_batches(embedder: Embedder) -> None:
    crops = draw_crops(5)

    def load(item: int) -> Loaded[tuple[int, int]]:
        return [((item, number), crops[number]) for number in range(item)]

    batches = list(embed_stream(embedder, [3, 0, 4, 1, 0], load, 5))
    assert [batch.keys for batch in batches] == [
        [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1)],
        [(4, 2), (4, 3), (1, 0)],
    ]
    assert batches[-1].taken == 5


def test_errors_that_are_bugs_stop_the_stream(embedder: Embedder, tmp_path: Path) -> None:
    def load(item: int) -> Loaded[int]:
        raise ZeroDivisionError("bug")

    with pytest.raises(ZeroDivisionError):
        list(embed_stream(embedder, [1], load, 4))
    with pytest.raises(ValueError, match="lies outside"):
        list(embed_jobs(embedder, [Job(1, _noise(tmp_path / "noise.jpg"), (2.0, 0.0, 0.5, 0.5))], 4))


def test_no_more_is_held_than_the_batches_ahead(embedder: Embedder) -> None:
    """However long the stream: crops loaded and not yet handed out are counted."""
    lock = threading.Lock()
    held = {"now": 0, "most": 0}
    crop = draw_crops(1)[0]

    def load(item: int) -> Loaded[int]:
        with lock:
            held["now"] += 1
            held["most"] = max(held["most"], held["now"])
        return [(item, crop)]

    for batch in embed_stream(embedder, range(400), load, 8, workers=3):
        with lock:
            held["now"] -= len(batch.keys)
        time.sleep(0.001)
    assert held["now"] == 0
    assert held["most"] <= AHEAD * 8 + 4 * 8


def _noise(path: Path) -> Path:
    noise: Pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    return path
