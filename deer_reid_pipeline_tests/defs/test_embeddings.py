"""The three assets of vectors: what they say and check, also where fast mode leaves one of them out."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from deer_reid_pipeline.defs.embeddings.assets import BRANCH_OF, CHECKS, LEFT_OUT, embeddings
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import EFFICIENTNET, MULTISCALE
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.releases import add_first_release
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.sites import part_of_herd, read_table


@pytest.mark.parametrize("fast", [False, True])
def test_every_branch_that_is_needed_has_a_vector_of_every_crop(
    site: Site, instance: dg.DagsterInstance, herd: Path, tmp_path: Path, fast: bool
) -> None:
    weights = {MULTISCALE: 1.0} if fast else {MULTISCALE: 0.6, EFFICIENTNET: 0.4}
    policy = MatchPolicy(threshold=0.9, new_below=0.2, weights=weights)
    recipe = site.build_recipe("lite")
    with site.database.session() as session:
        add_first_release(session, recipe.id, policy, "tried in a test", None)
    key = register_drop(
        site, part_of_herd(herd, tmp_path / "drop", read_table(herd / "observations.csv")[:3]), "auto"
    ).key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    GivenSite.given = site
    instance.add_dynamic_partitions("image_drops", [key])

    done = dg.materialize([embeddings], partition_key=key, resources={"site": GivenSite()}, instance=instance)

    assert done.success
    made = {
        event.asset_key.path[0]: event.materialization.metadata for event in done.get_asset_materialization_events()
    }
    counts = {BRANCH_OF[name]: metadata["dagster/row_count"].value for name, metadata in made.items()}
    assert counts == {"baseline": 3, "multiscale": 3, "efficientnet": 0 if fast else 3}
    assert {name for name, metadata in made.items() if "left_out" in metadata} == (
        {"efficientnet_embeddings"} if fast else set()
    )
    checks = done.get_asset_check_evaluations()
    assert len(checks) == len(BRANCH_OF) * len(CHECKS)
    assert all(check.passed for check in checks)
    assert {check.asset_key.path[0] for check in checks if check.description == LEFT_OUT} == (
        {"efficientnet_embeddings"} if fast else set()
    )
