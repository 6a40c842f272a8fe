"""A headless Chromium on the UI, and what Dagster's pages consist of."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

SHOWN_WITHIN_S = 120
"""How long a page may take to show something; the machine may be slow."""

SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

NODES = """() => [...document.querySelectorAll('foreignObject')].filter(node => node.textContent).map(node => ({
    name: node.textContent,
    x: +node.getAttribute('x'), y: +node.getAttribute('y'),
    width: +node.getAttribute('width'), height: +node.getAttribute('height')}))"""
ARROWS = """() => [...document.querySelectorAll('svg path')].map(path => path.getAttribute('d'))
    .filter(path => /^M[-0-9.]+,[-0-9.]+C/.test(path))"""
"""Every edge is a curve from the right side of a node to the left side of another one."""

SETTLED_MS = 3000

_CURVE = re.compile(r"M([-\d.]+),([-\d.]+)C[-\d.,]*?,([-\d.]+),([-\d.]+)")
_NEAR = 12.0
"""Units of the drawing between a node and the end of its edge."""


@dataclass(frozen=True)
class Drawn:
    """The lineage as it is drawn: names of nodes and groups, and edges between nodes."""

    names: frozenset[str]
    edges: frozenset[tuple[str, str]]


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A page of a fresh browser.

    Skips where there is no Playwright (`pip install playwright`) or no browser (`playwright install chromium`).
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=list(SWITCHES))
        except sync_api.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        try:
            page = chromium.new_page(viewport={"width": 1600, "height": 1000})
            page.set_default_timeout(SHOWN_WITHIN_S * 1000)
            page.set_default_navigation_timeout(SHOWN_WITHIN_S * 1000)
            yield page
        finally:
            chromium.close()


def visit(page: Any, address: str, sign: str) -> None:
    """Open a page and wait for a text that is there once it is loaded."""
    page.goto(address, wait_until="domcontentloaded")
    page.get_by_text(sign, exact=True).locator("visible=true").first.wait_for()


def drawn_lineage(page: Any, assets: Sequence[str]) -> Drawn:
    """Unfold all groups of the lineage page and read off what is drawn, once nothing is added any more."""
    page.keyboard.press("Alt+e")
    page.wait_for_function(f"count => ({NODES})().length >= count", arg=len(assets))
    page.wait_for_function(f"() => ({ARROWS})().length > 0")
    drawn = None
    while (now := _drawn(page, assets)) != drawn:
        drawn = now
        page.wait_for_timeout(SETTLED_MS)
    return now


def _drawn(page: Any, assets: Sequence[str]) -> Drawn:
    nodes = [{**node, "name": _whole(node["name"], assets)} for node in page.evaluate(NODES)]
    boxes = [node for node in nodes if node["name"] in assets]
    edges = set()
    for path in page.evaluate(ARROWS):
        curve = _CURVE.fullmatch(path or "")
        if curve is None:
            continue
        x, y, to_x, to_y = map(float, curve.groups())
        starts = [box["name"] for box in boxes if _close(box["x"] + box["width"], x) and _close(_middle(box), y)]
        ends = [box["name"] for box in boxes if _close(box["x"], to_x) and _close(_middle(box), to_y)]
        edges |= {(start, end) for start in starts for end in ends}
    return Drawn(frozenset(node["name"] for node in nodes), frozenset(edges))


def _middle(node: dict[str, Any]) -> float:
    return float(node["y"] + node["height"] / 2)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= _NEAR


def _whole(shown: str, names: Sequence[str]) -> str:
    """The name that is drawn with an ellipsis in its middle where it is long."""
    head, ellipsis, tail = shown.partition("\u2026")
    if not ellipsis:
        return shown
    (name,) = [each for each in names if each.startswith(head) and each.endswith(tail)]
    return name
