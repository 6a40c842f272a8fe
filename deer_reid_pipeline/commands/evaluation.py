"""`validate` and `tune`: how good the identities are, and thresholds that rest on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deer_reid_pipeline.commands.common import Json, Verbose, emit, ready_site
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.terminal import Console, Progress

if TYPE_CHECKING:
    from deer_reid_pipeline.steps.site import Site

SHOWN = {
    "rank1": "right animal first (rank-1)",
    "rank5": "right animal among the first five (rank-5)",
    "map": "ranking (mAP)",
    "roc_auc": "two pictures told apart (ROC-AUC)",
    "fpir": "unknown animals given a name (FPIR)",
    "fnir": "returning animals not named rightly (FNIR)",
    "wrong_names": "names given that are wrong",
    "calibration_error": "error of the stated probabilities",
}
"""Figures printed in the terminal, in this order; the report has all of them."""


def validate(
    candidate: Annotated[
        int | None, typer.Option(help="Release to judge against the live one (see `deer-reid release status`).")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe to judge beside the live one; embed with it first (`reembed --recipe`).")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Judge the background alone too; half a minute at first.")
    ] = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judge the identities on the animals that people named: a verdict, figures with intervals, a report to read."""
    from deer_reid_pipeline.defs.in_process import run_job

    if candidate is not None and recipe is not None:
        raise DeerReidError("--candidate and --recipe are two different questions: give one of them")
    console = Console(as_json)
    site = ready_site(console)
    options = {"candidate": candidate or 0, "recipe": recipe or "", "control": control}
    with Progress(console):
        outcome = run_job("validation_job", config={"ops": {"validation_report": {"config": options}}}, verbose=verbose)
    if not outcome.success:
        raise DeerReidError(f"not validated: {outcome.error}")
    found = _validation_of(site, outcome.run_id)
    _say_validation(console, found)
    emit(as_json, found)


def tune(
    bound: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.5,
            help="Share of searches for unknown animals that may return a name; default: as the live release has it.",
        ),
    ] = None,
    mode: Annotated[
        Literal["enhanced", "fast"] | None,
        typer.Option(
            help="enhanced fuses two branches; fast lets the multi-scale one decide alone, and computes the second "
            "network of new animals only; default: as the live release has it.",
        ),
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Make the candidate live when the gate says PASS.")
    ] = False,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Judge the background alone too; half a minute at first.")
    ] = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fit weights, thresholds and probabilities to your own animals, and judge them on animals outside the fit."""
    from deer_reid_pipeline.defs.in_process import run_job
    from deer_reid_pipeline.steps.releases import status

    started = time.perf_counter()
    console = Console(as_json)
    site = ready_site(console)
    config = {
        "ops": {
            "ensemble_weights": {"config": {"bound": bound or 0.0, "mode": mode or ""}},
            "validation_report": {"config": {"candidate": -1, "control": control}},
            "embedding_release": {"config": {"promote": promote}},
        }
    }
    with Progress(console):
        outcome = run_job("tuning_job", config=config, verbose=verbose)
    if not outcome.success:
        raise DeerReidError(f"not tuned: {outcome.error}")
    fitted = _report_of(site, "tuning", outcome.run_id)
    judged = _validation_of(site, outcome.run_id)
    for line in fitted["rationale"]:
        console.say(line)
    _say_validation(console, judged)
    after = status(site)
    live = after.live.release if after.live else None
    waits = judged["candidate"] if judged["candidate"] != live else None
    if waits is not None:
        then = "its report does not say PASS, so it stays a candidate"
        if judged["verdict"] == "PASS":
            then = f"`deer-reid release promote {waits}` makes it live"
        console.say(f"Release {waits} waits, release {live} stays live: {then}.")
    elif judged["candidate"] is not None:
        console.say(f"Release {live} is live now.")
    console.say(f"The fit, with the table of weights: {site.settings.home / fitted['folder'] / 'tuning_report.txt'}")
    emit(
        as_json,
        {
            "verdict": judged["verdict"] if judged["candidate"] is not None else None,
            "candidate": judged["candidate"],
            "live": live,
            "promoted": judged["candidate"] is not None and judged["candidate"] == live,
            "tuning": fitted,
            "validation": judged,
            "seconds": round(time.perf_counter() - started, 3),
        },
    )


def _report_of(site: Site, kind: str, run_id: str) -> dict[str, Any]:
    """What a run stored as a report of a kind, without the fitted policies themselves."""
    from deer_reid_pipeline.store.reports import report_of_run

    with site.database.session() as session:
        row = report_of_run(session, kind, run_id)
        if row is None:
            raise DeerReidError(f"run {run_id} stored no {kind} report; its log is in the UI (`deer-reid serve`)")
        return {key: value for key, value in row.summary.items() if key != "fitted"} | {
            "number": row.id,
            "folder": row.folder,
        }


def _validation_of(site: Site, run_id: str) -> dict[str, Any]:
    return _report_of(site, "validation", run_id)


def _say_validation(console: Console, found: dict[str, Any]) -> None:
    trust = "Can the identities of what is live be trusted?"
    if found["compared_with"] is None:
        console.say(f"{trust} {found['verdict']} (recipe {found['recipe']})")
    else:
        what = f"release {found['candidate']}" if found["candidate"] is not None else "this recipe"
        console.say(f"{trust} {found['live_verdict']} (recipe {found['compared_with']})")
        console.say(f"May {what} (recipe {found['recipe']}) replace it? {found['verdict']}")
    for reason in found["reasons"]:
        console.say(f"  {reason}")
    for name, words in SHOWN.items():
        item = found["metrics"].get(name)
        if item is not None and item["value"] is not None:
            console.say(
                f"  {words}: {100 * item['value']:.1f} % (95 %: {100 * item['low']:.1f} to {100 * item['high']:.1f}, "
                f"n = {item['n']})"
            )
    owner = [item["result"] for item in found["owner"]]
    console.say(
        f"  owner's criteria: {owner.count('PASS')} PASS, {owner.count('FAIL')} FAIL, "
        f"{len(owner) - owner.count('PASS') - owner.count('FAIL')} not measured"
    )
    for line in found["remarks"]:
        console.say(f"  {line}")
    console.say(f"Report: {found['report']}")
