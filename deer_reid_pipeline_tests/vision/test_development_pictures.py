"""What only real pictures show: every one decodes, infrared is told apart, identity is above chance."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from deer_reid_pipeline.vision.catalog import build_recipe
from deer_reid_pipeline.vision.crops import cut_crops, decode_crop
from deer_reid_pipeline.vision.decode import inspect_image
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops

pytestmark = pytest.mark.data


def test_infrared_frames_are_told_from_day_frames(data_dir: Path) -> None:
    """38 of the 96 trail-camera frames are infrared, by eye and by `grey`; a daylight set has hardly any."""
    folder = data_dir / "whitetail"
    frames = (folder / "trail_camera_frames.txt").read_text(encoding="ascii").split()
    assert sum(inspect_image(folder / "images" / name).grey for name in frames) == 38
    nyala = sorted((data_dir / "nyala" / "images").iterdir())[:100]
    assert sum(inspect_image(path).grey for path in nyala) <= 2


def test_the_same_animal_is_more_alike_than_another(data_dir: Path, weights_dir: Path, tmp_path: Path) -> None:
    """ROC-AUC on same-flank pairs of different encounters: 0.70 on the whole set."""
    with (data_dir / "nyala" / "observations.csv").open(encoding="ascii") as stream:
        rows = [row for row in csv.DictReader(stream) if row["viewpoint"] == "left"][:100]
    store = WeightStore([weights_dir], tmp_path, offline=True)
    embedder = Embedder(build_recipe("mobile", store, lambda: draw_crops(8)), store, "cpu")
    crops = [decode_crop(cut_crops(data_dir / "nyala" / row["filePath"], [(0, 0, 1, 1)])[0]) for row in rows]
    vectors = embedder.embed(crops).vectors
    same = np.array([[a["individualID"] == b["individualID"] for b in rows] for a in rows])
    apart = np.array([[a["eventID"] != b["eventID"] for b in rows] for a in rows]) & np.triu(np.ones_like(same), 1)
    for name, values in vectors.items():
        cosines = values @ values.T
        genuine, impostor = cosines[same & apart], cosines[~same & apart]
        auc = (genuine[:, None] > impostor[None]).mean()
        assert auc > 0.58, name
