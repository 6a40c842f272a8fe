"""`deer-reid search`: the indexes that large galleries are searched by, and what they miss."""

from __future__ import annotations

from typing import Annotated

import typer

from deer_reid_pipeline.commands.common import Json, emit, ready_site
from deer_reid_pipeline.terminal import Console, Progress

app = typer.Typer(name="search", help="How large galleries are searched.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def index(
    recipe: Annotated[str, typer.Option(help="Name or id of a recipe; default: the live release's.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Build and measure again what is there already.")] = False,
    as_json: Json = False,
) -> None:
    """Build the search indexes that the gallery needs, and measure them. Matching does it by itself where it must."""
    from deer_reid_pipeline.steps.search import described, index_for_search

    console = Console(as_json)
    site = ready_site(console)
    with Progress(console):
        plans = index_for_search(site, recipe, console.say, again=again)
    for plan in plans:
        how = "every exemplar is compared" if plan.index is None else f"searched by an HNSW index of {plan.index.kind}"
        console.say(f"{plan.branch}: {plan.rows} exemplars, {how}")
    emit(as_json, {"branches": [described(plan) for plan in plans]})


@app.command()
def recall(
    sample: Annotated[int, typer.Option(min=1, help="Searches to compare.")] = 200, as_json: Json = False
) -> None:
    """Compare searches of the live release with exact search. Below 0.98 something is missed too often."""
    from dataclasses import asdict

    from deer_reid_pipeline.steps.search import recall_in_words, search_recall

    console = Console(as_json)
    found = search_recall(ready_site(console), sample)
    console.say(recall_in_words(found))
    emit(as_json, {"searches": [asdict(item) | {"holds": item.holds} for item in found]})
