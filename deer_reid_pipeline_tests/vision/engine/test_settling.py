"""Settling: nobody waits for a measurement, or a start, that the work ahead does not pay for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder, EmbeddingError
from deer_reid_pipeline.vision.engine import choosing, settling
from deer_reid_pipeline.vision.engine.choosing import Decision, Trial, circumstances, keep, kept
from deer_reid_pipeline.vision.engine.options import AUTO, PLAIN, Choice, EngineOptions
from deer_reid_pipeline.vision.engine.settling import begin, fit_batch, settle, use_kept
from deer_reid_pipeline.vision.pool import forget_embedders, get_embedder
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops, make_small_recipe, save_stand_in
from deer_reid_pipeline_tests.vision.engine.card import CountedCard

FOLDED = Choice("torch", "float32")
SLOW_START = Choice("compile", "float32")


@pytest.fixture
def embedder(small_recipe: Recipe, small_store: WeightStore) -> Embedder:
    return Embedder(small_recipe, small_store, "cpu")


def decision_for(embedder: Embedder, full: bool = True) -> Decision:
    """10 crops a second as loaded, 20 folded, 100 by a library that takes 5 seconds to start."""
    trials = [Trial("main", PLAIN, 10.0, 1.0, 1.0), Trial("main", FOLDED, 20.0, 1.0, 1.0)]
    if full:
        trials.append(Trial("main", SLOW_START, 100.0, 1.0, 1.0, start_seconds=5.0))
    return Decision(circumstances(embedder), full, tuple(trials))


def pictures() -> Sequence[Pixels]:
    return draw_crops(4)


def no_pictures() -> Sequence[Pixels]:
    raise AssertionError("nothing was to be measured")


def test_little_work_is_done_as_it_is(embedder: Embedder, tmp_path: Path) -> None:
    assert settle(embedder, tmp_path, AUTO, 3, pictures=no_pictures) is None
    assert dict(embedder.plan) == {"main": PLAIN}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seconds", "measured"), [(1.0, None), (150.0, False), (2000.0, True)])
def test_how_much_is_measured_depends_on_the_work_ahead(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, measured: bool | None
) -> None:
    asked: list[bool] = []

    def measure(embedder: Embedder, given: Sequence[Pixels], full: bool, first: str, say: object) -> Decision:
        asked.append(full)
        return decision_for(embedder, full)

    monkeypatch.setattr(settling, "measure", measure)
    monkeypatch.setattr(settling, "_seconds_a_crop", lambda _: seconds / 200)
    monkeypatch.setattr(embedder, "runner", lambda key, choice: None)
    settle(embedder, tmp_path, AUTO, 200, pictures=pictures)
    assert asked == ([] if measured is None else [measured])
    found = kept(tmp_path, embedder)
    assert (None if found is None else found.full) == measured
    settle(embedder, tmp_path, AUTO, 200, pictures=no_pictures if measured is not False else pictures)
    assert len(asked) == len([measured] * (measured is not None)), "what is kept is not measured again"


def test_a_library_that_starts_slowly_is_used_only_where_it_pays(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, embedder, decision_for(embedder))
    monkeypatch.setattr(embedder, "runner", lambda key, choice: None)
    settle(embedder, tmp_path, AUTO, 300, pictures=no_pictures)  # saves 300 * 0.04 s = 12 s, the start takes 5 s
    assert dict(embedder.plan) == {"main": FOLDED}
    settle(embedder, tmp_path, AUTO, 600, pictures=no_pictures)
    assert dict(embedder.plan) == {"main": SLOW_START}
    settle(embedder, tmp_path, EngineOptions(backend="torch"), 600, pictures=no_pictures)
    assert dict(embedder.plan) == {"main": FOLDED}


@pytest.mark.parametrize(
    ("options", "measured"),
    [(EngineOptions(precision="bfloat16"), False), (EngineOptions(backend="openvino"), True)],
)
def test_what_a_person_asks_for_is_measured_at_once_and_a_refusal_is_said(
    embedder: Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: EngineOptions,
    measured: bool,
) -> None:
    asked: list[bool] = []

    def measure(embedder: Embedder, given: Sequence[Pixels], full: bool, first: str, say: object) -> Decision:
        asked.append(full)
        refused = [
            Trial("main", Choice("torch", "bfloat16"), 99.0, 0.98, 1.0, reason="cosine too low"),
            Trial("main", Choice("openvino", "float32"), reason="it is not installed"),
        ]
        plain = Trial("main", PLAIN, 10.0, 1.0, 1.0)
        return Decision(circumstances(embedder), full, (plain, *refused))

    monkeypatch.setattr(settling, "measure", measure)
    settle(embedder, tmp_path, options, 1, pictures=pictures)
    assert asked == [measured]
    assert dict(embedder.plan) == {"main": PLAIN}
    assert ("cosine too low" in caplog.text) == (options.precision == "bfloat16")
    assert ("it is not installed" in caplog.text) == (options.backend == "openvino")


def test_what_cannot_be_used_any_more_changes_nothing(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path, embedder, decision_for(embedder))
    monkeypatch.setattr("deer_reid_pipeline.vision.engine.backends.absent", lambda backend, device: "it went away")
    settle(embedder, tmp_path, AUTO, 10**6, pictures=no_pictures)
    assert dict(embedder.plan) == {"main": PLAIN}
    assert "it went away" in caplog.text


def test_a_loaded_model_computes_as_was_found_best_before(tmp_path: Path) -> None:
    forget_embedders()
    save_stand_in(tmp_path / "w", "mobilenet_v2")
    store = WeightStore([tmp_path / "w"], tmp_path / "m", offline=True)
    recipe = make_small_recipe(store)
    first = get_embedder(recipe, store, "cpu")
    assert dict(first.plan) == {"main": PLAIN}
    keep(store.models.folder, first, decision_for(first))
    forget_embedders()
    again = get_embedder(recipe, store, "cpu")
    assert dict(again.plan) == {"main": FOLDED}
    crops = draw_crops(4)
    for name, values in first.embed(crops).vectors.items():
        assert (values * again.embed(crops).vectors[name]).sum(axis=1).min() >= 0.9999
    assert get_embedder(recipe, store, "cpu", EngineOptions(precision="float16")) is not again
    forget_embedders()


def test_a_real_measurement_is_kept_and_used(embedder: Embedder, tmp_path: Path) -> None:
    said: list[str] = []
    found = settling.measure_and_keep(embedder, tmp_path, False, said.append, pictures)
    assert kept(tmp_path, embedder) == dataclasses.replace(found)
    assert said[0].startswith("measuring how recipe small-")
    begin(embedder, tmp_path, AUTO)
    assert dict(embedder.plan) == dict(found.plan(AUTO, quick_start=True))


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(
    embedder: Embedder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engine").write_text("a file where the folder would be")
    settling.measure_and_keep(embedder, tmp_path, False, lambda line: None, pictures)
    assert "will be measured again" in caplog.text


def test_the_batch_is_fitted_to_the_card_and_no_trial_takes_more(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = CountedCard(monkeypatch)
    card.take(embedder, monkeypatch)
    assert fit_batch(embedder, EngineOptions(vram_mb=200)) == embedder.limit.crops == 32
    assert (card.cap, card.most) == (200, 196), "64 crops would have taken 292"
    card.a_crop = 5000
    assert fit_batch(embedder, AUTO) == 2
    assert card.cap == 12000, "three quarters of the card"


def test_a_budget_that_holds_no_crop_is_refused(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    card = CountedCard(monkeypatch)
    card.take(embedder, monkeypatch)
    with pytest.raises(EmbeddingError, match=r"^102 MiB of cpu do not hold .* allow more \(DEER_REID_VRAM_MB"):
        fit_batch(embedder, EngineOptions(vram_mb=102))
    assert card.most == 0


def test_whoever_begins_on_a_card_is_kept_to_the_budget(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the engine does afterwards, torch refuses more: a measurement, and more crops than a batch."""
    card = CountedCard(monkeypatch)
    card.take(embedder, monkeypatch, as_device=True)
    begin(embedder, tmp_path, EngineOptions(vram_mb=108))
    assert (card.cap, embedder.limit.crops) == (108, 2)
    monkeypatch.setattr(choosing, "candidates", lambda device: [])
    settling.measure_and_keep(embedder, tmp_path, False, lambda line: None, lambda: draw_crops(9))
    assert len(embedder.embed(draw_crops(5)).vectors["baseline"]) == 5
    assert (embedder.limit.crops, card.most) == (2, 106)


def test_what_was_found_is_used_whole_where_that_is_asked_for(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[object] = []
    monkeypatch.setattr(embedder, "use", used.append)
    use_kept(embedder, tmp_path, AUTO)
    assert used == [], "nothing was found here so far"
    keep(tmp_path, embedder, decision_for(embedder))
    use_kept(embedder, tmp_path, AUTO)
    assert used == [{"main": SLOW_START}]
