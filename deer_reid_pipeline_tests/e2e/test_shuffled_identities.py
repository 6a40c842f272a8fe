"""A training on wrong identities must come out as one: no better than chance, and refused."""

from __future__ import annotations

import csv
import os
import random
import shutil
from pathlib import Path

import pytest

from deer_reid_pipeline.steps.finetuned import embed_finetuned, propose_finetuned
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.training import train_model
from deer_reid_pipeline.steps.validation import validate
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline_tests.sites import run_all, write_table

QUICK = TrainingConfig(epochs=3, folds=2, width=128, height=96, views=1, last_stride=2, second=False)


@pytest.fixture
def shuffled(tmp_path: Path) -> Path:
    """The development pictures, the names of whole encounters exchanged at random."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    source = Path(os.environ.get("DEER_REID_DATA") or default) / "nyala"
    if not (source / "observations.csv").is_file():
        pytest.skip(f"no development pictures in {source}; set DEER_REID_DATA")
    folder = tmp_path / "shuffled"
    shutil.copytree(source, folder)
    with (source / "observations.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    name = {row["eventID"]: row["individualID"] for row in rows}
    names = list(name.values())
    random.Random(7).shuffle(names)
    given = dict(zip(name, names, strict=True))
    write_table(folder, [{**row, "individualID": given[row["eventID"]]} for row in rows])
    return folder


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_training_on_exchanged_identities_reaches_chance_and_is_refused(site: Site, shuffled: Path) -> None:
    run_all(site, shuffled)
    recipe = train_model(site, QUICK).recipe.id
    embed_finetuned(site, recipe)
    proposed = propose_finetuned(site, recipe)
    assert proposed.candidate is not None
    judged = validate(site, candidate=proposed.candidate, control=False)
    assert judged.verdict.verdict in ("FAIL", "INCONCLUSIVE")
    area = judged.metrics["roc_auc"]
    assert area.low < 0.5 < area.high, area
