"""Choosing: only what agrees with float32 and is faster, kept while nothing it depends on changes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine import backends, choosing
from deer_reid_pipeline.vision.engine.backends import BackendError, Runner, absent, build_runner, candidates
from deer_reid_pipeline.vision.engine.choosing import Decision, Trial, keep, kept, measure
from deer_reid_pipeline.vision.engine.options import AUTO, PLAIN, Choice, EngineOptions
from deer_reid_pipeline.vision.engine.variations import variations
from deer_reid_pipeline.vision.features import lay_out
from deer_reid_pipeline.vision.recipe import BRANCHES, Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops

FOLDED = Choice("torch", "float32")
HALF = Choice("torch", "float16")
BRAIN = Choice("torch", "bfloat16")
OTHER = Choice("openvino", "float32")
OTHER_HALF = Choice("openvino", "float16")


@pytest.fixture
def embedder(small_recipe: Recipe, small_store: WeightStore) -> Embedder:
    return Embedder(small_recipe, small_store, "cpu")


class Clock:
    """Seconds that a test says have passed, because real ones depend on what else the machine does."""

    def __init__(self) -> None:
        self.now = 0.0

    def timed(self, work: Callable[[], object]) -> float:
        before = self.now
        work()
        return self.now - before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(choosing, "timed", made.timed)
    return made


def way(plain: Runner, clock: Clock, right: bool, seconds: float) -> Runner:
    """The network as loaded, at so many seconds a crop; its features turned round where it is not `right`."""

    def run(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        end = clock.now + seconds * len(batch)
        made = plain(batch) if right else tuple(values.roll(1, dims=1) for values in plain(batch))
        clock.now = end
        return made

    return run


@pytest.fixture
def ways(embedder: Embedder, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> dict[Choice, Runner]:
    """Ways of computing that behave as a test wants: the network as loaded, changed."""
    embedder.limit.crops = 4  # the clock is made up: larger batches only take longer
    plain = embedder.runner("main", PLAIN)

    def slow(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        clock.now += 0.02 * len(batch)
        return plain(batch)

    def wrong(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        clock.now += 0.01 * len(batch)
        return tuple(values.roll(1, dims=1) for values in plain(batch))

    def by_company(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        clock.now += 0.01 * len(batch)
        return tuple(
            values + (0.05 * values.std() if len(batch) == 1 else 0.0) * values.roll(1) for values in plain(batch)
        )

    def broken(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("no such kernel\nand more")

    def quick(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        clock.now += 0.01 * len(batch)
        return plain(batch)

    made = {PLAIN: slow, FOLDED: quick, HALF: wrong, BRAIN: by_company, OTHER: broken, OTHER_HALF: wrong}
    monkeypatch.setattr(choosing, "candidates", lambda device: [FOLDED, HALF, BRAIN, OTHER])
    monkeypatch.setattr(choosing, "absent", lambda backend, device: None)
    monkeypatch.setattr(embedder, "runner", lambda key, choice: made[choice])
    return made


def test_what_disagrees_with_float32_is_refused_with_its_reason(embedder: Embedder, ways: dict[Choice, Runner]) -> None:
    said: list[str] = []
    decision = measure(embedder, draw_crops(5), say=said.append)
    trials = {trial.choice: trial for trial in decision.trials}
    assert list(trials) == [PLAIN, FOLDED, HALF, BRAIN, OTHER]
    assert trials[FOLDED].usable
    assert trials[FOLDED].cosine == pytest.approx(1.0, abs=1e-5)
    assert "below 0.999" in trials[HALF].reason
    assert trials[HALF].cosine is not None
    assert trials[HALF].cosine < 0.999
    assert "alone and in a batch" in trials[BRAIN].reason
    assert trials[BRAIN].cosine == pytest.approx(1.0, abs=1e-5)
    assert trials[OTHER].reason == "no such kernel"
    assert not any(trials[choice].usable for choice in (HALF, BRAIN, OTHER))
    assert decision.plan(AUTO) == {"main": FOLDED}
    assert len(said) == 4
    assert all(line.isascii() for line in decision.describe())


def test_what_is_much_slower_is_given_up_early(
    embedder: Embedder, clock: Clock, ways: dict[Choice, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = ways[PLAIN], []

    def crawling(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(len(batch))
        clock.now += 0.05 * len(batch)
        return plain(batch)

    monkeypatch.setitem(ways, FOLDED, crawling)
    monkeypatch.setattr(choosing, "candidates", lambda device: [FOLDED])
    trial = measure(embedder, draw_crops(9)).trials[-1]
    assert trial.reason == "much slower than float32 as loaded"
    assert not trial.usable
    assert calls == [4, 4, 4], "a few crops are enough to tell"


def test_after_the_time_limit_nothing_more_is_begun(embedder: Embedder, ways: dict[Choice, Runner]) -> None:
    decision = measure(embedder, draw_crops(3), time_limit=0.0)
    assert [trial.reason for trial in decision.trials[1:]] == ["not tried: 0 s had passed"] * 4
    assert decision.plan(AUTO) == {"main": PLAIN}


def test_what_is_likeliest_to_be_used_is_tried_first(
    embedder: Embedder,
    ways: dict[Choice, Runner],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A clock that runs out costs what is likely to be refused, and not what was not tried of another backbone."""
    monkeypatch.setattr(choosing, "candidates", lambda device: [FOLDED, OTHER_HALF, OTHER])
    whole = measure(embedder, draw_crops(3))
    assert [trial.choice for trial in whole.trials] == [PLAIN, FOLDED, OTHER, OTHER_HALF]
    assert whole.full
    cut_short = measure(embedder, draw_crops(3), time_limit=0.0)
    assert not cut_short.full, "so it is measured again"
    assert "measuring ended early" in caplog.text


def test_quick_measuring_leaves_out_what_takes_minutes(
    embedder: Embedder, ways: dict[Choice, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "candidates", lambda device: [FOLDED, HALF, OTHER, OTHER_HALF])
    decision = measure(embedder, draw_crops(3), full=False)
    assert [trial.choice for trial in decision.trials] == [PLAIN, FOLDED, HALF, OTHER]
    with pytest.raises(ValueError, match="no calibration pictures"):
        measure(embedder, [])


def decided(**rates: float | None) -> Decision:
    """A decision over made-up speeds; the keys name choices."""
    names = {"plain": PLAIN, "folded": FOLDED, "half": HALF, "other": OTHER}
    trials = [
        Trial("main", names[name], rate, 1.0, 1.0, 20.0 if name == "other" else 0.1, "" if rate else "does not run")
        for name, rate in rates.items()
    ]
    return Decision({"recipe": "x"}, True, tuple(trials))


def test_the_fastest_usable_way_wins_if_it_gains_something() -> None:
    assert decided(plain=10.0, folded=12.0, half=30.0, other=40.0).plan(AUTO) == {"main": OTHER}
    assert decided(plain=10.0, folded=12.0, half=30.0, other=40.0).plan(AUTO, quick_start=True) == {"main": HALF}
    assert decided(plain=10.0, folded=10.2).plan(AUTO) == {"main": PLAIN}, "2 % is noise"
    assert decided(plain=10.0, folded=9.0, other=None).plan(AUTO) == {"main": PLAIN}


def test_what_a_person_settled_is_obeyed() -> None:
    found = decided(plain=10.0, folded=12.0, half=30.0, other=40.0)
    assert found.plan(EngineOptions(precision="float16")) == {"main": HALF}
    assert found.plan(EngineOptions(precision="float32", backend="torch")) == {"main": FOLDED}
    assert found.plan(EngineOptions(precision="bfloat16")) == {"main": PLAIN}
    assert found.seconds_a_crop({"main": OTHER}) == pytest.approx(1 / 40)
    assert found.start_seconds({"main": OTHER}) == 20.0


def test_a_decision_is_kept_until_something_changes(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert kept(tmp_path, embedder) is None
    found = dataclasses.replace(decided(plain=10.0, half=30.0), circumstances=choosing.circumstances(embedder))
    path = keep(tmp_path, embedder, found)
    assert kept(tmp_path, embedder) == found
    assert path.parent.parent == tmp_path
    for changed in ("torch", "openvino", "device", "threads", "recipe", "engine"):
        data = json.loads(path.read_text())
        data["circumstances"][changed] += "x"
        path.write_text(json.dumps(data))
        assert kept(tmp_path, embedder) is None, changed
        keep(tmp_path, embedder, found)
    monkeypatch.setattr(choosing, "ENGINE_VERSION", "next")
    assert kept(tmp_path, embedder) is None
    path.write_text("{")
    assert kept(tmp_path, embedder) is None
    assert "measured anew" in caplog.text


def test_folding_and_narrow_types_keep_the_vectors(embedder: Embedder) -> None:
    """The real self-test on real networks; which types there are depends on the processor."""
    pictures = draw_crops(8)
    decision = measure(embedder, pictures, full=False)
    trials = {trial.choice: trial for trial in decision.trials}
    assert trials[FOLDED].cosine is not None
    assert trials[FOLDED].cosine >= 0.99999
    assert set(trials) == {PLAIN, *(c for c in candidates(embedder.device) if c.backend == "torch"), OTHER}
    assert dict(embedder.plan) == {"main": PLAIN}, "measuring changes nothing"
    assert [choice for _, choice, _ in embedder._ready] == [PLAIN], "networks that were tried are let go of"
    before = embedder.embed(pictures).vectors
    for choice, trial in trials.items():
        if not trial.usable:
            continue
        embedder.use({"main": choice})
        found = embedder.embed(pictures).vectors
        alone = embedder.embed(pictures[:1]).vectors
        assert min((found[name] * before[name]).sum(axis=1).min() for name in BRANCHES) >= 0.999
        assert min(float(found[name][0] @ alone[name][0]) for name in BRANCHES) >= 0.9999


def test_what_is_not_installed_is_a_reason(monkeypatch: pytest.MonkeyPatch, embedder: Embedder) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in (absent("openvino", cpu) or "")
    assert absent("openvino", torch.device("cuda", 0)) == "OpenVINO is used on the CPU only"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in (absent("compile", cpu) or "")
    assert absent("torch", cpu) is None
    with pytest.raises(BackendError, match="C\\+\\+ compiler"):
        embedder.use({"main": Choice("compile", "float32")})
    assert dict(embedder.plan) == {"main": PLAIN}


def test_narrow_types_are_tried_only_where_the_processor_computes_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert {choice.precision for choice in candidates(torch.device("cpu"))} == {"float32"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "avx512_fp16": True})
    assert {choice.precision for choice in candidates(torch.device("cpu"))} == {"float32", "bfloat16", "float16"}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    on_card = candidates(torch.device("cuda", 0))
    assert {choice.precision for choice in on_card} == {"float32", "float16"}
    assert {choice.backend for choice in on_card} == {"torch", "compile"}


def test_how_much_stays_in_float32_is_found_by_halving(
    embedder: Embedder, clock: Clock, ways: dict[Choice, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, narrow = ways[PLAIN], Choice("openvino", "bfloat16")
    monkeypatch.setattr(choosing, "candidates", lambda device: [FOLDED, narrow])

    def tried(enough: int | None, seconds: float = 0.001, options: EngineOptions = AUTO) -> tuple[list[int], Choice]:
        """`enough`: last parts in float32 with which the vectors agree; None: with all of them they do not."""
        made = {narrow: way(plain, clock, False, seconds)}
        for wide in range(9):  # the more is in float32, the slower
            right = enough is not None and wide >= enough
            made[dataclasses.replace(narrow, wide=wide)] = way(plain, clock, right, seconds + 1e-4 * wide)
        monkeypatch.setattr(embedder, "runner", lambda key, choice: {**ways, **made}[choice])
        decision = measure(embedder, draw_crops(5), options=options)
        wide = [trial.choice.wide for trial in decision.trials if trial.choice.wide is not None]
        return wide, decision.plan(options)["main"]

    assert tried(0) == ([0], dataclasses.replace(narrow, wide=0))
    assert tried(1) == ([0, 8, 4, 2, 1], dataclasses.replace(narrow, wide=1))
    assert tried(5) == ([0, 8, 4, 6, 5], dataclasses.replace(narrow, wide=5))
    assert tried(8) == ([0, 8, 4, 6, 7], dataclasses.replace(narrow, wide=8))
    assert tried(None) == ([0, 8], FOLDED), "nothing is enough"
    assert tried(0, seconds=0.02) == ([], FOLDED), "not faster than what may be used anyway"
    assert tried(0, options=EngineOptions(precision="bfloat16"))[0] == [], (
        "an arithmetic that is named is used all through"
    )
    made = way(plain, clock, True, 0.001)
    monkeypatch.setattr(embedder, "runner", lambda key, choice: {**ways, narrow: made}[choice])
    assert measure(embedder, draw_crops(5)).plan(AUTO)["main"] == narrow, "bfloat16 itself passes"


def test_of_several_ways_in_bfloat16_the_one_with_the_least_in_float32_is_used() -> None:
    """However the clock, which other work disturbs, has them."""
    narrow = Choice("openvino", "bfloat16")
    rates = {None: 300.0, 4: 240.0, 5: 180.0, 6: 200.0, 8: 190.0}
    trials = [Trial("main", PLAIN, 50.0), Trial("main", OTHER, 100.0)]
    for wide, rate in rates.items():
        reason = "" if wide is not None and wide >= 5 else "cosine"
        trials.append(Trial("main", dataclasses.replace(narrow, wide=wide), rate, reason=reason))
    decision = Decision({}, True, tuple(trials))
    assert decision.plan(AUTO) == {"main": dataclasses.replace(narrow, wide=5)}
    disturbed = [dataclasses.replace(t, crops_per_second=40.0) if t.choice.wide == 5 else t for t in trials]
    assert Decision({}, True, tuple(disturbed)).plan(AUTO) == {"main": dataclasses.replace(narrow, wide=5)}
    slow = [t if t.choice.wide is None else dataclasses.replace(t, crops_per_second=90.0) for t in trials]
    assert Decision({}, True, tuple(slow)).plan(AUTO) == {"main": OTHER}


def test_what_cannot_be_made_ends_the_search(
    embedder: Embedder, clock: Clock, ways: dict[Choice, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow, plain = Choice("openvino", "bfloat16"), ways[PLAIN]

    wrong_at_once = way(plain, clock, False, 0.001)
    monkeypatch.setattr(choosing, "candidates", lambda device: [FOLDED, narrow])
    monkeypatch.setattr(
        embedder, "runner", lambda key, choice: {**ways, narrow: wrong_at_once}.get(choice, ways[OTHER])
    )
    trials = measure(embedder, draw_crops(5)).trials
    assert [trial.choice.wide for trial in trials] == [None, None, None, 0]
    assert trials[-1].reason == "no such kernel"


@pytest.mark.parametrize("kind", range(5))
def test_a_way_is_judged_on_harder_pictures_too(
    embedder: Embedder, ways: dict[Choice, Runner], monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """One that is wrong on a single kind of them is refused."""
    given = [np.ascontiguousarray(np.roll(picture, 5)) for picture in draw_crops(10)]
    harder = variations(given)
    spec = embedder.recipe.backbones["main"].preprocess
    marked = torch.from_numpy(lay_out(harder[kind::5], spec))

    def wrong_there(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hit = torch.tensor([any(torch.equal(row, other) for other in marked) for row in batch])
        return tuple(torch.where(hit[:, None], values.roll(1, dims=1), values) for values in ways[FOLDED](batch))

    monkeypatch.setattr(choosing, "candidates", lambda device: [HALF])
    monkeypatch.setattr(embedder, "runner", lambda key, choice: {**ways, HALF: wrong_there}[choice])
    trial = measure(embedder, given).trials[-1]
    assert trial.choice == HALF
    assert "below" in trial.reason


def test_what_torch_was_refused_for_is_not_compiled(
    embedder: Embedder, ways: dict[Choice, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = {kind: Choice("compile", kind) for kind in ("float32", "float16")}
    monkeypatch.setitem(ways, compiled["float32"], ways[FOLDED])
    monkeypatch.setattr(choosing, "candidates", lambda device: [*compiled.values(), FOLDED, HALF])
    trials = {trial.choice: trial for trial in measure(embedder, draw_crops(5)).trials}
    assert list(trials) == [PLAIN, FOLDED, HALF, *compiled.values()], "what takes longest to start comes last"
    assert trials[compiled["float32"]].usable
    assert trials[compiled["float16"]].reason == "not tried: torch in float16 missed by far"


def test_what_was_asked_for_is_tried_before_the_time_is_up(
    embedder: Embedder, ways: dict[Choice, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = Choice("compile", "float32")
    monkeypatch.setitem(ways, compiled, ways[FOLDED])
    monkeypatch.setattr(choosing, "candidates", lambda device: [FOLDED, HALF, compiled])
    made = measure(embedder, draw_crops(5), first="compile").trials
    assert [trial.choice for trial in made] == [PLAIN, compiled, FOLDED, HALF]


def test_crops_alone_are_harder_ones_too(
    embedder: Embedder, ways: dict[Choice, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = draw_crops(6)
    easy = torch.from_numpy(lay_out(given, embedder.recipe.backbones["main"].preprocess))

    def by_company(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        known = len(batch) > 1 or any(torch.equal(batch[0], other) for other in easy)
        return tuple(values if known else values.roll(1, dims=1) for values in ways[FOLDED](batch))

    monkeypatch.setattr(choosing, "candidates", lambda device: [HALF])
    monkeypatch.setattr(embedder, "runner", lambda key, choice: {**ways, HALF: by_company}[choice])
    assert "alone and in a batch" in measure(embedder, given).trials[-1].reason


@pytest.mark.slow
def test_compiled_networks_give_the_same_vectors_in_any_batch(embedder: Embedder) -> None:
    if absent("compile", embedder.device):
        pytest.skip(str(absent("compile", embedder.device)))
    embedder.limit.crops = 4
    runner = build_runner(embedder.trunks["main"], Choice("compile", "float32"), embedder.device, 4)
    batch = torch.randint(0, 256, (9, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        plain = embedder.runner("main", PLAIN)(batch)
        whole, alone = runner(batch), runner(batch[:1])
    for expected, values, first in zip(plain, whole, alone, strict=True):
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(values[:1], first)


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino has no wheel for this machine")
def test_openvino_gives_the_vectors_of_torch_and_tells_nobody(embedder: Embedder) -> None:
    pictures = draw_crops(5)
    before = embedder.embed(pictures).vectors
    embedder.use({"main": OTHER})
    found = embedder.embed(pictures).vectors
    alone = embedder.embed(pictures[:1]).vectors
    for name in BRANCHES:
        assert (found[name] * before[name]).sum(axis=1).min() >= 0.99999
        assert float(found[name][0] @ alone[name][0]) >= 0.9999
    assert sys.modules["openvino_telemetry"] is None
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules
