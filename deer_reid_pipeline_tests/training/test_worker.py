"""A training's process: it keeps to the memory budget of the card, and how many run beside it changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deer_reid_pipeline.training import runs, trainer, worker
from deer_reid_pipeline.training.crop_cache import make_cache
from deer_reid_pipeline.training.dataset import TrainingSet
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.plan import PLAN, Plan, read_plan
from deer_reid_pipeline.vision import embedder
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.training.conftest import TINY, coats
from deer_reid_pipeline_tests.vision.conftest import make_small_recipe, save_stand_in
from deer_reid_pipeline_tests.vision.engine.card import CountedCard


@pytest.fixture
def plan(herd: TrainingSet, tmp_path: Path) -> Plan:
    save_stand_in(tmp_path / "weights", "mobilenet_v2")
    store = WeightStore([tmp_path / "weights"], tmp_path / "models", offline=True)
    recipe = make_small_recipe(store)
    starts = {None: recipe, 0: recipe, 1: recipe}
    return Plan(TINY, herd, starts, (str(tmp_path / "weights"),), str(tmp_path / "models"), "cpu")


@pytest.mark.parametrize(("vram_mb", "cap"), [(9000, 9000), (None, 12000)])
def test_a_training_is_kept_to_the_budget_before_it_begins_and_says_what_to_do_where_that_is_too_little(
    plan: Plan, herd: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vram_mb: int | None, cap: int
) -> None:
    make_cache(tmp_path / "run", coats(herd), 96)
    card = CountedCard(monkeypatch)
    caps: list[int] = []

    def full(*given: object, **named: object) -> None:
        caps.append(card.cap)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(embedder, "resolve_device", lambda name: torch.device(name))
    monkeypatch.setattr(trainer, "Trainer", full)
    on_card = replace(plan, device="cuda:0", vram_mb=vram_mb)
    with pytest.raises(TrainingError, match=r"does not hold this training: allow more \(DEER_REID_VRAM_MB\)"):
        worker.train(on_card, on_card.jobs()[0], tmp_path / "run")
    assert caps == [cap]


def test_the_budget_travels_with_the_plan_and_is_no_part_of_its_id(plan: Plan, tmp_path: Path) -> None:
    on_card = replace(plan, vram_mb=9000)
    assert on_card.id == plan.id, "a run goes on when the budget changes"
    on_card.write(tmp_path)
    assert read_plan(tmp_path).vram_mb == 9000
    said = json.loads((tmp_path / PLAN).read_text(encoding="ascii"))
    del said["vram_mb"]
    (tmp_path / PLAN).write_text(json.dumps(said), encoding="ascii")
    assert read_plan(tmp_path).vram_mb is None, "a plan of an earlier version"


def test_how_many_run_side_by_side_changes_no_threads_and_so_no_sums(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "cores", lambda: 8)
    plans = [replace(plan, config=TINY.model_copy(update={"folds": 2, "workers": workers})) for workers in (0, 1, 2, 8)]
    assert len({each.id for each in plans}) == 1
    assert {tuple(runs._threads(each, job) for job in each.jobs()) for each in plans} == {(2, 2, 8)}
    assert [runs.side_by_side(each) for each in plans[1:3]] == [1, 2]
