"""The check of a card, run on the processor: with nothing but its four packages, and with a card's faults injected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deer_reid_pipeline.launcher.options import SCHEMA
from deer_reid_pipeline.vision.catalog import _DESIGNS, architectures
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine import gpu_check, gpu_memory, gpu_shapes, gpu_trials, settling
from deer_reid_pipeline.vision.engine.choosing import Decision
from deer_reid_pipeline.vision.engine.gpu_check import main, table
from deer_reid_pipeline.vision.engine.gpu_memory import MIB, Budget, OutOfMemoryTrial, judge, out_of_memory_trial
from deer_reid_pipeline.vision.engine.gpu_shapes import TorchvisionEfficientNetB0, embedder_of, shape_of
from deer_reid_pipeline.vision.engine.gpu_trials import (
    BatchFigures,
    Limits,
    bare_rate,
    engine_rate,
    failures_of,
    measure_recipe,
    next_limit,
)
from deer_reid_pipeline.vision.engine.options import EngineOptions
from deer_reid_pipeline.vision.recipe import CHANNELS, Backbone, Tap
from deer_reid_pipeline_tests.vision.conftest import draw_crops
from deer_reid_pipeline_tests.vision.engine.card import CountedCard

REPOSITORY = Path(__file__).resolve().parents[3]
NEEDED = ("torch", "torchvision", "numpy", "PIL")
BROUGHT = (  # what those four bring with them
    *("torchgen", "functorch", "torchvision.libs", "numpy.libs", "pillow.libs", "nvidia", "triton"),
    *("filelock", "typing_extensions.py", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec"),
)
BUDGET = Budget(bytes=1000 * MIB, total=2000 * MIB, free=1900 * MIB)


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python finds its own library, four packages and what these need, and this repository."""
    folder = tmp_path_factory.mktemp("packages")
    installed = Path(torch.__file__).resolve().parents[1]
    for name in (*NEEDED, *BROUGHT):
        if (installed / name).exists():
            (folder / name).symlink_to(installed / name)
    assert all((folder / name).exists() for name in NEEDED)
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}", "OMP_NUM_THREADS": "1"}


def run_bare(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-S", *arguments], env=environment, capture_output=True, text=True)


def test_the_whole_check_runs_with_four_packages(bare_environment: dict[str, str], tmp_path: Path) -> None:
    for absent in ("pydantic", "safetensors", "efficientnet_pytorch", "dagster"):
        assert run_bare(bare_environment, "-c", f"import {absent}").returncode != 0, absent
    module = "deer_reid_pipeline.vision.engine.gpu_check"
    path = tmp_path / "figures.json"
    done = run_bare(bare_environment, "-m", module, "--device", "cpu", "--quick", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.isascii()
    assert "ok: all checks passed" in done.stdout
    assert "torchvision efficientnet_b0 stands in for efficientnet_b0" in done.stdout
    report = json.loads(path.read_text())
    assert [each["recipe"] for each in report["recipes"]] == ["mobile", "reference"]
    for each in report["recipes"]:
        assert [row["batch"] for row in each["batches"]] == [1, 4]
        assert all(row["engine"] > 0 and row["bare"] > 0 for row in each["batches"])
        assert each["cosine"] >= 0.999
        assert each["out_of_memory"] is None
    assert report["failures"] == []


def test_an_absent_card_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "0 CUDA devices" in said


def test_a_failed_check_or_too_little_memory_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"machine": {}, "budget": None, "recipes": [], "failures": ["reference: batch 8 took too much"]}
    report["machine"] = gpu_check.machine(torch.device("cpu"))
    monkeypatch.setattr(gpu_check, "check", lambda *_: report)
    assert main(["--device", "cpu"]) == 1
    assert "FAIL: reference: batch 8" in capsys.readouterr().out
    report["failures"] = []
    assert main(["--device", "cpu"]) == 0

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_check, "check", full)
    assert main(["--device", "cpu"]) == 1
    assert "--vram-mb" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["reference", "lite", "mobile"])
def test_shapes_are_those_of_the_recipes(name: str) -> None:
    shape, design = shape_of(name), _DESIGNS[name]
    assert (shape.backbones["main"].arch, shape.backbones["second"].arch) == architectures(name)
    for key, arch in zip(("main", "second"), architectures(name), strict=True):
        mine, theirs = shape.backbones[key].preprocess, design.preprocess(arch)
        for field in ("width", "height", "mode", "mean", "std", "inner", "fill"):
            assert getattr(mine, field) == getattr(theirs, field), field
    for branch, (key, taps) in design.taps.items():
        mine_branch = shape.branches[branch]
        assert mine_branch.backbone == key
        assert [Tap(layer=t.layer, pool=t.pool, grid=t.grid, p=t.p) for t in mine_branch.taps] == list(taps)
        assert sum(mine_branch.projection.outputs) == 512
    assert shape.id.startswith("random-")
    assert set(Backbone.model_fields) - {"weights"} <= {"arch", "preprocess", "last_stride"}


def test_torchvisions_network_has_the_taps_that_the_recipe_asks_for() -> None:
    network = TorchvisionEfficientNetB0().eval()
    with torch.inference_mode():
        maps = network.forward_taps(torch.zeros(1, 3, 64, 64), CHANNELS["efficientnet_b0"])
    assert {layer: found.shape[1] for layer, found in maps.items()} == CHANNELS["efficientnet_b0"]
    assert [maps[layer].shape[-1] for layer in ("stride8", "stride16", "stride32", "head")] == [8, 4, 2, 2]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    made = embedder_of(shape_of("mobile", 64), draw_crops(4), "cpu")
    made.limit.crops = 16
    return made


def test_random_networks_are_the_same_each_time_and_tell_pictures_apart(embedder: Embedder) -> None:
    crops = draw_crops(6, seed=3)
    again = embedder_of(shape_of("mobile", 64), draw_crops(4), "cpu")
    for name, values in embedder.embed(crops).vectors.items():
        assert np.array_equal(values, again.embed(crops).vectors[name])
        cosines = values @ values.T
        assert cosines[~np.eye(6, dtype=bool)].max() < 0.9999, name


def test_speeds_are_those_of_crops_not_of_batches(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"crops": 0}
    runner = embedder.runner

    def counting(key: str, choice: object) -> object:
        def run(batch: torch.Tensor) -> object:
            counted["crops"] += len(batch) if key == "main" else 0
            return runner(key, choice)(batch)  # type: ignore[arg-type]

        return run

    monkeypatch.setattr(embedder, "runner", counting)
    assert bare_rate(embedder, draw_crops(3), 8, seconds=0.0) > 0
    assert counted["crops"] == 8 * 5, "two to warm up and three to time"
    counted["crops"] = 0
    contents = gpu_check.draw_contents(2)
    assert engine_rate(embedder, contents, 3, seconds=0.0) > 0
    assert counted["crops"] == 3 + 4 * 3, "a batch to warm up, four to time"


def out_of_memory(embedder: Embedder, monkeypatch: pytest.MonkeyPatch, **kinds: object) -> OutOfMemoryTrial | None:
    """The trial on a card that needs 10 MiB a crop, as far as torch's allocator says."""
    state = {"limit": BUDGET.bytes}
    forward = embedder.trunks["main"].network.forward_taps
    wrong = bool(kinds.get("wrong"))

    def limited(x: torch.Tensor, layers: set[str]) -> dict[str, torch.Tensor]:
        if len(x) * 10 * MIB > state["limit"]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        tight = wrong and state["limit"] < BUDGET.bytes
        return forward(x.flip(0) if tight else x, layers)

    monkeypatch.setattr(embedder.trunks["main"].network, "forward_taps", limited)
    monkeypatch.setattr(gpu_memory, "limit_memory", lambda limit, _: state.update(limit=limit))
    needs = kinds.get("needs", lambda count: count * 10 * MIB)
    monkeypatch.setattr(gpu_memory, "_peaks", lambda _, crops: (needs(len(crops)),) * 2)  # type: ignore[operator]
    trial = out_of_memory_trial(embedder, draw_crops(16, seed=5), BUDGET)
    assert state["limit"] == BUDGET.bytes, "memory is given back"
    assert embedder.limit.crops == 16, "the batch is as before"
    return trial


def test_running_out_of_memory_halves_the_batch(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = out_of_memory(embedder, monkeypatch)
    assert trial is not None
    assert (trial.before, trial.after, trial.limit_mib, trial.reason) == (16, 8, 100.0, "")
    assert trial.cosine is not None
    assert trial.cosine >= 0.9999


def test_wrong_vectors_after_running_out_of_memory_are_found(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = out_of_memory(embedder, monkeypatch, wrong=True)
    assert trial is not None
    assert "below 0.9999" in trial.reason


def test_memory_that_no_batch_needs_cannot_be_tried(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert out_of_memory(embedder, monkeypatch, needs=lambda count: MIB) is None


def test_a_batch_that_ran_only_in_halves_does_not_count_as_fitting(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card that is fuller than the budget knows, the allocator says no before the budget does."""
    forward = embedder.trunks["main"].network.forward_taps

    def limited(x: torch.Tensor, layers: set[str]) -> dict[str, torch.Tensor]:
        if len(x) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(x, layers)

    CountedCard(monkeypatch)
    monkeypatch.setattr(embedder.trunks["main"].network, "forward_taps", limited)
    try:
        assert settling.fit_batch(embedder, EngineOptions(vram_mb=100)) == 4
    finally:
        embedder.limit.crops = 16


def test_a_batch_that_was_not_halved_or_not_survived_is_no_success() -> None:
    vectors = {"baseline": np.eye(2, dtype=np.float32)}
    assert judge(8, 4, MIB, vectors, vectors).reason == ""
    assert "not halved" in judge(8, 8, MIB, vectors, vectors).reason
    assert "not survived" in judge(8, 1, MIB, vectors, None).reason


def test_every_check_has_a_failure() -> None:
    good = OutOfMemoryTrial(8, 4, 100.0, 1.0)
    rows = [BatchFigures(1, 10.0, 9.0, 999.0), BatchFigures(8, 20.0, 19.0, 1000.0)]
    assert failures_of(0.9995, rows, False, BUDGET, good) == []
    assert failures_of(0.9995, [BatchFigures(1, 1.0, 1.0, None)], True, None, None) == [], "no card, no memory checks"
    assert "cosine 0.99800" in failures_of(0.998, rows, False, BUDGET, good)[0]
    assert "cosine nan" in failures_of(float("nan"), rows, False, BUDGET, good)[0]
    over = [*rows, BatchFigures(16, 20.0, 19.0, 1001.0)]
    assert failures_of(1.0, over, False, BUDGET, good) == ["batch 16 took 1001 MiB, more than the budget of 1000 MiB"]
    beside = [BatchFigures(8, 20.0, 19.0, 1000.0, taken) for taken in (1512.0, 1513.0)]
    (past,) = failures_of(1.0, beside, False, BUDGET, good)
    assert past.startswith("after batch 8 the card had 1513 MiB less than before")
    assert "was not safe" in failures_of(1.0, rows, True, BUDGET, good)[0]
    assert "not tried" in failures_of(1.0, rows, False, BUDGET, None)[0]
    assert failures_of(1.0, rows, False, BUDGET, judge(8, 1, MIB, {}, None)) == [
        "running out of memory was not survived"
    ]


def test_the_next_limit_is_the_slowest_part() -> None:
    assert next_limit(decode=50.0, copy=1000.0, compute=100.0, network_thread=80.0) == "decode"
    assert next_limit(decode=500.0, copy=1000.0, compute=100.0, network_thread=80.0) == "compute"
    assert next_limit(decode=500.0, copy=100.0, compute=1000.0, network_thread=80.0) == "copy"
    assert next_limit(decode=500.0, copy=1000.0, compute=1000.0, network_thread=80.0).startswith("host work")
    assert next_limit(decode=500.0, copy=None, compute=100.0, network_thread=90.0) == "compute"


def test_the_budget_is_no_more_than_what_is_free_and_is_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    card, device = CountedCard(monkeypatch), torch.device("cuda", 0)
    for free, asked, expected in ((15000, None, 12000), (10000, None, 9000), (15000, 4000, 4000), (1000, 4000, 900)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free * MIB, 16000 * MIB))
        budget = gpu_memory.claim_budget(asked, device)
        assert budget.vram_mb == expected
        assert card.cap == card.total, "with a limit of its own the check would not see whether the engine has one"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100 * MIB, 16000 * MIB))
    assert gpu_memory.taken_bytes(budget, device) == 900 * MIB


def test_an_engine_that_does_not_keep_to_the_budget_is_found(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check sees of a card on which the engine keeps to 124 MiB, and of one on which it does not."""
    card = CountedCard(monkeypatch)
    card.a_crop = 12
    budget = Budget(bytes=124 * MIB, total=card.total * MIB, free=card.total * MIB)
    forward, contents = embedder.trunks["main"].network.forward_taps, gpu_check.draw_contents(2)

    def counted(x: torch.Tensor, layers: set[str]) -> dict[str, torch.Tensor]:
        card.hold(len(x))
        return forward(x, layers)

    monkeypatch.setattr(embedder.trunks["main"].network, "forward_taps", counted)
    monkeypatch.setattr(gpu_trials, "measure", lambda *given, **named: Decision({}, False, ()))
    monkeypatch.setattr(gpu_trials, "_limits", lambda *given: Limits(1, 1.0, None, 1.0, 1.0, None, "compute"))
    monkeypatch.setattr(gpu_trials, "out_of_memory_trial", lambda *given: None)

    def reasons() -> list[str]:
        found = measure_recipe("small", [], embedder, contents, budget, (4,), 0.0, lambda line: None)
        return [reason for reason in found.failures if "budget" in reason]

    try:
        assert reasons() == []
        monkeypatch.setattr(settling, "limit_memory", lambda limit, device: setattr(card, "cap", 150))
        assert reasons() == ["small: batch 4 took 148 MiB, more than the budget of 124 MiB"]
    finally:
        embedder.limit.crops = 16


def test_what_is_left_for_the_driver_is_what_the_launcher_keeps_free() -> None:
    assert SCHEMA["reserve_mb"].default_value == gpu_memory.BESIDE_MIB


def test_the_table_names_card_budget_and_what_was_left_out() -> None:
    row = {"batch": 8, "bare": 100.0, "engine": 90.0, "peak_mib": 512.4}
    limits = {"batch": 8, "decode": 200.0, "copy": 300.0, "compute": 100.0, "network_thread": 95.0}
    report = {
        "machine": {"torch": "2", "cores": 4, "device": "A card"},
        "budget": {"bytes": 1000 * MIB},
        "recipes": [
            {
                "recipe": "reference",
                "stand_ins": [],
                "plan": {"main": "torch float16"},
                "cosine": 0.9999,
                "largest_batch": 8,
                "batches": [row, {**row, "batch": 16, "bare": None}],
                "limits": {**limits, "copy_gb_per_s": 20.0, "next": "compute"},
                "out_of_memory": {"limit_mib": 300.0, "before": 8, "after": 4, "cosine": 1.0},
            }
        ],
        "failures": [],
    }
    text = "\n".join(table(report))
    assert "A card" in text
    assert "0.90" in text
    assert "512" in text
    assert "next limit: compute" in text
    assert "a batch of 8 became 4" in text
    assert "not measured: training" in text
    assert text.isascii()


def test_a_package_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shape_of("reference").stand_ins() == []
    assert gpu_shapes.measurable() == ("lite", "reference")
    monkeypatch.setattr(gpu_shapes.importlib.util, "find_spec", lambda _: None)
    assert gpu_shapes.measurable() == ("mobile", "reference")
    (line,) = shape_of("reference").stand_ins()
    assert line.endswith("stands in for efficientnet_b0, whose package efficientnet_pytorch is absent")
