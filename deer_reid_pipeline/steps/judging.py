"""A validation from end to end: judge, write the report, keep its row, and act on its verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from deer_reid_pipeline.errors import ReleaseError
from deer_reid_pipeline.reid.evaluation.gate import PASS
from deer_reid_pipeline.steps.releases import Change, promote
from deer_reid_pipeline.steps.report import PAGE, write_report
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.tuning import propose_fit
from deer_reid_pipeline.steps.validation import ValidationResult, validate
from deer_reid_pipeline.store.releases import candidates, live_release
from deer_reid_pipeline.store.reports import TUNING, VALIDATION, add_report, report_of_run

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judgement:
    """A validation and the number of the report that keeps it."""

    result: ValidationResult
    report: int


def judge(
    site: Site,
    *,
    candidate: int | None = None,
    recipe: str | None = None,
    control: bool = True,
    run_id: str | None = None,
    say: LogLine = log.info,
) -> Judgement:
    """Validate, write the report and store its row.

    Args:
        candidate: release to be judged against the live one.
        recipe: name or id of a recipe to be judged beside the live one.
        control: judge the background alone too.

    Raises:
        DatabaseError: there is no such release or recipe.
        DeerReidError: the report cannot be written.
    """
    result = validate(site, candidate=candidate, recipe=recipe, control=control, say=say)
    folder = write_report(site, result)
    result = result.with_report(folder / PAGE)
    with site.database.session() as session:
        row = add_report(
            session,
            VALIDATION,
            result.as_json(),
            recipe_id=result.judged.recipe.id,
            release_id=result.live.release_id,
            candidate_id=None if result.candidate is None else result.candidate.release_id,
            verdict=result.verdict.verdict,
            data_digest=result.data_digest,
            folder=folder.relative_to(site.settings.home).as_posix(),
            run_id=run_id,
        )
    say(f"{result.verdict.verdict}: {'; '.join(result.verdict.reasons) or 'every claim was shown'}")
    return Judgement(result, row.id)


def candidate_to_judge(site: Site, run_id: str) -> int | None:
    """What a run should judge against the live release: what it has fitted itself, else the newest candidate.

    A candidate that was judged before is judged again: animals may have been named since.
    """
    with site.database.session() as session:
        fitted = report_of_run(session, TUNING, run_id)
        if fitted is None:
            waiting = None if live_release(session) is None else next(iter(candidates(session)), None)
            return None if waiting is None else waiting.id
        number = fitted.id
    return propose_fit(site, number, run_id).candidate


@dataclass(frozen=True)
class Released:
    """What a run's verdict led to: the promotion that was done, or why there was none."""

    change: Change | None
    reason: str


def act_on_verdict(site: Site, run_id: str, *, backup: bool = True) -> Released:
    """Promote the candidate that this run has judged, if its report says PASS.

    What another run judged is left alone: a person may have left it, and the live release may be another by now.
    """
    with site.database.session() as session:
        report = report_of_run(session, VALIDATION, run_id)
    if report is None:
        return Released(None, "this run judged nothing")
    if report.candidate_id is None:
        return Released(None, f"report {report.id} judged no candidate")
    if report.verdict != PASS:
        return Released(None, f"release {report.candidate_id} waits: report {report.id} says {report.verdict}")
    try:
        change = promote(
            site,
            report.candidate_id,
            reason=f"validation report {report.id} says PASS",
            backup=backup,
            run_id=run_id,
        )
    except ReleaseError as refused:
        return Released(None, str(refused))
    return Released(change, change.reason)
