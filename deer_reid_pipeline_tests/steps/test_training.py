"""Fine-tuning on a database: what is trained on, what a killed run leaves, who judges whom, and the candidate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.steps import embeddings, training
from deer_reid_pipeline.steps.finetuned import (
    embed_finetuned,
    embed_judges,
    outcome_of_recipe,
    propose_finetuned,
    trained_recipe,
)
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.training import dataset_facts, note_training, train_model, training_set
from deer_reid_pipeline.steps.truth import load_truth
from deer_reid_pipeline.steps.validation import validate
from deer_reid_pipeline.store.recipes import fold_recipes, training_of
from deer_reid_pipeline.store.reports import TRAINING, add_report
from deer_reid_pipeline.training.crop_cache import DATA, open_cache
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.left_out import LEFT_OUT, read_left_out, write_left_out
from deer_reid_pipeline.training.outcome import Outcome
from deer_reid_pipeline.training.plan import Plan, read_plan
from deer_reid_pipeline.training.runs import Tell, run_jobs
from deer_reid_pipeline.training.worker import Result, read_log, read_result
from deer_reid_pipeline_tests.coats import SHORT, Homes, drop_of_coats, trained_id
from deer_reid_pipeline_tests.finetuned import finetuned
from deer_reid_pipeline_tests.sites import query, run_all, run_sql


@pytest.fixture
def named(homes: Homes) -> Iterator[Site]:
    """A home with named animals."""
    site = homes.copy(homes.named)
    yield site
    site.database.close()


@pytest.fixture
def fine_tuned(homes: Homes) -> Iterator[tuple[Site, Outcome]]:
    """A home in which a recipe was fine-tuned; nothing is embedded under it yet."""
    site = homes.copy(homes.trained)
    yield site, outcome_of_recipe(site, trained_id(site))
    site.database.close()


def vectors_of(site: Site, recipe: str) -> int:
    return int(query(site, "SELECT count(*) AS n FROM embeddings WHERE recipe_id = :r", r=recipe)[0].n)


def test_the_training_set_is_what_a_person_named(named: Site, tmp_path: Path) -> None:
    data = training_set(named)
    assert data.counts()["pictures"] == 72
    assert data.counts()["returning_individuals"] == 24
    facts = dataset_facts(named, SHORT)
    assert facts.too_little is None
    assert facts.digest == data.digest
    assert sum(part["individuals"] for part in facts.parts.values()) == 24
    anonymous = drop_of_coats(tmp_path / "more", 3, 1, first=9)
    table = anonymous / "observations.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("C0", ""), encoding="utf-8")
    before = data.digest
    (anonymous / "observations.csv").unlink()
    run_all(named, anonymous)
    assert training_set(named).digest == before, "what the machine decided is nothing to learn from"
    run_sql(named.database.url, "UPDATE detections SET viewpoint = 'right' WHERE given_individual = 'C00'")
    parts = dataset_facts(named, SHORT).parts
    assert sorted(part["pictures_right"] for part in parts.values()) == [0, 0, 3], "a flank that a part lacks is none"


def test_three_animals_are_refused_and_nothing_is_left(site: Site, tmp_path: Path) -> None:
    run_all(site, drop_of_coats(tmp_path / "few", 3, 3))
    assert "3 individuals" in str(dataset_facts(site, SHORT).too_little)
    with pytest.raises(TrainingError, match="too little to train on: 3 individuals"):
        train_model(site, SHORT)
    assert not query(site, "SELECT id FROM recipes WHERE training IS NOT NULL")


def move_away(site: Site, names: str) -> None:
    """As when somebody moves the pictures of animals (an SQL list), after their crops were lost.

    The pictures themselves, which other tests use too, stay.
    """
    shown = f"(SELECT image_id FROM detections WHERE given_individual IN ({names}))"
    for row in query(
        site, f"SELECT file FROM detection_crops JOIN detections ON id = detection_id WHERE image_id IN {shown}"
    ):
        (site.settings.crops_dir / row.file).unlink()
    run_sql(site.database.url, f"UPDATE images SET path = path || '.gone' WHERE id IN {shown}")
    run_sql(site.database.url, f"UPDATE drop_media SET file_path = file_path || '.gone' WHERE image_id IN {shown}")


def test_a_herd_whose_pictures_were_moved_away_is_refused_before_anything_is_trained(
    named: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[Path] = []
    said: list[str] = []

    def stopped(plan: Plan, folder: Path, tell: Tell | None = None) -> dict[str, Result]:
        reached.append(folder)
        raise TrainingError("stopped")

    monkeypatch.setattr(training, "run_jobs", stopped)
    run_sql(named.database.url, "UPDATE detections SET viewpoint = NULL WHERE given_individual = 'C20'")
    move_away(named, "'C00', 'C01'")
    with pytest.raises(TrainingError, match="stopped"):
        train_model(named, SHORT, say=said.append)
    (folder,) = reached
    lost = {picture.key for picture in training_set(named).pictures if picture.individual in ("C00", "C01")}
    assert read_left_out(folder) == lost
    assert "6 of 72 pictures cannot be read any more and are left out" in said
    assert any(line.startswith("3 of these pictures do not say which flank they show") for line in said)
    assert "heads: baseline, multiscale start anew" in said
    (folder / DATA).unlink()
    move_away(named, ", ".join(f"'C{number:02d}'" for number in range(2, 20)))
    with pytest.raises(
        TrainingError, match=r"4 individuals .* in 12 pictures that can be read.* bring back the 60 labelled pictures"
    ):
        train_model(named, SHORT)
    assert reached == [folder]
    assert not (folder / DATA).exists(), "the next run looks for the pictures again"


def test_a_run_makes_a_recipe_and_its_judges_and_embeds_the_animals_for_its_judges(
    fine_tuned: tuple[Site, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[int] = []
    monkeypatch.setattr(embeddings, "settle", lambda _embedder, _folder, _options, crops, _say: streams.append(crops))
    named, outcome = fine_tuned
    recipe = outcome.recipe.id
    with named.database.session() as session:
        folds, training = fold_recipes(session, recipe), training_of(session, recipe)
    assert training is not None
    assert sorted(folds) == [0, 1]
    assert sorted(training["individuals"]) == sorted(training_set(named).individuals)
    embedded = embed_finetuned(named, recipe)
    assert (embedded.detections, embedded.by_folds) == (72, 2 * 72)
    assert streams == [72, 72, 72], "one stream a recipe, whoever is shown"
    assert vectors_of(named, recipe) == 3 * 72
    assert {vectors_of(named, key) for key in folds.values()} == {3 * 72}
    truth = load_truth(named, recipe)
    assert (truth.trained_on, truth.without_vectors) == (0, 0)
    of = dict(zip(truth.labelled.names, truth.labelled.compartments.tolist(), strict=True))
    assert of == training["individuals"]
    assert truth.labelled.shared, "an animal is searched for among all by its judge"
    assert embed_finetuned(named, recipe).by_folds == 0, "a second time nothing is to be done"
    assert vectors_of(named, named.matcher().recipe.id) == 3 * 72, "old vectors stay"


def test_no_fold_model_was_trained_on_whom_it_judges(fine_tuned: tuple[Site, Outcome]) -> None:
    _, outcome = fine_tuned
    for split in outcome.plan.splits:
        assert not split.test & (split.train | split.validation)
    weights = {outcome.recipe.backbones["main"].weights.sha256}
    weights |= {recipe.backbones["main"].weights.sha256 for recipe in outcome.folds.values()}
    assert len(weights) == 3, "three models, not one under three names"


def test_the_candidate_is_judged_by_its_folds_and_has_a_card(fine_tuned: tuple[Site, Outcome]) -> None:
    named, outcome = fine_tuned
    note_training(named, outcome, "run-1")
    assert trained_recipe(named, "run-1") == outcome.recipe.id
    others = [finetuned(named, 0, {}, f"lite.tuned.v{number}")[0].id for number in range(5)]
    folder = "reports/training/an-earlier-one"
    (named.settings.home / folder).mkdir(parents=True)
    (named.settings.home / folder / "model_card.json").write_text("{}", encoding="ascii")
    with named.database.session() as session:
        add_report(session, TRAINING, {"figures": {}}, recipe_id=others[0], folder=folder)
    embed_finetuned(named, outcome.recipe.id)
    proposed = propose_finetuned(named, outcome.recipe.id, run_id="run-1")
    assert [item.what for item in proposed.compared] == ["fine-tuned", "started from"]
    assert {item.figures["map"].n for item in proposed.compared} == {72}
    assert all(0 < item.by_chance["rank1"] < item.by_chance["rank5"] < 1 for item in proposed.compared)
    card = json.loads((proposed.folder / "model_card.json").read_text(encoding="utf-8"))
    assert card["recipe"] == outcome.recipe.id
    assert "C00" not in json.dumps(card)
    missing = {item["recipe"]: item for item in card["not_compared"]}
    assert sorted(missing) == sorted(others), "what is not compared is named"
    assert sorted(item["why"] for item in missing.values()) == [
        *["72 of these detections cannot be judged under it"] * 3,
        *["of the earlier recipes only the newest 3 are measured anew"] * 2,
    ]
    assert [missing[key]["card"] for key in others] == [f"{folder}/model_card.json", None, None, None, None]
    assert proposed.candidate is not None
    judged = validate(named, candidate=proposed.candidate, control=False)
    assert judged.candidate is not None
    assert judged.candidate.recipe.id == outcome.recipe.id
    assert any("judged by models that were trained without them (2 folds)" in line for line in judged.remarks)
    assert judged.counts["individuals"] == 24


def test_one_split_is_judged_by_its_test_animals_alone(named: Site) -> None:
    made = train_model(named, SHORT.model_copy(update={"folds": 0}))
    assert not made.folds
    embed_finetuned(named, made.recipe.id)
    truth = load_truth(named, made.recipe.id)
    assert set(truth.labelled.names) == made.plan.splits[0].test
    assert truth.trained_on == len(made.plan.splits[0].train | made.plan.splits[0].validation)


def test_a_renamed_animal_is_still_one_that_was_trained_on(named: Site) -> None:
    made = train_model(named, SHORT.model_copy(update={"folds": 0}))
    embed_finetuned(named, made.recipe.id)
    seen = sorted(made.plan.splits[0].train)[0]
    named_before = set(load_truth(named, made.recipe.id).labelled.names)
    with named.database.session() as session:
        from sqlalchemy import text

        session.execute(text("UPDATE deer SET name = 'another name' WHERE name = :n"), {"n": seen})
        session.execute(
            text("UPDATE detections SET given_individual = 'another name' WHERE given_individual = :n"), {"n": seen}
        )
    assert set(load_truth(named, made.recipe.id).labelled.names) == named_before


def test_a_second_run_with_the_same_settings_trains_nothing_again(fine_tuned: tuple[Site, Outcome]) -> None:
    named, outcome = fine_tuned
    told: list[object] = []
    again = train_model(named, SHORT, start=outcome.plan.base.id, watch=told.append)
    assert again.recipe.id == outcome.recipe.id
    assert told == []


def test_it_goes_on_from_a_fine_tuned_recipe_only_with_something_new(
    fine_tuned: tuple[Site, Outcome], tmp_path: Path
) -> None:
    named, outcome = fine_tuned
    with pytest.raises(TrainingError, match="nothing new to train on"):
        train_model(named, SHORT, start=outcome.recipe.name)
    run_all(named, drop_of_coats(tmp_path / "later", 24, 1, first=7))
    with pytest.raises(TrainingError, match="use --folds 2, or start anew with --from lite"):
        train_model(named, SHORT.model_copy(update={"folds": 3}), start=outcome.recipe.name)
    said: list[str] = []
    further = train_model(named, SHORT, start=outcome.recipe.name, say=said.append)
    assert f"heads: baseline, multiscale go on from {outcome.recipe.id}" in said
    assert further.recipe.id != outcome.recipe.id
    assert further.plan.base.id == outcome.recipe.id
    assert further.plan.starts[1].id == outcome.folds[1].id, "a fold goes on from the model that never saw it"


def test_a_judge_is_nothing_to_start_from(fine_tuned: tuple[Site, Outcome]) -> None:
    named, outcome = fine_tuned
    with pytest.raises(TrainingError, match="is the judge of one fold of"):
        train_model(named, SHORT, start=outcome.folds[0].id)


def test_what_an_earlier_training_saw_this_one_has_seen(fine_tuned: tuple[Site, Outcome]) -> None:
    _, outcome = fine_tuned
    first = outcome.record()
    name = sorted(first["individuals"])[0]
    own = [p.key for p in outcome.plan.data.pictures if p.individual == name]
    before = {
        "individuals": {name: 1 - first["individuals"][name], "gone since": 0},
        "detections": {own[0]: 1 - first["individuals"][name], "an old picture": 1},
    }
    record = outcome.record(before)
    assert record["individuals"] == {**first["individuals"], name: None, "gone since": 0}
    assert record["detections"] == {**first["detections"], own[0]: None, "an old picture": 1}
    assert outcome.record(first) == first


def test_pictures_that_came_after_the_training_are_judged_too(fine_tuned: tuple[Site, Outcome], tmp_path: Path) -> None:
    named, outcome = fine_tuned
    embed_finetuned(named, outcome.recipe.id)
    run_all(named, drop_of_coats(tmp_path / "later", 24, 1, first=7))
    assert load_truth(named, outcome.recipe.id).without_vectors == 24
    assert embed_judges(named, outcome.recipe.id) == 2 * 24
    truth = load_truth(named, outcome.recipe.id)
    assert (truth.without_vectors, len(truth.labelled)) == (0, 96)


def test_two_trainings_are_two_recipes_with_judges_of_their_own(fine_tuned: tuple[Site, Outcome]) -> None:
    named, outcome = fine_tuned
    other = train_model(named, SHORT.model_copy(update={"patience": 9}), start=outcome.plan.base.id)
    assert other.results["all-main"].weights == outcome.results["all-main"].weights
    assert other.recipe.id != outcome.recipe.id
    with named.database.session() as session:
        both = [fold_recipes(session, each.recipe.id) for each in (outcome, other)]
    assert [sorted(each) for each in both] == [[0, 1], [0, 1]]
    assert not set(both[0].values()) & set(both[1].values())


def test_a_result_whose_weights_are_gone_is_made_again(fine_tuned: tuple[Site, Outcome]) -> None:
    named, outcome = fine_tuned
    gone = named.settings.models_dir / f"{outcome.recipe.backbones['main'].weights.sha256}.safetensors"
    gone.unlink()
    again = train_model(named, SHORT, start=outcome.plan.base.id)
    assert again.recipe.id == outcome.recipe.id
    assert again.plan.models_dir == str(named.settings.models_dir)
    assert gone.is_file()


def test_what_only_an_unfinished_run_needs_is_deleted(fine_tuned: tuple[Site, Outcome]) -> None:
    _, outcome = fine_tuned
    assert {path.name for path in outcome.folder.rglob("*") if path.is_file()} == {
        "plan.json",
        LEFT_OUT,
        "log.json",
        "result.json",
        "stderr.txt",
    }


def test_a_corrupt_cache_is_made_anew(fine_tuned: tuple[Site, Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    named, outcome = fine_tuned
    for job in outcome.plan.jobs():
        (outcome.folder / job.name / "result.json").unlink()

    def stopped(plan: Plan, folder: Path, tell: Tell | None = None) -> dict[str, Result]:
        raise TrainingError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(training, "run_jobs", stopped)
        with pytest.raises(TrainingError, match="stopped"):
            train_model(named, SHORT, start=outcome.plan.base.id)
    data = outcome.folder / DATA
    content = bytearray(data.read_bytes())
    content[100] ^= 255
    data.write_bytes(bytes(content))
    assert open_cache(outcome.folder) is None
    again = train_model(named, SHORT, start=outcome.plan.base.id)
    assert again.recipe.id == outcome.recipe.id, "the same pictures give the same weights"


def test_a_worker_that_fails_says_why_and_the_others_are_stopped(named: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def harmed(plan: Plan, folder: Path, tell: Tell | None = None) -> dict[str, Result]:
        (folder / DATA).write_bytes(b"nothing")
        return run_jobs(plan, folder, tell)

    monkeypatch.setattr(training, "run_jobs", harmed)
    with pytest.raises(TrainingError, match=r"decoded crops in .* are damaged"):
        train_model(named, SHORT)
    assert not _workers(named.settings.home)


def test_a_killed_run_leaves_no_training_behind_and_goes_on(
    named: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "discard_intermediate", lambda *_: None)
    config = SHORT.model_copy(update={"epochs": 3, "folds": 0})
    whole = train_model(named, config.model_copy(update={"workers": 1}))
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    plan = read_plan(whole.folder)
    plan.write(folder)
    for name in (DATA, "crops.json"):
        (folder / name).write_bytes((whole.folder / name).read_bytes())
    code = (
        "import sys; from pathlib import Path; from deer_reid_pipeline.training.plan import read_plan; "
        "from deer_reid_pipeline.training.runs import run_jobs; f = Path(sys.argv[1]); run_jobs(read_plan(f), f)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    (job,) = plan.jobs()
    deadline = time.monotonic() + 120
    while not read_log(folder / job.name) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(read_log(folder / job.name))
    assert 0 < done < 3
    time.sleep(3)
    assert not _workers(folder), "a worker ends with the run that started it"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    result, expected = read_result(folder / job.name), read_result(whole.folder / job.name)
    assert result is not None
    assert expected is not None
    assert (result.weights, result.projections, result.epoch) == (
        expected.weights,
        expected.projections,
        expected.epoch,
    )
    assert [entry["number"] for entry in read_log(folder / job.name)] == [1, 2, 3]


def _workers(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if "training.worker" in command and str(folder) in command:
                found.append(int(entry.name))
    return found


def test_compartments_are_those_of_the_folds_for_the_frozen_recipe_too(fine_tuned: tuple[Site, Outcome]) -> None:
    named, outcome = fine_tuned
    embed_finetuned(named, outcome.recipe.id)
    tuned: Labelled = load_truth(named, outcome.recipe.id).labelled
    assert tuned.divided
    frozen = load_truth(named, outcome.plan.base.id).labelled
    assert frozen.compartment is None
    assert np.array_equal(np.sort([str(k) for k in tuned.keys]), np.sort([str(k) for k in frozen.keys]))


def test_what_could_not_be_read_is_known_when_the_training_is_done(fine_tuned: tuple[Site, Outcome]) -> None:
    named, outcome = fine_tuned
    assert outcome.seen == outcome.plan.data
    lost = {picture.key for picture in outcome.plan.data.pictures[:7]}
    write_left_out(outcome.folder, lost)
    after = outcome_of_recipe(named, outcome.recipe.id)
    assert after.left_out == lost
    assert after.seen.counts()["pictures"] == 65
    (outcome.folder / LEFT_OUT).write_text("[", encoding="ascii")
    with pytest.raises(TrainingError, match=r"left_out.json cannot be used: .*; delete .* and train again"):
        outcome_of_recipe(named, outcome.recipe.id)
