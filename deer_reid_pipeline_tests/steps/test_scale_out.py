"""DEER_REID_ENGINE=ray on a stored drop: the same rows, the same resume, the same reports of progress."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from deer_reid_pipeline.errors import SettingsError
from deer_reid_pipeline.progress import listening
from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.scale_out import stream
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps import embeddings
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Site, engine_options
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.vision.engine.options import EngineOptions
from deer_reid_pipeline_tests.scale_out.clusters import ray_nodes
from deer_reid_pipeline_tests.sites import query, run_all, settings_for

EMBED_BY_RAY = """
import sys
from pathlib import Path
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline_tests.sites import settings_for

home, url, key = sys.argv[1:]
site = Site(settings_for(Path(home), engine="ray", batch_size=2), Database(url))
embed_drop(site, site.matcher().recipe, key, lambda line: print(line, file=sys.stderr, flush=True))
"""


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    with ray_nodes({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _as_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local engine, too, computes in float32 as loaded, without measuring what would be faster."""
    monkeypatch.setattr(embeddings, "settle", lambda *_: None)


def stored_drop(site: Site, folder: Path) -> str:
    """A drop with its crops cut, and nothing embedded."""
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    return key


def stored_vectors(site: Site) -> dict[tuple[Any, str], np.ndarray[Any, Any]]:
    rows = query(site, "SELECT detection_id, branch, vector FROM embeddings")
    found = {(row[0], row[1]): np.array(json.loads(row[2])) for row in rows}
    assert len(found) == len(rows)
    return found


def forget_vectors(site: Site) -> None:
    with site.database.session() as session:
        session.execute(text("DELETE FROM embeddings"))
        session.commit()


def test_a_drop_embedded_by_ray_is_as_if_embedded_here(two_nodes: Any, site: Site, herd: Path) -> None:
    key = stored_drop(site, herd)
    recipe = site.matcher().recipe
    total = embed_drop(site, recipe, key).embedded
    here = stored_vectors(site)
    forget_vectors(site)
    damaged = site.settings.crops_dir / query(site, "SELECT file FROM detection_crops ORDER BY file LIMIT 1")[0][0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    site.settings.engine, site.settings.batch_size = "ray", 4
    told: list[int] = []
    said: list[str] = []

    with listening(lambda step, done, of: told.append(done) if (step, of) == ("embeddings", total) else None):
        report = embed_drop(site, recipe, key, said.append)
    found = stored_vectors(site)
    assert found.keys() == here.keys()
    assert min(float(found[name] @ here[name]) for name in here) >= 0.9999
    assert (report.embedded, report.without_crop) == (total, 0)
    assert damaged.read_bytes() == whole, "it was cut again"
    assert told == sorted(set(told))
    assert told[-1] == total
    assert len(told) == -(-total // 4)
    assert len(said) == 1 + len(told)
    assert all(report.seconds[branch] > 0 for branch in BRANCHES)


def test_a_home_is_embedded_again_by_one_job_on_the_cluster(
    two_nodes: Any, site: Site, herd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Animals with fewer pictures than a batch go along: nothing is computed by the machine of the command."""
    run_all(site, herd)
    recipe = site.matcher().recipe
    here = stored_vectors(site)
    fewest = query(site, "SELECT count(*) FROM detections WHERE deer_id IS NOT NULL GROUP BY deer_id ORDER BY 1")[0][0]
    forget_vectors(site)
    site.settings.engine, site.settings.batch_size = "ray", fewest
    jobs: list[list[Any]] = []
    whole = embeddings.embed_on_cluster

    def counted(*given: Any) -> Any:
        jobs.append(list(given[2]))
        return whole(*given[:2], jobs[-1], *given[3:])

    monkeypatch.setattr(embeddings, "embed_on_cluster", counted)
    monkeypatch.setattr(Site, "embedder", lambda *_: pytest.fail("a model was loaded by the command"))
    total = update_profiles(site, recipe, backlog=True).embedded
    found = stored_vectors(site)
    assert [len(each) for each in jobs] == [total]
    assert found.keys() == here.keys()
    assert min(float(found[name] @ here[name]) for name in here) >= 0.9999


def test_a_killed_run_goes_on_where_it_was(two_nodes: Any, home: Path, database_url: str, herd: Path) -> None:
    site = Site(settings_for(home, engine="ray", batch_size=2), Database(database_url))
    key = stored_drop(site, herd)
    recipe = site.matcher().recipe
    total = query(site, "SELECT count(*) FROM detection_crops")[0][0]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(
        [sys.executable, "-c", EMBED_BY_RAY, str(home), database_url, key],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stderr is not None
    said = next((line for line in child.stderr if line.startswith("embedded ")), "nothing was embedded")
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    assert said.startswith("embedded 2 crops")
    before = {name[0] for name in stored_vectors(site)}
    assert 0 < len(before) < total
    report = embed_drop(site, recipe, key)
    assert report.embedded == total - len(before), "only what was left"
    assert len(stored_vectors(site)) == total * len(BRANCHES)
    site.database.close()


def test_a_batch_or_less_starts_no_workers(site: Site, herd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = stored_drop(site, herd)
    site.settings.engine, site.settings.batch_size = "ray", 1000
    monkeypatch.setattr(embeddings, "embed_on_cluster", lambda *_: pytest.fail("workers were started"))
    assert embed_drop(site, site.matcher().recipe, key).embedded > 0


def test_with_a_cluster_nothing_is_left_to_a_measurement(home: Path) -> None:
    assert engine_options(settings_for(home, engine="ray")) == EngineOptions("float32", "torch")
    assert engine_options(settings_for(home)) == EngineOptions()


def test_the_setting_is_local_or_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEER_REID_ENGINE", "ray")
    assert load_settings().engine == "ray"
    monkeypatch.setenv("DEER_REID_ENGINE", "spark")
    with pytest.raises(SettingsError, match="DEER_REID_ENGINE='spark' is not usable"):
        load_settings()


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_nyala_set_on_two_nodes_of_which_one_dies(
    data_dir: Path, weights_dir: Path, home: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(settings_for(home, recipe="mobile", weights_dir=weights_dir, precision="float32"), database)
    key = stored_drop(site, data_dir / "nyala")
    recipe = site.matcher().recipe
    total = embed_drop(site, recipe, key).embedded
    here = stored_vectors(site)
    forget_vectors(site)
    site.settings.engine = "ray"
    told: list[int] = []
    by_other: list[int] = []
    with ray_nodes({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        other = next(iter(cluster.worker_nodes))
        say, removed = stream.log.debug, False

        def hear(line: str, count: int, node: str) -> None:
            by_other.append(node == other.node_id)
            say(line, count, node)

        def watch(step: str, done: int, of: int) -> None:
            nonlocal removed
            if step != "embeddings":
                return
            told.append(done)
            if not removed and any(by_other) and done >= of // 4:
                cluster.remove_node(other, allow_graceful=False)
                removed = True

        monkeypatch.setattr(stream.log, "debug", hear)
        start = time.monotonic()
        with listening(watch):
            report = embed_drop(site, recipe, key)
        took = time.monotonic() - start
    found = stored_vectors(site)
    assert removed
    assert report.embedded == total
    assert found.keys() == here.keys()
    least = min(float(found[name] @ here[name]) for name in here)
    print(f"nyala: {total} crops, {len(told)} batches, least cosine {least:.7f}, {took:.0f} s")
    assert least >= 0.9999
    assert told == sorted(told)
    assert told[-1] == total
