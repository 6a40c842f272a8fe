"""Whose standard output it is while a cluster embeds. Ray is a stand-in that prints, as Ray does; none is needed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from deer_reid_pipeline.scale_out import stream
from deer_reid_pipeline.scale_out.cluster import Node
from deer_reid_pipeline.scale_out.stream import embed_on_cluster
from deer_reid_pipeline.scale_out.worker import SECONDS
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.recipe import BRANCHES, DIMENSION, Recipe
from deer_reid_pipeline.vision.weights import WeightStore


class PrintingData:
    """Ray Data that says something before each of its tables, of one crop each."""

    def __init__(self, crops: int) -> None:
        self.crops = crops

    def iter_batches(self, **_: object) -> Iterator[dict[str, Any]]:
        for number in range(self.crops):
            print("Ray has something to say")
            none = np.array([""], dtype=object)
            part: dict[str, Any] = {"number": np.array([number]), "node": none, "code": none, "trouble": none}
            for branch in BRANCHES:
                part[branch] = np.ones((1, DIMENSION), np.float32)
                part[SECONDS + branch] = np.zeros(1)
            yield part


def test_ray_speaks_to_standard_error_and_whoever_takes_the_batches_to_standard_output(
    recipe: Recipe, store: WeightStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray, data, exceptions = ModuleType("ray"), ModuleType("ray.data"), ModuleType("ray.data.exceptions")
    ray.put = lambda parcel: parcel  # type: ignore[attr-defined]
    exceptions.ExecutionTimeoutError = TimeoutError  # type: ignore[attr-defined]
    for module in (ray, data, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def pipeline(jobs: list[Job[int]], *_: object) -> PrintingData:
        print("Ray starts")
        return PrintingData(len(jobs))

    monkeypatch.setattr(stream, "connect", lambda: None)
    monkeypatch.setattr(stream, "cluster_nodes", lambda cards: [Node("a", 1)])
    monkeypatch.setattr(stream, "_pipeline", pipeline)
    for batch in embed_on_cluster(recipe, store, [Job(n, Path(f"{n}.jpg")) for n in range(2)], 16):
        print(f"crop {batch.keys[0]}")
    said = capsys.readouterr()
    assert said.out == "crop 0\ncrop 1\n"
    assert said.err == "Ray starts\nRay has something to say\nRay has something to say\n"


def test_only_what_ray_itself_says_on_the_console_is_silenced() -> None:
    """A logger that does not hand on its lines is given the handlers of others, which our own lines go through too."""
    logger = logging.getLogger("ray.data")
    own = type("PlainRayHandler", (logging.StreamHandler,), {"__module__": "ray._private.log"})()
    others = logging.StreamHandler()
    before = logger.handlers[:]
    try:
        logger.handlers = [own, others]
        stream._quiet()
        assert (own.level, others.level) == (logging.CRITICAL, logging.NOTSET)
    finally:
        logger.handlers = before
