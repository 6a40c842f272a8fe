"""The report of a fine-tuning: the model card as data and text, and the page."""

from __future__ import annotations

import base64
import html
import json
import re
import uuid
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES, VectorSet, unit
from deer_reid_pipeline.steps.report.wording import with_interval
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.training_report import CARD, CARD_TEXT, PAGE, plots, write_training_report
from deer_reid_pipeline.steps.training_report import embedding_map as maps
from deer_reid_pipeline.steps.training_report import page as pages
from deer_reid_pipeline.steps.training_report.figures import (
    FINE_TUNED,
    STARTED_FROM,
    Comparison,
    NotCompared,
    RecipeFigures,
)
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.dataset import Picture, TrainingSet
from deer_reid_pipeline.training.outcome import Outcome, outcome_of
from deer_reid_pipeline.training.plan import Plan
from deer_reid_pipeline.training.worker import Result

MADE_AT = datetime(2026, 11, 22, 5, 4, 13, tzinfo=UTC)
FITTED = FittedPolicy(policy=MatchPolicy(threshold=0.9, new_below=0.2))
NAMES = tuple(f"Zora-{number:02d}" for number in range(24))
FOLDS = 2


def data() -> TrainingSet:
    """Every animal in three encounters: twice from the left, once from the right."""
    return TrainingSet(
        tuple(
            Picture(f"{name}-{met}-{shot}", name, "right" if met == 2 else "left", f"{name}-{met}")
            for name in NAMES
            for met in range(3)
            for shot in range(2)
        )
    )


def log(epochs: int, judged: bool) -> list[dict[str, Any]]:
    """As `worker.read_log` gives it."""
    return [
        {
            "number": number,
            "of": epochs,
            "loss": 3.0 / number,
            "figures": {"rank1": 0.5, "map_individual": 0.1 * number} if judged else {},
            "best": True,
        }
        for number in range(1, epochs + 1)
    ]


def outcome_with(
    site: Site, folds: int = FOLDS, logged: bool = True, judged: bool = True, given: TrainingSet | None = None
) -> Outcome:
    """A finished run in which nothing was trained."""
    plan = Plan(
        config=TrainingConfig(folds=folds, epochs=4, second=True),
        data=given or data(),
        starts={None: site.matcher().recipe, **dict.fromkeys(range(folds), site.matcher().recipe)},
        search_dirs=(),
        models_dir=str(site.settings.models_dir),
        device="cpu",
    )
    results = {
        job.name: Result(
            f"{number:064x}", dict.fromkeys(BRANCHES, f"{number + 100:064x}"), 3, 4, 60.0 + number, "cpu", 0
        )
        for number, job in enumerate(plan.jobs())
    }
    made = outcome_of(plan, site.settings.home / "training" / plan.id, results)
    logs = {job.name: log(4, judged and job.split is not None) if logged else [] for job in plan.jobs()}
    return replace(made, logs=logs)


def labelled_herd(compartments: int = FOLDS) -> Labelled:
    """The animals in vectors, two pictures an encounter, none of them stored; half of them in each compartment."""
    rng = np.random.default_rng(3)
    code = np.tile(np.arange(len(NAMES)), 3).repeat(2)
    encounter = np.arange(3 * len(NAMES)).repeat(2)
    looks = rng.normal(size=(3, len(NAMES), 16))[:, code] + 0.8 * rng.normal(size=(3, len(code), 16))
    vectors = {
        branch: VectorSet("lite.tuned-1", branch, unit(np.asarray(rows, dtype=np.float32)))
        for branch, rows in zip(BRANCHES, looks, strict=True)
    }
    return Labelled(
        [uuid.uuid4() for _ in code], vectors, code, encounter, encounter, ["left"] * len(code), NAMES,
        ["unknown"] * len(code), compartment=code % compartments,
    )  # fmt: skip


def compared(outcome: Outcome, *left_out: NotCompared) -> Comparison:
    tuned = {"rank1": Estimate(0.26, 0.213, 0.312, 120, 24), "ari": Estimate(0.41, 0.3, 0.52, 72, 24)}
    before = {"rank1": Estimate(0.1, 0.06, 0.15, 120, 24)}
    return Comparison(
        (
            RecipeFigures(outcome.recipe.id, FINE_TUNED, tuned, 27, 24, {"rank1": 0.034}),
            RecipeFigures(outcome.plan.base.id, STARTED_FROM, before, 40, 24),
        ),
        left_out,
    )


def words(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def svgs(page: str) -> list[str]:
    return [base64.b64decode(found).decode() for found in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]


def read(folder: Path) -> tuple[dict[str, Any], str, str]:
    card = json.loads((folder / CARD).read_text("ascii"), parse_constant=lambda name: pytest.fail(f"{name} in it"))
    return card, (folder / CARD_TEXT).read_text("ascii"), (folder / PAGE).read_text("utf-8")


def test_card_text_and_page_say_the_same_of_a_cross_validated_model(site: Site) -> None:
    outcome = outcome_with(site)
    labelled = labelled_herd()
    folder = write_training_report(site, outcome, compared(outcome), labelled, FITTED, MADE_AT)
    assert folder.parent == site.settings.home / "reports" / "training"
    assert folder.name == f"20261122T050413Z-{outcome.recipe.id}"
    assert sorted(path.name for path in folder.iterdir()) == [CARD, CARD_TEXT, PAGE]
    card, text, page = read(folder)
    said = words(page)
    for report in (text, said):
        assert "26.0 % (21.3 to 31.2)" in report
        assert "10.0 % (6.0 to 15.0)" in report
        assert "0.41 (0.30 to 0.52)" in report
        assert "27 of 24" in report
        assert "y chance 3.4 %" in report
        assert "y chance 0.00" in report  # of the ARI, whatever the data
        assert "not measured" in report  # ari of the recipe that it started from
        assert f"the newest folder reports/validation/TIME-{outcome.recipe.id}" in report
        assert "Not in this table" not in report
        assert "could not be read" not in report
        assert "which flank they show" not in report
        assert "were put into 2 groups" in report
        assert "ImageNet weights of efficientnet_lite0" in report
        assert "such as nyala, do not show" in report
        assert outcome.plan.data.digest in report
    assert page.isascii()
    assert "left 96 24 48 24" in said
    assert "right 48 24 24 0" in said
    assert "without fold 1, efficientnet_lite2 (second) 4 3 30.0 %" in said
    assert card["figures"][0]["figures"]["rank1"] == {
        "value": 0.26, "low": 0.213, "high": 0.312, "n": 120, "individuals": 24,
    }  # fmt: skip
    assert (card["recipe"], card["base"]) == (outcome.recipe.id, outcome.plan.base.id)
    assert card["trained_on"]["trained_on"]["individuals"] == len(NAMES)
    assert card["config"]["folds"] == FOLDS
    assert [(fold["fold"], fold["recipe"]) for fold in card["folds"]] == [(k, outcome.folds[k].id) for k in range(2)]
    assert sum(fold["individuals_judged"] for fold in card["folds"]) == len(NAMES)
    assert [item["validation_map"] for item in card["trainings"]] == [pytest.approx(0.3)] * 4 + [None] * 2
    assert card["seconds"] == sum(60 + number for number in range(6))


def test_no_individual_is_named_in_the_card(site: Site) -> None:
    outcome = outcome_with(site)
    card, text, page = read(write_training_report(site, outcome, compared(outcome), labelled_herd(), FITTED))
    assert "Zora" not in json.dumps(card) + text
    assert "Zora" not in "".join(svgs(page))
    assert "Zora" in words(page)  # beside the pictures


def test_every_weight_file_is_listed_with_its_hash(site: Site) -> None:
    outcome = outcome_with(site)
    card, _, page = read(write_training_report(site, outcome, Comparison(), labelled_herd(), FITTED))
    made = [outcome.recipe, *outcome.folds.values()]
    wanted = {backbone.weights.sha256 for recipe in made for backbone in recipe.backbones.values()}
    wanted |= {branch.projection.sha256 for recipe in made for branch in recipe.branches.values()}
    assert {item["sha256"] for item in card["weights"]} == wanted
    assert all(item["file"] == f"{item['sha256']}.safetensors" and item["model_store"] for item in card["weights"])
    assert all(sha256 in page for sha256 in wanted)


def test_the_page_runs_and_fetches_nothing_and_has_its_plots(site: Site) -> None:
    outcome = outcome_with(site)
    _, _, page = read(write_training_report(site, outcome, compared(outcome), labelled_herd(), FITTED))
    assert "<script" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', page)
    assert str(site.settings.home) not in page
    drawn = svgs(page)
    assert len(drawn) == 3
    for item in drawn:
        assert ET.fromstring(item).tag.endswith("svg")
    loss, judged, laid_out = ("".join(ET.fromstring(item).itertext()) for item in drawn)
    assert "all animals" in loss
    assert "validation mAP" in judged
    assert "all animals" not in judged  # nobody decided when it stops
    assert "model without fold 1 (72)" in laid_out
    assert "Distances between groups mean little" in words(page)


def test_pictures_that_cannot_be_read_leave_a_pair_without_pictures(site: Site) -> None:
    outcome, labelled = outcome_with(site), labelled_herd()
    alike, unlike = pages.hardest_pairs(site, labelled, FITTED)
    fold = dict(zip(NAMES, labelled.compartments.tolist(), strict=True))
    assert len(alike) == len(unlike) == pages.PAIRS
    assert all(fold[pair.left.name] == fold[pair.right.name] for pair in alike)  # one model's vectors
    assert all(pair.left.name != pair.right.name for pair in alike)
    assert all(pair.left.name == pair.right.name for pair in unlike)
    _, _, page = read(write_training_report(site, outcome, Comparison(), labelled, FITTED))
    assert page.count("this detection is no longer in the database") == 4 * pages.PAIRS


def test_a_run_without_any_figure_says_so(site: Site) -> None:
    outcome = outcome_with(site, logged=False)
    nothing = labelled_herd().rows(np.zeros(6 * len(NAMES), dtype=bool))
    card, text, page = read(write_training_report(site, outcome, Comparison(), nothing, FITTED))
    assert card["figures"] == []
    assert card["not_compared"] == []
    assert svgs(page) == []
    for report in (text, words(page)):
        assert "Nothing was measured" in report
    assert words(page).count("There was no pair to show.") == 2


def test_trainings_that_were_not_validated_have_a_loss_and_no_map(site: Site) -> None:
    outcome = outcome_with(site, judged=False)
    found = plots.lines_of(outcome)
    assert len(found) == 2
    assert plots.validation_curves(found) is None
    assert "training loss" in "".join(ET.fromstring(plots.loss_curves(found)).itertext())
    assert (plots.learning_curves(outcome) or b"").startswith(b"\x89PNG")
    assert plots.learning_curves(outcome_with(site, logged=False)) is None
    card, _, page = read(write_training_report(site, outcome, compared(outcome), labelled_herd(), FITTED))
    assert {item["validation_map"] for item in card["trainings"]} == {None}
    assert len(svgs(page)) == 2


def test_one_split_counts_only_what_was_trained_on(site: Site) -> None:
    outcome = outcome_with(site, folds=0)
    split = outcome.plan.splits[0]
    card, text, page = read(write_training_report(site, outcome, compared(outcome), labelled_herd(1), FITTED))
    assert 0 < len(split.train) < len(NAMES)
    assert card["trained_on"]["trained_on"]["individuals"] == len(split.train)
    assert card["trained_on"]["labelled"]["individuals"] == len(NAMES)
    assert card["folds"] == []
    assert f"{len(split.train)} animals to train on" in text
    assert "training part, efficientnet_lite0 (main)" in words(page)
    assert "model that is used (144)" in "".join(ET.fromstring(svgs(page)[-1]).itertext())


def test_the_map_is_the_same_each_time_and_shows_whole_animals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MOST", 30)
    first, second = maps.panels(labelled_herd()), maps.panels(labelled_herd())
    assert [panel.compartment for panel in first] == [0, 1]
    for one, other in zip(first, second, strict=True):
        assert (len(one.places), one.of) == (30, 72)
        assert np.bincount(one.individual).tolist() == [6] * 5
        np.testing.assert_array_equal(one.places, other.places)
    alike = replace(labelled_herd(), vectors={"multiscale": VectorSet("r", "multiscale", np.ones((144, 4), "f4") / 2)})
    assert maps.panels(alike) == ()


@pytest.mark.parametrize(
    ("estimate", "unit", "text"),
    [
        (Estimate(0.26, 0.213, 0.312, 9, 9), "share", "26.0 % (21.3 to 31.2)"),
        (Estimate(1.0, 0.9996, 1.0, 9, 9), "share", "100 % (>99.9 to 100)"),
        (Estimate(-0.03, -0.2, 0.1, 9, 9), "number", "-0.03 (-0.20 to 0.10)"),
        (Estimate(float("nan"), 0.0, 1.0, 0, 0), "share", "not measured"),
        (None, "share", "not measured"),
    ],
)
def test_a_figure_is_written_with_its_interval(estimate: Estimate | None, unit: str, text: str) -> None:
    assert with_interval(estimate, unit) == text


def test_a_figure_that_nobody_can_explain_is_refused() -> None:
    with pytest.raises(ValueError, match="magic"):
        RecipeFigures("r", FINE_TUNED, {"magic": Estimate(1, 1, 1, 1, 1)}, 1, 1)


def test_a_recipe_that_is_not_compared_is_named_with_its_own_card(site: Site) -> None:
    outcome = outcome_with(site)
    missing = (
        NotCompared("mobile.tuned-1", "only the newest 3 are measured anew", "reports/training/x/model_card.json"),
        NotCompared("mobile.tuned-0", "12 of these detections cannot be judged under it", None),
    )
    card, text, page = read(
        write_training_report(site, outcome, compared(outcome, *missing), labelled_herd(), FITTED)
    )  # fmt: skip
    assert card["not_compared"][0]["card"] == "reports/training/x/model_card.json"
    assert [item["recipe"] for item in card["not_compared"]] == ["mobile.tuned-1", "mobile.tuned-0"]
    for report in (text, words(page)):
        assert "Not in this table: 2 recipes." in report
        assert "its own figures are in reports/training/x/model_card.json" in report
        assert "cannot be judged under it; it has no model card" in report


def test_the_card_counts_what_was_seen_and_what_was_labelled(site: Site) -> None:
    made = outcome_with(site)
    lost = frozenset(p.key for p in data().pictures if p.individual == NAMES[0] or p.key.endswith("-2-1"))
    outcome = replace(made, left_out=lost)
    card, text, page = read(write_training_report(site, outcome, compared(outcome), labelled_herd(), FITTED))
    facts = card["trained_on"]
    assert (facts["labelled"]["pictures"], facts["unreadable_pictures"]) == (144, 29)
    assert (facts["trained_on"]["pictures"], facts["trained_on"]["individuals"]) == (115, 23)
    assert facts["dataset_digest"] == made.plan.data.digest
    assert facts["seen_digest"] == data().without(lost).digest != made.plan.data.digest
    assert sum(fold["individuals_judged"] for fold in card["folds"]) == 23
    for report in (text, words(page)):
        assert "Of 144 labelled pictures 29 could not be read" in report
        assert f"Digest of the data: {facts['seen_digest']}" in report
        assert f"Digest of all of them: {facts['dataset_digest']}" in report
    record = outcome.record()
    assert (record["dataset_digest"], record["seen_digest"]) == (facts["dataset_digest"], facts["seen_digest"])
    assert record["counts"]["pictures"] == 115


def test_pictures_of_an_unknown_flank_are_counted(site: Site) -> None:
    some = TrainingSet(tuple(replace(p, flank="" if p.flank == "right" else p.flank) for p in data().pictures))
    outcome = outcome_with(site, given=some)
    card, text, page = read(write_training_report(site, outcome, compared(outcome), labelled_herd(), FITTED))
    assert card["trained_on"]["by_flank"]["unknown"]["pictures"] == 48
    for report in (text, words(page)):
        assert "48 of these pictures do not say which flank they show" in report
