"""A matcher with odds writes the probability of each machine decision into the log; one without leaves it empty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deer_reid_pipeline.reid.calibrators import Platt
from deer_reid_pipeline.reid.odds import Odds
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import seen_in_drop
from deer_reid_pipeline_tests.sites import part_of_herd, query, read_table

NINE = Odds(likelihood=Platt(slope=2.0, intercept=0.0), base_rate=0.5, new=0.5)


@pytest.mark.parametrize("odds", [NINE, None])
def test_the_log_has_the_probability_of_each_machine_decision(
    site: Site, herd: Path, tmp_path: Path, odds: Odds | None
) -> None:
    """Recomputed by Bayes' rule from the logged shortlist, which holds everybody known here."""
    rows = read_table(herd / "observations.csv")
    events = list(dict.fromkeys(row["eventID"] for row in rows))[:5]
    hidden = {"individualID": "", "sex": "", "viewpoint": "", "lifeStage": ""}
    chosen = [row if row["eventID"] == events[0] else {**row, **hidden} for row in rows if row["eventID"] in events]
    key = register_drop(site, part_of_herd(herd, tmp_path / "drop", chosen), "auto").key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    matcher = site.matcher()
    matcher = replace(matcher, policy=matcher.policy.model_copy(update={"odds": odds, "new_below": 0.6}))
    embed_drop(site, matcher.recipe, key)
    match_drop(site, matcher, key)

    logged = query(site, "SELECT method, decision, probability, candidates FROM match_decisions ORDER BY id")
    assert {row.method for row in logged} == {"human", "machine"}
    for row in logged:
        if row.method == "human" or odds is None:
            assert row.probability is None
            continue
        assert 0 < len(row.candidates) < matcher.policy.shortlist
        weights = [0.5 / len(row.candidates) * 7.38905609893065 ** item["score"] for item in row.candidates]
        share = 0.5 if row.decision == "new_individual" else weights[0]
        assert row.probability == pytest.approx(share / (sum(weights) + 0.5), abs=1e-5)
    told = {item.row["probability"] for item in seen_in_drop(site, key) if item.row["method"] == "machine"}
    assert told == {row.probability for row in logged if row.method == "machine"}
