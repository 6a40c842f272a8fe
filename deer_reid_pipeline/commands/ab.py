"""`deer-reid ab`: two releases side by side on new encounters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deer_reid_pipeline.commands.common import Json, emit, ready_site
from deer_reid_pipeline.terminal import Console

if TYPE_CHECKING:
    from deer_reid_pipeline.reid.evaluation.estimates import Estimate
    from deer_reid_pipeline.steps.ab import TestInfo

app = typer.Typer(
    name="ab", help="Two releases side by side on new encounters.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def start(
    release: Annotated[int, typer.Argument(help="Release to put beside the live one.")],
    reason: Annotated[str, typer.Option(help="What it is to find out; goes into the log.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of these that it decides.")] = 0.5,
    of: Annotated[float, typer.Option(min=0, max=1, help="Share of new encounters that take part.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Let another release decide a share of new encounters, beside the live one. Both outcomes are stored."""
    from dataclasses import asdict

    from deer_reid_pipeline.steps.ab import start as begin

    console = Console(as_json)
    test = begin(ready_site(console), release, share_b=share, share_all=of, reason=reason)
    console.say(
        f"A/B test {test.test}: {100 * of:.0f} % of new encounters take part; release {test.release_b} decides "
        f"{100 * share:.0f} % of them, release {test.release_a} the others."
    )
    _say_resting(console, test)
    emit(as_json, asdict(test))


@app.command()
def stop(as_json: Json = False) -> None:
    """End the running test. Its outcomes stay."""
    from dataclasses import asdict

    from deer_reid_pipeline.steps.ab import stop as end

    console = Console(as_json)
    test = end(ready_site(console))
    console.say(f"A/B test {test.test} is over: `deer-reid ab report` compares the two.")
    emit(as_json, asdict(test))


@app.command()
def report(
    test: Annotated[int | None, typer.Option(help="Number of the test; default: the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the two releases of a test on the encounters that both decided."""
    from deer_reid_pipeline.steps.ab import ab_report

    console = Console(as_json)
    found = ab_report(ready_site(console), test)
    about, result = found.test, found.comparison
    console.say(
        f"A/B test {about.test} ({'running' if about.running else 'over'}): {result.encounters} encounters decided by "
        f"release {about.release_a} (a) and release {about.release_b} (b)."
    )
    _say_resting(console, about)
    for arm, counts in result.outcomes.items():
        console.say(f"  {arm}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
    console.say(f"  both said the same: {_shown(result.agreement)}")
    console.say(f"  a person has identified {result.with_truth} of them since")
    if result.right_gain is not None and result.wrong_gain is not None:
        for arm in result.right:
            console.say(f"  {arm}: right {_shown(result.right[arm])}, wrong name {_shown(result.wrong[arm])}")
        console.say(f"  b minus a: right {_shown(result.right_gain)}, wrong name {_shown(result.wrong_gain)}")
    else:
        console.say("  which one is right cannot be told before people have named some of these animals")
    emit(as_json, found.as_dict())


def _say_resting(console: Console, test: TestInfo) -> None:
    if test.resting is not None:
        console.say(f"  it rests: {test.resting}; until that changes, no new encounter takes part")


def _shown(item: Estimate) -> str:
    if not item.n:
        return "not measured"
    return f"{100 * item.value:.1f} % (95 %: {100 * item.low:.1f} to {100 * item.high:.1f}, n = {item.n})"
