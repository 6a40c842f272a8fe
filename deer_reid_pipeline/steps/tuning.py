"""`tune`: fit weights, thresholds and probabilities to the home's own labelled animals, and propose them as a release.

Nothing that matches changes here. What was fitted waits as a candidate, which the gate judges.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.progress import report as tell
from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.tuning.fit import Tuned, fit
from deer_reid_pipeline.steps.policies import ENHANCED, FAST, starting_from
from deer_reid_pipeline.steps.releases import propose
from deer_reid_pipeline.steps.report.writer import write_folder
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import Truth, data_digest, load_truth
from deer_reid_pipeline.store.checks import individuals_with_sightings
from deer_reid_pipeline.store.models import Report
from deer_reid_pipeline.store.releases import fitted_of, get_release, refuse_unreleasable
from deer_reid_pipeline.store.reports import TUNING, add_report, get_report, newest_report

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

FOLDS = 5


@dataclass(frozen=True)
class Fitting:
    """A fit and the report that keeps it; `tuned` is None where there was nothing to fit on."""

    report: int
    recipe: str
    release: int | None
    tuned: Tuned | None
    rationale: tuple[str, ...]


@dataclass(frozen=True)
class Proposal:
    """What came of proposing a fit: the candidate, or why there is none."""

    report: int
    candidate: int | None
    reason: str
    summary: dict[str, Any]


def fit_release(
    site: Site,
    *,
    bound: float | None = None,
    recipe: str | None = None,
    mode: str | None = None,
    run_id: str | None = None,
    say: LogLine = log.info,
) -> Fitting:
    """Fit a policy to the labelled animals under a recipe, and keep it as a report.

    Of a fine-tuned recipe each animal shows the vectors of the model that was trained without it: those of animals
    that a model was trained on are too good, and thresholds fitted on them would be wrong for all others.

    Args:
        bound: share of searches for unknown animals that may return a name; the live release's where not given.
        recipe: id of the recipe to fit for; the live release's where not given. The fit starts from the live policy;
            for another recipe, whose similarities mean something else, from the weights that it starts with.
        mode: FAST or ENHANCED; the live release's where not given.

    Raises:
        DatabaseError: the recipe is unknown or can never be released.
        ValueError: the bound is not between 0 and 1, or there is no such mode.
    """
    if mode not in (None, FAST, ENHANCED):
        raise ValueError(f"{mode!r} is not a mode: {ENHANCED} or {FAST}")
    matcher = site.matcher()
    if matcher.overrides:
        say(f"fitted beside the release itself; {', '.join(matcher.overrides)} stays in force where it is set")
    base = matcher.policy if matcher.release_id is None else site.matcher_of(matcher.release_id).policy
    chosen = matcher.recipe.id if recipe is None else recipe
    with site.database.session() as session:
        if chosen != matcher.recipe.id:
            refuse_unreleasable(session, chosen)
        known = individuals_with_sightings(session)
    fast = base.fast if mode is None else mode == FAST
    base = starting_from(base, site.stored_recipe(chosen), fast=fast, fresh=chosen != matcher.recipe.id)
    truth = load_truth(site, chosen)
    labelled = truth.labelled
    if truth.trained_on:
        say(f"{truth.trained_on} individuals are left out: every model of {chosen} was trained on them")
    tuned = None
    if labelled.individuals < 2:
        rationale: tuple[str, ...] = (_too_few(truth),)
    else:
        say(f"fitting on {len(labelled)} detections of {labelled.individuals} individuals under {chosen}")
        tuned = fit(
            labelled,
            base,
            bound=base.false_positive_bound if bound is None else bound,
            folds=FOLDS,
            gallery_size=max(known, labelled.individuals),
            progress=lambda done, total: tell("tuning", done, total),
        )
        rationale = tuned.rationale
    summary: dict[str, Any] = {"rationale": list(rationale), "individuals": labelled.individuals}
    if tuned is not None:
        summary |= tuned.as_dict() | {"fitted": tuned.fitted.model_dump(mode="json")}
    made_at = datetime.now(UTC)
    folder = write_folder(
        site.settings.home / "reports" / "tuning",
        f"{made_at:%Y%m%dT%H%M%SZ}-{chosen}",
        {
            "tuning_report.txt": tuning_text(matcher.describe(), chosen, rationale, tuned, made_at),
            "tuning_report.json": json.dumps(summary, ensure_ascii=True, indent=1, default=str),
        },
    )
    with site.database.session() as session:
        row = add_report(
            session,
            TUNING,
            summary,
            folder=folder.relative_to(site.settings.home).as_posix(),
            recipe_id=chosen,
            release_id=matcher.release_id,
            data_digest=data_digest(labelled),
            run_id=run_id,
        )
    for line in rationale:
        say(line)
    return Fitting(row.id, chosen, matcher.release_id, tuned, rationale)


def _too_few(truth: Truth) -> str:
    how = "name animals in a drop's table (individualID), or import reviews."
    if truth.trained_on:
        return (
            f"{truth.labelled.individuals} individuals were named by a person besides the {truth.trained_on} that "
            f"every model of the recipe was trained on, and fitting needs at least two: {how}"
        )
    return f"{truth.labelled.individuals} individuals were named by a person, and fitting needs at least two: {how}"


def tuning_text(live: str, recipe: str, rationale: Sequence[str], tuned: Tuned | None, made_at: datetime) -> str:
    """The fit for people: what was chosen and why, and the owner's table of weights. ASCII."""
    lines = ["DEER RE-ID TUNING REPORT", f"{made_at:%d %B %Y, %H:%M} UTC", "", f"Live: {live}", f"Fitted for: {recipe}"]
    lines += ["", "WHAT WAS CHOSEN"]
    lines += [f"- {line}" for line in rationale]
    if tuned is not None and tuned.grid:  # one branch alone has no weights to choose
        lines += [
            "",
            "WEIGHTS, BY PAIRS OF PICTURES (the owner's table: most true pairs with less than 5 % of false ones)",
            f"{'weights':<44} {'ROC-AUC':<22} {'true pairs':<24} {'from':<8} {'false pairs':<24} {'F1 from':<8}",
        ]
        for row in tuned.grid:
            weights = " + ".join(f"{weight:.2f} {branch}" for branch, weight in row.weights.items())
            area = f"{row.roc_auc.value:.3f} ({row.roc_auc.low:.3f} to {row.roc_auc.high:.3f})"
            lines.append(
                f"{weights:<44} {area:<22} {_share(row.tpr):<24} {row.threshold:<8.4f} {_share(row.fpr):<24} "
                f"{row.f1_threshold:<8.4f}"
            )
        lines += ["", "Thresholds of this table were chosen on the pairs that they are reported on."]
    text = "\n".join(lines) + "\n"
    return text.encode("ascii", "backslashreplace").decode()


def _share(item: Estimate) -> str:
    return f"{100 * item.value:.1f} % ({100 * item.low:.1f} to {100 * item.high:.1f})"


def propose_fit(site: Site, report: int | None = None, run_id: str | None = None, say: LogLine = log.info) -> Proposal:
    """Propose what a tuning report fitted (the newest, unless named) as a candidate.

    Raises:
        DatabaseError: nothing was fitted yet, or the report is not a tuning.
    """
    with site.database.session() as session:
        row = newest_report(session, TUNING) if report is None else get_report(session, report)
        if row is None or row.kind != TUNING:
            raise DatabaseError("nothing was fitted yet: run deer-reid tune")
        reason, fitted = _why_not(site, row)
        summary = {key: value for key, value in row.summary.items() if key != "fitted"}
        number, recipe = row.id, str(row.recipe_id)
    if reason is not None or fitted is None:
        say(f"no candidate: {reason}")
        return Proposal(number, None, str(reason), summary)
    why = f"tuning report {number}"
    name = "fast" if fitted.policy.fast else "tuned"
    candidate = propose(site, recipe, fitted, why, report_id=number, name=name, run_id=run_id)
    say(f"release {candidate} waits as a candidate: {why}")
    return Proposal(number, candidate, why, summary)


def _why_not(site: Site, row: Report) -> tuple[str | None, FittedPolicy | None]:
    stored = row.summary.get("fitted")
    if stored is None:
        return str(row.summary["rationale"][0]), None
    if site.stored_recipe(str(row.recipe_id)).random_weights:
        return f"recipe {row.recipe_id} has random weights and can never be released", None
    fitted = FittedPolicy.model_validate(stored)
    with site.database.session() as session:
        live = None if row.release_id is None else get_release(session, row.release_id)
        if live is not None and live.recipe_id == row.recipe_id and fitted_of(live) == fitted:
            return f"the fit is what release {live.id} has already", None
    return None, fitted
