"""`deer-reid serve` on a home of its own, with one processed drop and one that waits for a person to launch it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from deer_reid_pipeline_tests.deploy.proxy import free_port
from deer_reid_pipeline_tests.e2e.runs import Home, end_serving
from deer_reid_pipeline_tests.launcher.conftest import wait_for
from deer_reid_pipeline_tests.sites import alike_encounters, part_of_herd, read_table

WITHIN_S = 900
"""How long anything may take; the machine may be slow."""

REGISTER = """
import sys
from pathlib import Path
import dagster as dg
from deer_reid_pipeline.defs.instance import prepare_instance
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.site import connect_site
site = connect_site(load_settings())
key = register_drop(site, Path(sys.argv[1]), "auto").key
prepare_instance(site.settings, site.database.dagster_url)
with dg.DagsterInstance.get() as instance:
    instance.add_dynamic_partitions("image_drops", [key])
print(key)
"""
"""What `deer-reid process` does before its run starts, as when it was stopped right then."""


@dataclass
class Product:
    """The running product: its address, the partition that was processed, and the one that was not."""

    url: str
    processed: str
    waiting: str
    home: Home

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        answer = requests.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=120)
        found = answer.json()
        assert "errors" not in found, found["errors"]
        return found["data"]

    def runs_of(self, partition: str) -> dict[str, str]:
        """Runs of a partition and their statuses, newest first."""
        found = self.ask(
            "query($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) "
            "{ ... on Runs { results { runId status } } } }",
            tags=[{"key": "dagster/partition", "value": partition}],
        )
        return {run["runId"]: run["status"] for run in found["runsOrError"]["results"]}


def two_drops(herd: Path, folder: Path) -> tuple[Path, Path]:
    """Named encounters of a drawn herd, and two unnamed ones of animals of which the same flank was named."""
    named, unnamed = alike_encounters(read_table(herd / "observations.csv"))
    return (
        part_of_herd(herd, folder / "named", named),
        part_of_herd(herd, folder / "unnamed", unnamed),
    )


@contextlib.contextmanager
def serving(home: Home, processed: Path, waiting: Path) -> Iterator[Product]:
    """Process one drop, register another, and serve the UI meanwhile."""
    first = home.run("process", processed, "--json").result["drop"]
    registered = subprocess.run(
        [sys.executable, "-c", REGISTER, str(waiting)],
        cwd=home.folder,
        env=home.environment(),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert registered.returncode == 0, registered.stderr
    port = free_port()
    log = home.folder / "serve.log"
    process = home.serve(port, log)
    try:
        product = Product(f"http://127.0.0.1:{port}", first, registered.stdout.split()[-1], home)
        wait_for(lambda: _answers(product, process, log), "UI", WITHIN_S, every_s=1.0)
        yield product
    finally:
        end_serving(process)
        home.stop()


def _answers(product: Product, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-4000:]
    try:
        return bool(product.ask("{ assetNodes { assetKey { path } } }")["assetNodes"])
    except requests.ConnectionError:
        return False
