"""A validation from end to end: judge, write the report's files, and keep its row, on which a promotion rests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from deer_reid_pipeline.steps.report import PAGE, write_report
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.validation import ValidationResult, validate
from deer_reid_pipeline.store.releases import candidates, live_release
from deer_reid_pipeline.store.reports import VALIDATION, add_report

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


def waiting_candidate(site: Site) -> int | None:
    """The newest release that was never live; None where there is none, or nothing is live to compare it with.

    One that was judged before is judged again: animals may have been named since.
    """
    with site.database.session() as session:
        if live_release(session) is None:
            return None
        return next((release.id for release in candidates(session)), None)
