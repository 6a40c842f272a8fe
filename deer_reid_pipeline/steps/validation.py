"""`validate`: how good the identities are, and whether a candidate may replace what is live.

Only what a person identified is truth. Nothing is written here: the report's files are made by `steps.report`, its row
by `store.reports`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from deer_reid_pipeline import progress as watching
from deer_reid_pipeline.errors import DatabaseError, DeerReidError
from deer_reid_pipeline.reid.evaluation.blocks import fused_blocks
from deer_reid_pipeline.reid.evaluation.criteria import Finding
from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Statistic, difference, estimate
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation
from deer_reid_pipeline.reid.evaluation.gate import INCONCLUSIVE, Verdict, judge_candidate, judge_live, noted
from deer_reid_pipeline.reid.evaluation.labelled import Labelled, in_compartments_of
from deer_reid_pipeline.reid.evaluation.protocol import Progress, evaluate
from deer_reid_pipeline.reid.evaluation.retrieval import retrieve
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.steps.owner_criteria import HomeState, owner_criteria
from deer_reid_pipeline.steps.policies import first_policy
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import Truth, data_digest, load_truth
from deer_reid_pipeline.steps.validation_result import Subject, ValidationResult
from deer_reid_pipeline.store.assignments import detection_counts
from deer_reid_pipeline.store.checks import individuals_with_sightings
from deer_reid_pipeline.store.recipes import fold_of_recipe
from deer_reid_pipeline.store.releases import fitted_of, get_release
from deer_reid_pipeline.store.truth import embedded_recipe, profiled_individuals
from deer_reid_pipeline.vision.recipe import Recipe

__all__ = ["Background", "Subject", "ValidationResult", "made_backgrounds", "validate"]

log = logging.getLogger(__name__)

LogLine = Callable[[str], None]

MOST_FROM_REVIEWS = 0.05
"""Share of the judged encounters that may be known from reviews of matches and shortlists alone."""


@dataclass(frozen=True)
class Background:
    """Vectors of the background alone, and a remark on how they were made."""

    labelled: Labelled
    remark: str = ""


BackgroundSource = Callable[[Site, Recipe, Labelled], Background | None]


def validate(
    site: Site,
    *,
    candidate: int | None = None,
    recipe: str | None = None,
    control: bool = True,
    progress: Progress = watching.report,
    say: LogLine = log.info,
    backgrounds: BackgroundSource | None = None,
) -> ValidationResult:
    """Judge what is live, and a candidate beside it, on all detections that a person identified.

    Where either is fine-tuned, each individual is judged by a model that was trained without it, and both are judged
    on the same detections in the same compartments.

    Args:
        candidate: release to be judged against the live one.
        recipe: name or id of a recipe to be judged instead of a release, with the policy that it starts with; of a
            fine-tuned one, that of the recipe it was made from.
        control: embed and judge the background alone, which takes a while the first time.
        progress: is told the step, how many stages are done, and how many there are.
        backgrounds: where background vectors come from; by default they are made by `steps.background_control`.

    Raises:
        DatabaseError: there is no such release, nothing was embedded under such a recipe, or it is a fold recipe.
        ValueError: both a candidate and a recipe were given.
    """
    started = datetime.now(UTC)
    live, remarks = _live(site, judged_alone=candidate is None and recipe is None)
    other = _candidate(site, live, candidate, recipe)
    truth = load_truth(site, live.recipe.id)
    remarks += _left_out(truth, live)
    labelled, compared = truth.labelled, None
    truths = [(live, truth)]
    if other is not None:
        truths.append((other, load_truth(site, other.recipe.id)))
        labelled, compared, remark = _on_the_same(truth, truths[1][1], live, other)
        remarks += remark
    for subject, of in truths:
        remarks += _who_judged(of, subject, labelled)
    source = (backgrounds or made_backgrounds) if control else None
    say(
        f"judging {live.describe()}{f' and {other.describe()}' if other else ''} on {len(labelled)} detections of "
        f"{labelled.individuals} individuals"
    )
    missing = _too_little(labelled)
    live_evaluation = candidate_evaluation = None
    known = _known(site)
    if missing is None:
        rounds = 1 if compared is None else 2
        live_evaluation, remark = _evaluated(site, live, labelled, source, known, _part(progress, 0, rounds))
        remarks += remark
        if compared is not None and other is not None:
            candidate_evaluation, remark = _evaluated(site, other, compared, source, known, _part(progress, 1, rounds))
            remarks += remark
    bound = live.fitted.policy.false_positive_bound
    learned = _learned_from_reviews(truth, labelled)
    live_verdict = _judge(live_evaluation, missing, learned, bound)
    verdict = live_verdict
    if other is not None:
        verdict = _judge(candidate_evaluation, missing, learned, bound, live_evaluation)
    live_metrics = _figures(live_evaluation)
    return ValidationResult(
        made_at=started,
        live=live,
        candidate=other,
        live_evaluation=live_evaluation,
        candidate_evaluation=candidate_evaluation,
        verdict=verdict,
        live_verdict=live_verdict,
        owner=owner_criteria(_state(site), candidate_evaluation or live_evaluation, live_evaluation if other else None),
        metrics=live_metrics if other is None else _figures(candidate_evaluation),
        live_metrics=live_metrics,
        differences=_differences(candidate_evaluation, live_evaluation),
        counts=_counts(labelled, live_evaluation),
        data_digest=data_digest(labelled),
        remarks=tuple(dict.fromkeys(remarks)),
        seconds=(datetime.now(UTC) - started).total_seconds(),
    )


def made_backgrounds(site: Site, recipe: Recipe, labelled: Labelled) -> Background | None:
    """Background vectors as `steps.background_control` makes and stores them."""
    from deer_reid_pipeline.steps.background_control import control_vectors

    made = control_vectors(site, recipe, labelled)
    if made is None:
        return None
    remark = f"the background was judged on {len(made.labelled)} detections of {made.labelled.individuals} individuals"
    if made.rim_only:
        remark += f"; of {100 * made.rim_only:.0f} % only the rim of a body crop could be used"
    if made.lost:
        remark += f"; {made.lost} pictures could not be read any more"
    return Background(made.labelled, remark)


def _live(site: Site, judged_alone: bool) -> tuple[Subject, list[str]]:
    """What matching uses now. Overrides are judged with it, but a candidate is compared with the release itself."""
    matcher = site.matcher()
    if matcher.release_id is None:
        remark = "random weights: for trials only, never releasable"
        return Subject(matcher.recipe, FittedPolicy(policy=matcher.policy), None), [remark]
    with site.database.session() as session:
        fitted = fitted_of(get_release(session, matcher.release_id))
    if not matcher.overrides:
        return Subject(matcher.recipe, fitted, matcher.release_id), []
    words = ", ".join(matcher.overrides)
    if judged_alone:
        fitted = FittedPolicy(policy=matcher.policy)
        return Subject(matcher.recipe, fitted, matcher.release_id), [f"judged as overridden by {words}"]
    return Subject(matcher.recipe, fitted, matcher.release_id), [f"{words} is in force, and was not judged here"]


def _candidate(site: Site, live: Subject, candidate: int | None, recipe: str | None) -> Subject | None:
    if candidate is not None and recipe is not None:
        raise ValueError("judge a candidate release or a recipe, not both at once")
    if candidate is not None:
        if candidate == live.release_id:
            raise DatabaseError(f"release {candidate} is live: run validate without a candidate")
        with site.database.session() as session:
            release = get_release(session, candidate)
            recipe_id, fitted = release.recipe_id, fitted_of(release)
        return Subject(site.stored_recipe(recipe_id), fitted, candidate)
    if recipe is None or recipe in (live.recipe.id, live.recipe.name):
        return None
    with site.database.session() as session:
        found = embedded_recipe(session, recipe)
        judges = None if found is None else fold_of_recipe(session, found)
    if found is None:
        raise DatabaseError(f"nothing was embedded with recipe {recipe} yet: deer-reid reembed --recipe {recipe}")
    if judges is not None:
        raise DatabaseError(
            f"recipe {found} was trained on all individuals but those of one fold, to judge {judges} on these: judge "
            f"that one, with --recipe {judges}"
        )
    stored = site.stored_recipe(found)
    return Subject(stored, FittedPolicy(policy=first_policy(stored)), None)


def _left_out(truth: Truth, subject: Subject) -> list[str]:
    remarks = []
    if truth.without_vectors:
        remarks.append(f"{truth.without_vectors} identified detections have no vectors under {subject.recipe.id}")
    reviews = truth.reviews
    if reviews.individuals:
        remarks.append(f"{len(reviews.individuals)} encounters were identified by comparisons in the review log")
    if reviews.contradicted:
        remarks.append(f"{reviews.contradicted} encounters were left out: comparisons of them contradict each other")
    if reviews.disputed:
        remarks.append(f"{reviews.disputed} comparisons contradict the names of the detections compared")
    return remarks


def _who_judged(truth: Truth, subject: Subject, judged: Labelled) -> list[str]:
    """Of a fine-tuned recipe: whom which models judged, and who was left out."""
    if truth.models is None:
        return []
    who = [truth.models.judge(name) for name in judged.names]
    apart, itself = len([judge for judge in who if judge != subject.recipe.id]), who.count(subject.recipe.id)
    remarks = []
    if apart:
        remarks.append(
            f"{apart} individuals were judged by models that were trained without them ({truth.models.folds} folds), "
            f"under {subject.recipe.id}"
        )
    if itself:
        remarks.append(f"{itself} individuals that no training saw were judged by {subject.recipe.id} itself")
    if truth.trained_on:
        remarks.append(
            f"{truth.trained_on} individuals were left out: the recipe was trained on them ({subject.recipe.id})"
        )
    if judged.divided:
        remarks.append(
            "individuals judged by different models were ranked apart; each was searched for among all by its own"
            if judged.shared
            else "individuals judged by different models were never compared with each other"
        )
    return remarks


def _on_the_same(truth: Truth, other: Truth, live: Subject, candidate: Subject) -> tuple[Labelled, Labelled, list[str]]:
    """Both on the detections that both can be judged on, and in the same compartments."""
    first, second = truth.labelled, other.labelled
    common = set(first.keys) & set(second.keys)
    remarks = []
    if len(common) < max(len(first), len(second)):
        how = "can be judged" if truth.trained_on or other.trained_on else "are embedded"
        remarks.append(
            f"judged on the {len(common)} detections that {how} under both {live.recipe.id} ({len(first)}) and "
            f"{candidate.recipe.id} ({len(second)})"
        )
    first, second = _in_the_same_compartments(_only(first, common), _only(second, common))
    if first.shared != second.shared:
        remarks.append("searches were made within groups of individuals: not every judging model has all vectors")
        first, second = replace(first, galleries={}), replace(second, galleries={})
    return first, second, remarks


def _in_the_same_compartments(first: Labelled, second: Labelled) -> tuple[Labelled, Labelled]:
    """Both in the compartments of either; where both have some, those whose individuals share both."""
    if first.compartment is None:
        return in_compartments_of(first, second), second
    if second.compartment is None:
        return first, in_compartments_of(second, first)
    alike = in_compartments_of(second, first)
    pairs = np.stack([np.asarray(alike.compartment), second.compartment], axis=1)
    both = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    of = second.galleries if second.divided else dict.fromkeys(second.compartments.tolist(), second.vectors)
    galleries = {
        code: of[number]
        for code, number in set(zip(both.tolist(), second.compartment.tolist(), strict=True))
        if number in of
    }
    second = replace(second, compartment=both, galleries=galleries)
    return in_compartments_of(first, second), second


def _only(labelled: Labelled, keys: set[Any]) -> Labelled:
    keep = np.array([key in keys for key in labelled.keys], dtype=bool)
    return labelled if keep.all() else labelled.rows(keep)


def _too_little(labelled: Labelled) -> Finding | None:
    """Why nothing can be judged at all; None where something can."""
    how = "name animals in a drop's table (individualID), or import reviews (deer-reid review import)"
    if not len(labelled):
        return Finding("labelled_animals", None, f"No embedded detection was identified by a person: {how}.")
    if labelled.individuals < 2:
        text = f"Only one individual was identified by a person, and errors need at least two: {how}."
        return Finding("labelled_animals", None, text)
    return None


def _evaluated(
    site: Site,
    subject: Subject,
    labelled: Labelled,
    source: BackgroundSource | None,
    known: int,
    progress: Progress,
) -> tuple[Evaluation, list[str]]:
    background, remarks = None, []
    if source is not None:
        try:
            background = source(site, subject.recipe, labelled)
        except DeerReidError as error:
            remarks.append(f"the background was not judged: {error}")
        else:
            remarks += [background.remark] if background is not None and background.remark else []
            remarks += ["the background was not judged: no picture of it can be had"] if background is None else []
    control = None if background is None else background.labelled
    evaluation = evaluate(labelled, subject.fitted, control=control, gallery_size=known, progress=progress)
    if control is not None and evaluation.control is not None:
        figures = _on_the_same_pictures(labelled, control, subject.fitted, evaluation.control["rank1"])
        remarks.append(f"{figures}, under {subject.recipe.id}")
    return evaluation, remarks


def _on_the_same_pictures(labelled: Labelled, control: Labelled, fitted: FittedPolicy, background: Statistic) -> str:
    """The background was judged in a gallery of its own, smaller one, where rank-1 is easier."""
    part = _only(labelled, set(control.keys))
    ranking = retrieve(part, fused_blocks(part, fitted))
    animals = ranking.statistic("rank1").value
    return (
        f"on the same {len(part)} pictures the animals come first in {100 * animals:.1f} %, their backgrounds in "
        f"{100 * background.value:.1f} %, chance in {100 * ranking.chance_rank1:.1f} %"
    )


def _judge(
    evaluation: Evaluation | None,
    missing: Finding | None,
    learned: Finding | None,
    bound: float,
    live: Evaluation | None = None,
) -> Verdict:
    """The verdict on what is live, or on a candidate beside it.

    Args:
        missing: why nothing could be judged.
        learned: what is to be said of labels that come from reviews.
        bound: that of the live release, for both: a candidate does not choose what it is held to.
    """
    if evaluation is None:
        return Verdict(INCONCLUSIVE, (missing,) if missing is not None else ())
    verdict = judge_live(evaluation, bound) if live is None else judge_candidate(evaluation, live, bound)
    return verdict if learned is None else noted(verdict, learned)


def _learned_from_reviews(truth: Truth, labelled: Labelled) -> Finding | None:
    """Labels learned from reviews of the matcher's own matches favour what is live; None where they are few."""
    learned = len(truth.reviews.individuals)
    if learned <= MOST_FROM_REVIEWS * labelled.encounters:
        return None
    return Finding(
        "labels_from_reviews",
        None,
        f"{learned} of {labelled.encounters} encounters are known from reviews of matches and shortlists alone, "
        f"more than {100 * MOST_FROM_REVIEWS:.0f} %: what was not offered was not reviewed, which favours the live "
        "release.",
    )


def _known(site: Site) -> int:
    """Individuals that an unknown animal can be taken for."""
    with site.database.session() as session:
        return individuals_with_sightings(session)


def _figures(evaluation: Evaluation | None) -> dict[str, Estimate]:
    if evaluation is None:
        return {}
    return {**{name: estimate(item) for name, item in evaluation.statistics.items()}, **evaluation.rates}


def _differences(candidate: Evaluation | None, live: Evaluation | None) -> dict[str, Estimate]:
    if candidate is None or live is None:
        return {}

    def both(name: str, item: Statistic) -> bool:
        return name in live.statistics and bool(item.n and live.statistics[name].n)

    return {
        name: difference(item, live.statistics[name]) for name, item in candidate.statistics.items() if both(name, item)
    }


def _counts(labelled: Labelled, evaluation: Evaluation | None) -> dict[str, int]:
    if evaluation is not None:
        return {**evaluation.counts, "individuals_made": evaluation.made, "individuals_true": evaluation.true}
    return {
        "individuals": labelled.individuals,
        "encounters": labelled.encounters,
        "detections": len(labelled),
    }


def _state(site: Site) -> HomeState:
    with site.database.session() as session:
        counted = detection_counts(session)
        profiles = profiled_individuals(session)
    return HomeState(
        detections=sum(row.detections for row in counted),
        assigned=sum(row.detections for row in counted if row.method is not None),
        by_person=sum(row.detections for row in counted if row.method == "human"),
        profiles=profiles.individuals,
        on_ensemble=profiles.on_ensemble,
    )


def _part(progress: Progress, index: int, rounds: int) -> Progress:
    """Progress of one of several evaluations, told as stages of the whole."""

    def tell(stage: str, done: int, total: int) -> None:
        progress("validation", index * total + done, rounds * total)

    return tell
