"""`finetuned_embeddings`: all detections under a fine-tuned recipe, the fold models' vectors that judge it, and the
candidate release that the gate decides on.

Old vectors stay. A fold's model embeds what people named, of all individuals: it judges those of its fold, and
searches for them among all others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.reid.evaluation.estimates import estimate
from deer_reid_pipeline.reid.evaluation.labelled import Labelled, in_compartments_of
from deer_reid_pipeline.reid.evaluation.protocol import evaluate
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.steps.embeddings import embed_detections
from deer_reid_pipeline.steps.policies import first_policy
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.training_report import CARD, RecipeFigures, write_training_report
from deer_reid_pipeline.steps.training_report.figures import (
    EARLIER,
    FINE_TUNED,
    FIRST,
    LIVE,
    STARTED_FROM,
    Comparison,
    NotCompared,
)
from deer_reid_pipeline.steps.truth import judged_by_others, load_truth
from deer_reid_pipeline.steps.tuning import fit_release, propose_fit
from deer_reid_pipeline.store.recipes import training_of, tuned_recipes
from deer_reid_pipeline.store.releases import fitted_of, live_release
from deer_reid_pipeline.store.reports import TRAINING, add_report, newest_folder_about, newest_report, report_of_run
from deer_reid_pipeline.store.vectors import embedded
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.outcome import Outcome, outcome_of
from deer_reid_pipeline.training.plan import read_plan
from deer_reid_pipeline.training.worker import read_result

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

MOST_EARLIER = 3
"""Earlier fine-tuned recipes that a report measures anew; it says where the cards of the others are."""


@dataclass(frozen=True)
class Embedded:
    """What was embedded: detections under the recipe, and under its fold recipes."""

    recipe: str
    detections: int
    by_folds: int


@dataclass(frozen=True)
class Proposed:
    """A fine-tuned recipe as it waits to be judged.

    Attributes:
        candidate: number of the release; None where there is too little to fit a policy.
        reason: why there is a candidate, or none.
        folder: of the report and the model card.
    """

    recipe: str
    candidate: int | None
    reason: str
    compared: tuple[RecipeFigures, ...]
    folder: Path


def trained_recipe(site: Site, run_id: str | None) -> str:
    """The recipe that this run has trained, else the one trained last.

    Raises:
        DatabaseError: none was trained yet.
    """
    with site.database.session() as session:
        row = report_of_run(session, TRAINING, run_id) if run_id else None
        row = row or newest_report(session, TRAINING)
        if row is None or row.recipe_id is None:
            raise DatabaseError("no recipe was fine-tuned yet: run deer-reid train")
        return str(row.recipe_id)


def outcome_of_recipe(site: Site, recipe_id: str) -> Outcome:
    """What the training of a recipe left under the home.

    Raises:
        TrainingError: its folder is gone or incomplete.
    """
    with site.database.session() as session:
        training = training_of(session, recipe_id)
    if training is None:
        raise TrainingError(f"{recipe_id} was not fine-tuned here")
    folder = site.settings.home / "training" / str(training["run"])
    plan = read_plan(folder)
    results = {job.name: read_result(folder / job.name) for job in plan.jobs()}
    done = {name: result for name, result in results.items() if result is not None}
    if len(done) < len(results):
        raise TrainingError(f"the training in {folder} is not finished: run deer-reid train again")
    outcome = outcome_of(plan, folder, done)
    if outcome.recipe.id != recipe_id:
        raise TrainingError(
            f"the training in {folder} was made by an earlier version, by which {recipe_id} cannot be reported on: "
            "train again"
        )
    return outcome


def comparison_of_run(site: Site, run_id: str) -> dict[str, dict[str, Any]]:
    """The figures of the recipe that a run has trained and of those before it, by recipe; empty where it trained none.

    Each as `RecipeFigures.as_json` gives it.
    """
    with site.database.session() as session:
        row = report_of_run(session, TRAINING, run_id)
        return {} if row is None else dict(row.summary.get("figures", {}))


def embed_finetuned(site: Site, recipe_id: str, say: LogLine = log.info) -> Embedded:
    """Embed every detection under a fine-tuned recipe, and what people named under each fold's recipe too.

    What has its vectors already is passed over, so a killed run goes on where it was.
    """
    recipe = site.usable(site.stored_recipe(recipe_id))
    made = update_profiles(site, recipe, say, backlog=True).embedded
    return Embedded(recipe_id, made, embed_judges(site, recipe_id, say))


def embed_judges(site: Site, recipe_id: str, say: LogLine = log.info) -> int:
    """Embed what people named for the fold models that judge it, pictures that came after the training included.

    Returns:
        How many detections were embedded; 0 where the recipe is not fine-tuned.
    """
    made = 0
    for judge, keys in judged_by_others(site, recipe_id).items():
        with site.database.session() as session:
            have = embedded(session, judge, BRANCHES, keys)
        todo = [key for key in keys if key not in have]
        if todo:
            say(f"{judge}: judges among {len(keys)} detections, {len(todo)} to embed")
            judging = site.usable(site.stored_recipe(judge))
            made += embed_detections(site, judging, todo, say, step="vectors of fold models").embedded
    return made


def propose_finetuned(site: Site, recipe_id: str, *, run_id: str | None = None, say: LogLine = log.info) -> Proposed:
    """Fit thresholds to the fold models' vectors, propose the release, and write the report and the model card."""
    fitting = fit_release(site, recipe=recipe_id, run_id=run_id, say=say)
    proposal = propose_fit(site, fitting.report, run_id=run_id, say=say)
    fitted = _first(site, recipe_id) if fitting.tuned is None else fitting.tuned.fitted
    labelled = load_truth(site, recipe_id).labelled
    compared = compare_recipes(site, recipe_id, fitted, labelled, say)
    outcome = outcome_of_recipe(site, recipe_id)
    folder = write_training_report(site, outcome, compared, labelled, fitted)
    with site.database.session() as session:
        add_report(
            session,
            TRAINING,
            {
                "recipe": recipe_id,
                "figures": {item.recipe: item.as_json() for item in compared.figures},
                "candidate": proposal.candidate,
                "reason": proposal.reason,
                "epochs": outcome.epochs,
                "seconds": round(outcome.seconds, 1),
                "counts": outcome.seen.counts(),
            },
            recipe_id=recipe_id,
            candidate_id=proposal.candidate,
            data_digest=outcome.plan.data.digest,
            folder=folder.relative_to(site.settings.home).as_posix(),
            run_id=run_id,
        )
    return Proposed(recipe_id, proposal.candidate, proposal.reason, compared.figures, folder)


def compare_recipes(
    site: Site, recipe_id: str, fitted: FittedPolicy, labelled: Labelled, say: LogLine = log.info
) -> Comparison:
    """The figures of a fine-tuned recipe and of those before it, on the same detections in the same compartments.

    Args:
        labelled: as `load_truth` gives it under the recipe: nobody is judged by a model that was trained on it.
    """
    if labelled.individuals < 2:
        return Comparison()
    found = [_figures(recipe_id, FINE_TUNED, labelled, fitted)]
    left_out = []

    def leave_out(key: str, why: str) -> None:
        say(f"not compared with {key}: {why}")
        left_out.append(NotCompared(key, why, _card_of(site, key)))

    before, others = _before(site, recipe_id)
    for key, what in before.items():
        truth = load_truth(site, key).labelled
        keep = np.isin(np.array([str(k) for k in truth.keys]), np.array([str(k) for k in labelled.keys]))
        own = truth.rows(keep) if len(truth) else truth
        if len(own) < len(labelled):
            leave_out(key, f"{len(labelled) - len(own)} of these detections cannot be judged under it")
            continue
        if own.divided and not _alike(own, labelled):
            leave_out(key, "its models were trained without other groups of animals")
            continue
        say(f"comparing with {key}")
        found.append(_figures(key, what, in_compartments_of(own, labelled), _policies(site, key)))
    for key in others:
        leave_out(key, f"of the earlier recipes only the newest {MOST_EARLIER} are measured anew")
    return Comparison(tuple(found), tuple(left_out))


def _before(site: Site, recipe_id: str) -> tuple[dict[str, str], list[str]]:
    """Recipes to be compared with, and what each is: what it started from, what is live, the newest of the others.

    Returns:
        Them, and the fine-tuned recipes that are older.
    """
    with site.database.session() as session:
        training = training_of(session, recipe_id) or {}
        live = live_release(session)
        tuned = [key for key in tuned_recipes(session) if key != recipe_id]
        found = {str(training["base"]): STARTED_FROM} if "base" in training else {}
        if live is not None and live.recipe_id != recipe_id:
            found.setdefault(live.recipe_id, LIVE)
    found |= {key: EARLIER for key in tuned[:MOST_EARLIER] if key not in found}
    return found, [key for key in tuned if key not in found]


def _card_of(site: Site, recipe_id: str) -> str | None:
    """A recipe's own model card, relative to the home; None where it was deleted or never was."""
    with site.database.session() as session:
        folder = newest_folder_about(session, TRAINING, recipe_id, "reports")
    return f"{folder}/{CARD}" if folder and (site.settings.home / folder / CARD).is_file() else None


def _alike(one: Labelled, other: Labelled) -> bool:
    """Whether both are divided into the same groups of individuals."""
    groups = [dict(zip(each.names, each.compartments.tolist(), strict=True)) for each in (one, other)]
    pairs = {(groups[0][name], groups[1][name]) for name in groups[0]}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _policies(site: Site, recipe_id: str) -> FittedPolicy:
    """What a recipe is judged with: the live release's policies where it is live, else those that it starts with."""
    with site.database.session() as session:
        live = live_release(session)
        if live is not None and live.recipe_id == recipe_id:
            return fitted_of(live)
    return _first(site, recipe_id)


def _first(site: Site, recipe_id: str) -> FittedPolicy:
    return FittedPolicy(policy=first_policy(site.stored_recipe(recipe_id)))


def _figures(recipe_id: str, what: str, labelled: Labelled, fitted: FittedPolicy) -> RecipeFigures:
    evaluation = evaluate(labelled, fitted)
    figures = {name: estimate(item) for name, item in evaluation.statistics.items() if name in FIRST}
    return RecipeFigures(recipe_id, what, figures, evaluation.made, evaluation.true, evaluation.by_chance)
