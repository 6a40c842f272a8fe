"""The search of an installation: its command, its watch, and a machine without the memory for an index."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from deer_reid_pipeline.commands import search as commands
from deer_reid_pipeline.steps.search import ready_to_search, recall_in_words, search_recall
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.search import Watched, index, resources
from deer_reid_pipeline.store.search.trial import MadeUp, fill
from deer_reid_pipeline_tests.sites import query


@pytest.fixture
def large(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A home whose 600 exemplars are too many to compare all."""
    fill(site.database, MadeUp(60, recipe_id=site.matcher().recipe.id), lambda line: None)
    monkeypatch.setattr(index, "EXACT_LIMIT", 500)
    monkeypatch.setattr(commands, "ready_site", lambda console: site)
    return site


def call(*arguments: str) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(commands.app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line), result.stderr


def test_the_command_builds_what_is_lacking_and_recall_is_compared(large: Site) -> None:
    before, said = call("recall")
    assert [item["indexed"] for item in before["searches"]] == [False, False]
    assert "Every exemplar is compared" in said
    built, said = call("index")
    assert [(item["branch"], item["method"], item["exemplars"]) for item in built["branches"]] == [
        ("efficientnet", "hnsw", 600),
        ("multiscale", "hnsw", 600),
    ]
    assert all(item["recall"] >= 0.98 and item["curve"] for item in built["branches"])
    assert "building the search index" in said
    assert "building" not in call("index")[1]
    found, said = call("recall", "--sample", "20")
    assert [(item["what"], item["sample"], item["holds"]) for item in found["searches"]] == [
        ("efficientnet", 20, True),
        ("multiscale", 20, True),
        ("matching", 20, True),
        ("best_individual", 20, True),
    ]
    assert "20 searches found" in said


def test_without_memory_for_an_index_the_search_stays_exact_and_says_why(
    large: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    matcher = large.matcher()
    monkeypatch.setattr(resources, "free_mb", lambda: 7)
    ready_to_search(large, matcher.recipe.id, matcher.policy)
    assert "MB of memory while it is built, and 7 MB are free" in caplog.text
    assert "every exemplar is compared" in caplog.text
    assert query(large, "SELECT 1 FROM pg_indexes WHERE indexname LIKE 'ix_exemplars_hnsw%'") == []
    assert [item.indexed for item in search_recall(large)] == [False, False]


def test_a_low_recall_is_said_with_what_to_do() -> None:
    good = Watched("multiscale", 200_000, True, 80, 0.991, 50)
    assert "deer-reid" not in recall_in_words([good])
    matching = replace(good, what="matching", ef_search=None, recall=0.9)
    said = recall_in_words([replace(good, recall=0.97), matching])
    assert said.endswith("Below 0.98 (multiscale, matching): run deer-reid search index --again")
    said = recall_in_words([good, matching, replace(matching, what="best_individual", k=1, recall=0.99)])
    assert "best_individual: 50 searches found 0.990 of the nearest of 200000 exemplars" in said
    assert "Below 0.98 (matching): the indexes hold" in said
    assert "search index --again" not in said, "a new build would not mend it"
