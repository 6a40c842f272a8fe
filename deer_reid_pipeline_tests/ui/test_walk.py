"""An analyst's walk through the UI of the running product: lineage, a launched drop, and what an asset's page shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from deer_reid_pipeline_tests.defs.test_definitions import GROUPS, PARENTS
from deer_reid_pipeline_tests.e2e.runs import new_home
from deer_reid_pipeline_tests.launcher.conftest import wait_for
from deer_reid_pipeline_tests.ui.browser import browser, drawn_lineage, visit
from deer_reid_pipeline_tests.ui.product import WITHIN_S, Product, serving, two_drops

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(find_spec("playwright") is None, reason="pip install playwright"),
]

ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
JOB = "/locations/deer_reid_pipeline/jobs/process_drop_job"
CHECKS = """query($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
    assetChecksOrError { ... on AssetChecks { checks {
        name description executionForLatestMaterialization { evaluation { success } } } } } } } }"""
PICTURE = """() => {
    const image = document.querySelector('[role=dialog] img')
    return image !== null && image.complete && image.naturalWidth > 100 }"""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """One browser page for the whole walk."""
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def product(
    page: Any,  # first, so that nothing is started where there is no browser
    make_home: Callable[[], Path],
    lite_models: Path,
    herd: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Product]:
    """The running product, with one processed drop and one that waits."""
    assert page
    home = new_home(make_home, lite_models, DAGSTER_DISABLE_TELEMETRY="1")
    with serving(home, *two_drops(herd, tmp_path_factory.mktemp("drops"))) as running:
        yield running


@pytest.fixture(scope="module")
def launched(product: Product, page: Any) -> str:
    """The run of the drop that waited, launched by clicking, after its end."""
    assert product.runs_of(product.waiting) == {}
    visit(page, product.url + JOB, "process_drop_job")
    page.get_by_role("button", name=re.compile("Materialize all")).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Select a partition or create one").click()
    page.get_by_text(product.waiting, exact=True).locator("visible=true").last.click()
    dialog.get_by_role("button", name="Launch 1 run").click()
    wait_for(
        lambda: ENDED.intersection(product.runs_of(product.waiting).values()), "end of the run", WITHIN_S, every_s=1.0
    )
    (run,) = product.runs_of(product.waiting)
    return run


def test_the_lineage_shows_every_group_asset_and_edge(product: Product, page: Any) -> None:
    edges = {(parent, name) for name, parents in PARENTS.items() for parent in parents}
    nodes = product.ask("{ assetNodes { assetKey { path } groupName dependencyKeys { path } } }")["assetNodes"]
    assert {node["assetKey"]["path"][0]: node["groupName"] for node in nodes} == GROUPS
    assert {(key["path"][0], node["assetKey"]["path"][0]) for node in nodes for key in node["dependencyKeys"]} == edges

    visit(page, f"{product.url}/asset-groups", "profiles")
    drawn = drawn_lineage(page, list(PARENTS))
    assert drawn.names == {*PARENTS, *GROUPS.values()}
    assert drawn.edges == edges


def test_a_drop_that_was_launched_by_hand_ends_green(product: Product, page: Any, launched: str) -> None:
    assert product.runs_of(product.waiting) == {launched: "SUCCESS"}
    decided = product.home.query("SELECT DISTINCT run_id FROM match_decisions WHERE drop_key = %s", [product.waiting])
    assert decided == [(launched,)]
    visit(page, f"{product.url}/runs/{launched}", "Success")
    visit(page, f"{product.url}/assets/deer_matches?view=partitions&partition={product.waiting}", "Materialized")


@pytest.mark.parametrize(
    ("asset", "label"),
    [("detection_crops", "contact_sheet"), ("deer_matches", "contact_sheet"), ("deer_matches", "similarities")],
)
def test_an_asset_page_shows_its_pictures(product: Product, page: Any, launched: str, asset: str, label: str) -> None:
    assert launched  # the drop that it shows
    visit(page, f"{product.url}/assets/{asset}", label)
    page.get_by_role("row").filter(has_text=label).get_by_text("[Show Markdown]").click()
    page.wait_for_function(PICTURE)


def test_an_asset_page_shows_who_decided_what_from_which_numbers(product: Product, page: Any, launched: str) -> None:
    visit(page, f"{product.url}/assets/deer_matches?view=partitions&partition={product.waiting}", "decisions")
    row = page.get_by_role("row").filter(has=page.get_by_text("decisions", exact=True)).last
    behind = row.get_by_text("[Show Markdown]")  # a short table stands in the row itself
    if behind.count():
        behind.click()
        row = page.get_by_role("dialog")
    row.get_by_text("matched from").wait_for()
    numbers = product.home.query("SELECT id::text FROM match_decisions WHERE run_id = %s", [launched])
    assert numbers
    assert {number for (number,) in numbers} <= set(row.get_by_role("cell").all_inner_texts())


def test_checks_say_what_they_claim_and_what_came_out(product: Product, page: Any) -> None:
    found = product.ask(CHECKS, path=["deer_matches"])["assetNodeOrError"]["assetChecksOrError"]["checks"]
    assert len(found) == 2
    for check in found:
        assert check["executionForLatestMaterialization"]["evaluation"]["success"] is True, check["name"]
        name = check["name"]
        visit(page, f"{product.url}/assets/deer_matches?view=checks&checkDetail={name}", name)
        page.get_by_text(check["description"]).locator("visible=true").first.wait_for()
        page.get_by_text("Succeeded").locator("visible=true").first.wait_for()
