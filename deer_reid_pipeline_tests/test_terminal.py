"""The table of who was seen: probabilities where a release has odds, and the warning where it has none."""

import io
import uuid
from typing import Any, cast

from rich.console import Console as RichConsole

from deer_reid_pipeline.reid.calibrators import Platt
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.odds import Odds
from deer_reid_pipeline.steps.site import Matcher
from deer_reid_pipeline.steps.summary import Seen
from deer_reid_pipeline.store.drops import DropSummary
from deer_reid_pipeline.terminal import Console

SUMMARY = DropSummary(3, 3, 3, 3, 1, 1, 1, 0, 1, 1, 8)
ODDS = Odds(likelihood=Platt(slope=2.0, intercept=0.0), base_rate=0.5, new=0.5, searches=321, individuals=87)


def seen(name: str | None, decision: str, probability: float | None) -> Seen:
    row: dict[str, Any] = {
        "method": "machine",
        "decision": decision,
        "similarity": 0.5,
        "probability": probability,
        "encounter": uuid.uuid4(),
        "sex": "unknown",
        "filePath": "a.jpg",
        "candidates": "N1 0.500",
        "reason": "between",
    }
    return Seen(uuid.uuid4(), name, row)


def printed(odds: Odds | None, probabilities: list[float | None]) -> str:
    console = Console(as_json=False)
    console.rich = RichConsole(file=io.StringIO(), width=200)
    matcher = Matcher(cast(Any, None), MatchPolicy(threshold=0.9, new_below=0.2, odds=odds), 1, ())
    names, outcomes = ["deer-0001", "deer-0001", None], ["matched", "matched", "uncertain"]
    items = [seen(*each) for each in zip(names, outcomes, probabilities, strict=True)]
    console.who_was_seen(items, SUMMARY, matcher, "drop", 1.0)
    return cast(io.StringIO, console.rich.file).getvalue()


def test_probabilities_stand_beside_similarities_where_a_release_has_odds() -> None:
    text = printed(ODDS, [0.914, 0.973, 0.041])
    assert "0.91 to 0.97" in text
    assert "probability of the first" in text
    assert "0.04" in text
    assert "321 encounters of 87 individuals" in text
    assert "not probabilities" not in text


def test_without_odds_the_table_says_that_similarities_are_no_probabilities() -> None:
    text = printed(None, [None, None, None])
    assert "not probabilities" in " ".join(text.split())
    assert "probability" not in text
    assert text.isascii()
