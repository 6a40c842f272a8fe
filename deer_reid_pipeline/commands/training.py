"""`train`: learn from the labelled animals, and judge what was learned on animals that it never saw."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

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
    "fnir_at_fpir_5": "not named where 5 % of strangers get a name (FNIR)",
}
"""Figures printed in the terminal, in this order."""


def train(
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Recipe to start from: original, reference, lite, mobile, or the name or id of a fine-tuned one, "
            "which goes on where it was left; default: the live one.",
        ),
    ] = "",
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs of each training.")] = None,
    folds: Annotated[
        int | None, typer.Option(min=0, max=20, help="Groups of animals for the cross-validation; 0: one split.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="triplet, arcface, supcon or supcon_arcface; default: supcon_arcface.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="One seed on one device gives the same weights; the log says where a GPU cannot."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, as NAME=VALUE; can be given again. --help-settings lists them."),
    ] = None,
    help_settings: Annotated[bool, typer.Option("--help-settings", help="List all settings and end.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Make the candidate live when the gate says PASS.")
    ] = False,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Judge the background alone too; half a minute at first.")
    ] = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune the embeddings on the animals that people named, and judge the result on animals it never saw.

    A training that was stopped goes on where it was when the command is run again with the same settings.
    """
    from deer_reid_pipeline.defs.in_process import run_job
    from deer_reid_pipeline.defs.launchpad import checked
    from deer_reid_pipeline.training.config import TrainingConfig

    started = time.perf_counter()
    console = Console(as_json)
    if help_settings:
        _list_settings(console, as_json)
        return
    chosen = {"epochs": epochs, "folds": folds, "loss": loss, "seed": seed}
    given = {name: value for name, value in chosen.items() if value is not None} | _pairs(setting or [])
    settings = checked(TrainingConfig, given).model_dump(mode="json", exclude_unset=True)
    site = ready_site(console)
    config = {
        "ops": {
            "finetuned_model": {"config": settings | {"start": start}},
            "validation_report": {"config": {"candidate": -1, "control": control}},
            "embedding_release": {"config": {"promote": promote}},
        }
    }
    with Progress(console, remarks=not verbose):
        outcome = run_job("training_job", config=config, verbose=verbose)
    if not outcome.success:
        raise DeerReidError(f"not trained: {outcome.error}")
    found = _result(site, outcome.run_id)
    _say(console, found)
    emit(as_json, found | {"run": outcome.run_id, "total_seconds": round(time.perf_counter() - started, 3)})


def _list_settings(console: Console, as_json: bool) -> None:
    from deer_reid_pipeline.training.config import TrainingConfig

    settings = {
        name: {"default": field.default, "help": field.description}
        for name, field in TrainingConfig.model_fields.items()
    }
    for name, item in settings.items():
        console.say(f"{name}={item['default']}: {item['help']}")
    emit(as_json, settings)


def _pairs(given: list[str]) -> dict[str, Any]:
    pairs = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise DeerReidError(f"--set {each}: give NAME=VALUE, such as --set width=288")
        pairs[name.strip()] = value.strip()
    return pairs


def _result(site: Site, run_id: str) -> dict[str, Any]:
    from deer_reid_pipeline.steps.training_report import CARD, PAGE
    from deer_reid_pipeline.store.reports import TRAINING, VALIDATION, report_of_run

    with site.database.session() as session:
        trained, judged = report_of_run(session, TRAINING, run_id), report_of_run(session, VALIDATION, run_id)
        if trained is None:
            raise DeerReidError(f"run {run_id} stored no training; its log is in the UI (`deer-reid serve`)")
        summary = dict(trained.summary)
        folder = site.settings.home / str(trained.folder)
        verdict = None if judged is None else judged.verdict
        reasons = [] if judged is None else judged.summary["reasons"]
        report = None if judged is None else judged.summary["report"]
    figures = summary.get("figures", {})
    return {
        "recipe": summary["recipe"],
        "epochs": summary["epochs"],
        "seconds": summary["seconds"],
        "metrics": figures.get(summary["recipe"], {}).get("figures", {}),
        "compared": figures,
        "candidate": summary.get("candidate"),
        "verdict": verdict if summary.get("candidate") is not None else None,
        "reasons": reasons,
        "model_card": str(folder / CARD),
        "training_report": str(folder / PAGE),
        "validation_report": report,
    }


def _say(console: Console, found: dict[str, Any]) -> None:
    from deer_reid_pipeline.steps.training_report.figures import FINE_TUNED

    epochs = f"{found['epochs']} epoch{'' if found['epochs'] == 1 else 's'}"
    console.say(f"Recipe {found['recipe']}: {epochs}, {found['seconds']:.0f} s of training.")
    console.say("On animals that the model judging them never saw:")
    for key, item in sorted(found["compared"].items(), key=lambda each: each[1]["what"] != FINE_TUNED):
        console.say(f"  {item['what']} {key}")
        for name, words in SHOWN.items():
            value = item["figures"].get(name)
            if value is not None and value["value"] is not None:
                interval = f"95 %: {100 * value['low']:.1f} to {100 * value['high']:.1f}, n = {value['n']}"
                console.say(f"    {words}: {100 * value['value']:.1f} % ({interval})")
    if found["candidate"] is None:
        console.say("No candidate: there is too little to fit thresholds to.")
    else:
        console.say(f"May release {found['candidate']} replace what is live? {found['verdict']}")
        for reason in found["reasons"]:
            console.say(f"  {reason}")
        if found["verdict"] == "PASS":
            console.say(f"`deer-reid release promote {found['candidate']}` makes it live (if --promote did not).")
    console.say(f"Training report: {found['training_report']}")
    console.say(f"Model card: {found['model_card']}")
