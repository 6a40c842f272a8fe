"""The code location as Dagster sees it, and its assets run on an ephemeral instance against a real database."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image

from deer_reid_pipeline.definitions import defs
from deer_reid_pipeline.defs.monitoring.partitions import daily_partitions
from deer_reid_pipeline.defs.partitions import image_drop_partitions
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import markdown_text
from deer_reid_pipeline.store.embedded import embedded_status
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.sites import alike_encounters, part_of_herd, query, read_table

BRANCH_ASSETS = {"resnet50_embeddings", "multiscale_embeddings", "efficientnet_embeddings"}
PARENTS = {  # SPEC section 8, from image_drops to deer_profiles
    "image_drops": set(),
    "images": {"image_drops"},
    "detections": {"images"},
    "detection_crops": {"detections"},
    **{name: {"detection_crops"} for name in BRANCH_ASSETS},
    "deer_matches": BRANCH_ASSETS,
    "deer_profiles": {"deer_matches"},
    "similarity_distribution": {"deer_profiles"},
    "ensemble_weights": {"similarity_distribution"},
    "match_threshold": {"ensemble_weights"},
    "triplet_dataset": {"deer_profiles"},
    "finetuned_model": {"triplet_dataset"},
    "finetuned_embeddings": {"finetuned_model", "deer_profiles"},
    "validation_report": {"similarity_distribution", "match_threshold", "finetuned_embeddings"},
    "assignment_report": {"deer_profiles"},
    "embedding_release": {"validation_report"},
    "ab_report": {"deer_matches", "finetuned_embeddings"},
    "false_positive_report": {"deer_matches"},
    "benchmark_report": set(),
    "gpu_memory_report": set(),
}
MAIN_PATH = ("image_drops", "images", "detections", "detection_crops", *sorted(BRANCH_ASSETS), "deer_matches")
GROUPS = {
    **dict.fromkeys(("image_drops", "images", "detections", "detection_crops"), "ingest"),
    **dict.fromkeys(BRANCH_ASSETS, "embeddings"),
    **dict.fromkeys(("deer_matches", "deer_profiles"), "profiles"),
    **dict.fromkeys(
        (
            "similarity_distribution",
            "ensemble_weights",
            "match_threshold",
            "validation_report",
            "assignment_report",
            "embedding_release",
            "ab_report",
        ),
        "evaluation",
    ),
    "false_positive_report": "monitoring",
    **dict.fromkeys(("triplet_dataset", "finetuned_model", "finetuned_embeddings"), "training"),
    **dict.fromkeys(("benchmark_report", "gpu_memory_report"), "performance"),
}
PARTITIONS = {**dict.fromkeys(MAIN_PATH, image_drop_partitions), "false_positive_report": daily_partitions}
BLOCKING = {
    "detections": {"boxes_lie_within_their_picture"},
    **{
        name: {"every_crop_has_one_vector", "embeddings_are_unit_norm", "embeddings_are_finite"}
        for name in BRANCH_ASSETS
    },
    "deer_matches": {"every_encounter_has_a_decision"},
    "deer_profiles": {
        "profiles_with_sightings_have_all_vectors",
        "profile_vectors_are_unit_norm",
        "embedding_version_is_consistent",
    },
}
GRAPH = defs.resolve_asset_graph()


def test_assets_edges_and_groups_are_those_of_the_specification() -> None:
    assert {key.to_user_string() for key in GRAPH.get_all_asset_keys()} == set(PARENTS)
    for name, parents in PARENTS.items():
        node = GRAPH.get(dg.AssetKey(name))
        assert {key.to_user_string() for key in node.parent_keys} == parents, name
        assert node.group_name == GROUPS[name]
        assert node.description, name
        assert node.partitions_def == PARTITIONS.get(name), name


def test_a_report_of_false_positives_goes_back_to_the_pictures() -> None:
    reached, ahead = set[str](), {"false_positive_report"}
    while ahead:
        reached |= ahead
        ahead = {parent.to_user_string() for name in ahead for parent in GRAPH.get(dg.AssetKey(name)).parent_keys}
    assert reached == {*MAIN_PATH, "false_positive_report"}


def test_everything_that_the_ui_lists_says_what_it_is() -> None:
    checks = {key.name: GRAPH.get(key).description for key in GRAPH.asset_check_keys}
    repository = defs.get_repository_def()
    jobs = {job.name: job.description for job in repository.get_all_jobs() if not job.name.startswith("__")}
    ticking = {each.name: each.description for each in (*repository.schedule_defs, *repository.sensor_defs)}
    for described in (checks, jobs, ticking):
        assert described
        assert [name for name, text in described.items() if not (text and text.endswith("."))] == []


def test_checks_block_where_data_would_be_spoilt() -> None:
    found: dict[str, set[str]] = {}
    for key in GRAPH.asset_check_keys:
        if GRAPH.get(key).blocking:
            found.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert found == BLOCKING


def test_jobs_reach_what_they_say() -> None:
    process = defs.resolve_job_def("process_drop_job")
    assert {key.to_user_string() for key in process.asset_layer.selected_asset_keys} == {*MAIN_PATH, "deer_profiles"}
    assert process.partitions_def == image_drop_partitions
    again = defs.resolve_job_def("reembedding_job")
    assert {key.to_user_string() for key in again.asset_layer.selected_asset_keys} == {"deer_profiles"}
    training = defs.resolve_job_def("training_job")
    selected = {key.to_user_string() for key in training.asset_layer.selected_asset_keys}
    assert {
        "finetuned_model",
        "finetuned_embeddings",
        "ab_report",
        "validation_report",
        "embedding_release",
    } <= selected
    for job, end in (("validation_job", "assignment_report"), ("tuning_job", "embedding_release")):
        selected = {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.selected_asset_keys}
        assert {"similarity_distribution", "validation_report", end} <= selected
    monitoring = defs.resolve_job_def("fp_monitoring_job")
    assert {key.to_user_string() for key in monitoring.asset_layer.selected_asset_keys} == {"false_positive_report"}


def test_dagster_validates_the_definitions(home: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER_", "DEER_REID_"))}
    kept.pop("DATABASE_URL", None)
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate"],
        cwd=REPO,
        env={**kept, "DEER_REID_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Validation successful" in done.stdout + done.stderr
    # dagster.yaml of the checkout sends Dagster's storage to the home's server, which must not stay up behind it.
    assert embedded_status(home).state in ("absent", "stopped")


@pytest.fixture
def part(herd: Path, tmp_path: Path) -> Path:
    """Two unnamed encounters, and for each a named one of the same flank and sex, so that there is a candidate."""
    named, unnamed = alike_encounters(read_table(herd / "observations.csv"))
    return part_of_herd(herd, tmp_path / "part", [*named, *unnamed])


@pytest.fixture
def key(site: Site, part: Path, instance: dg.DagsterInstance) -> str:
    """The partition of a registered drop."""
    made = register_drop(site, part, "auto").key
    instance.add_dynamic_partitions("image_drops", [made])
    GivenSite.given = site
    return made


def materialize(instance: dg.DagsterInstance, key: str, only: Iterable[str] | None = None) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*defs.assets],
        instance=instance,
        partition_key=key,
        resources={"site": GivenSite()},
        selection=dg.AssetSelection.assets(*(only or (*MAIN_PATH, "deer_profiles"))),
        raise_on_error=False,
    )


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (made,) = [m for m in result.get_asset_materialization_events() if m.asset_key == dg.AssetKey(asset)]
    metadata = made.materialization.metadata
    return {name: value.value for name, value in metadata.items()}


def picture(markdown: object) -> bytes:
    found = re.fullmatch(r"!\[[^]]*\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", str(markdown))
    assert found, str(markdown)[:200]
    return base64.b64decode(found[1])


def test_a_drop_is_stored_checked_and_described(site: Site, part: Path, key: str, instance: dg.DagsterInstance) -> None:
    rows = read_table(part / "observations.csv")
    result = materialize(instance, key)
    assert result.success, [event.message for event in result.all_events if event.is_step_failure]

    detections = query(site, "SELECT count(*) FROM detections")[0][0]
    pictures = query(site, "SELECT count(*) FROM images")[0][0]
    individuals = query(site, "SELECT count(*) FROM deer WHERE sighting_count > 0")[0][0]
    encounters = query(site, "SELECT count(*) FROM encounters")[0][0]
    assert (detections, pictures) == (len(rows), len({row["filePath"] for row in rows}))
    assert dict(map(tuple, query(site, "SELECT branch, count(*) FROM embeddings GROUP BY 1"))) == dict.fromkeys(  # type: ignore[arg-type]
        ("baseline", "multiscale", "efficientnet"), detections
    )
    assert query(site, "SELECT count(*), count(DISTINCT encounter_id) FROM match_decisions")[0] == (
        encounters,
        encounters,
    )
    assert query(site, "SELECT DISTINCT run_id FROM match_decisions") == [(result.run_id,)]
    assert query(site, "SELECT count(DISTINCT deer_id) FROM profiles")[0][0] == individuals

    evaluations = result.get_asset_check_evaluations()
    assert {(e.asset_key.to_user_string(), e.check_name) for e in evaluations} == {
        (check.asset_key.to_user_string(), check.name)
        for check in GRAPH.asset_check_keys
        if check.asset_key.to_user_string() in {*MAIN_PATH, "deer_profiles"}
    }
    assert [e.check_name for e in evaluations if not e.passed] == []

    expected_rows = {
        "images": pictures,
        "detections": detections,
        "detection_crops": detections,
        **dict.fromkeys(BRANCH_ASSETS, detections),
        "deer_matches": encounters,
        "deer_profiles": individuals,
    }
    for asset, count in expected_rows.items():
        metadata = metadata_of(result, asset)
        assert metadata["dagster/row_count"] == count, asset
        schema = metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema)
        assert all(column.type and column.description for column in schema.columns), asset
    assert metadata_of(result, "image_drops")["pictures"] == pictures
    for asset in ("detection_crops", "deer_matches"):
        png = picture(metadata_of(result, asset)["contact_sheet"])
        assert len(png) < 100_000
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            assert image.format == "PNG"

    assert picture(metadata_of(result, "deer_matches")["similarities"])
    decided = query(
        site,
        "SELECT m.id, m.decision, m.threshold, m.release_id, m.candidates, array_length(m.detection_ids, 1) AS n "
        "FROM match_decisions m WHERE m.method = 'machine' ORDER BY m.id",
    )
    head, _, *lines = str(metadata_of(result, "deer_matches")["decisions"]).splitlines()
    assert decided
    assert len(lines) == len(decided)
    columns = [name.strip() for name in head.strip("|").split("|")]
    found = [dict(zip(columns, (cell.strip() for cell in line.strip("|").split("|")), strict=True)) for line in lines]
    for row in decided:
        (line,) = [each for each in found if each["log"] == str(row.id)]
        assert line["decision"] == row.decision.replace("_", " ")
        assert line["matched from"] == f"{row.threshold:.3f}"
        assert line["release"] == str(row.release_id)
        assert line["pictures"] == str(row.n)
        best = row.candidates[0]
        assert line["most similar"].startswith(markdown_text(f"{best['individual']} {best['score']:.3f}"))


def test_a_partition_that_a_person_typed_fails_with_what_to_do(site: Site, instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("image_drops", ["made-up"])
    GivenSite.given = site
    result = materialize(instance, "made-up", ["image_drops"])
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert "deer-reid process FOLDER" in str(failed.step_failure_data.error)


def test_materializing_again_stores_nothing_and_keeps_the_data_versions(
    site: Site, key: str, instance: dg.DagsterInstance
) -> None:
    def versions(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
        return {
            event.asset_key.to_user_string(): (event.materialization.tags or {}).get("dagster/data_version")
            for event in result.get_asset_materialization_events()
            if event.asset_key is not None
        }

    counts = (
        "SELECT (SELECT count(*) FROM embeddings), (SELECT count(*) FROM match_decisions), "
        "(SELECT count(*) FROM profiles)"
    )
    first = materialize(instance, key)
    before = query(site, counts)
    again = materialize(instance, key)
    assert first.success
    assert again.success
    assert query(site, counts) == before
    assert metadata_of(again, "images")["stored_now"] == 0
    assert metadata_of(again, "detection_crops")["written_now"] == 0
    assert metadata_of(again, "multiscale_embeddings")["embedded_now"] == 0
    fixed = ("image_drops", *BRANCH_ASSETS, "deer_profiles")
    assert {name: versions(again)[name] for name in fixed} == {name: versions(first)[name] for name in fixed}


@pytest.mark.parametrize(
    ("damage", "asset", "check"),
    [
        (
            "UPDATE embeddings SET vector = (SELECT array_agg(2 * v)::vector FROM unnest(vector::real[]) AS v) "
            "WHERE branch = 'multiscale' AND detection_id = (SELECT min(detection_id::text)::uuid FROM embeddings)",
            "multiscale_embeddings",
            "embeddings_are_unit_norm",
        ),
        (
            "UPDATE detections SET bbox_x = 0.9, bbox_width = 0.5 "
            "WHERE id = (SELECT min(id::text)::uuid FROM detections)",
            "detections",
            "boxes_lie_within_their_picture",
        ),
    ],
)
def test_spoilt_data_stops_the_run_before_anything_is_decided(
    site: Site, key: str, instance: dg.DagsterInstance, damage: str, asset: str, check: str
) -> None:
    upstream = ["image_drops", "images", "detections", "detection_crops", *BRANCH_ASSETS]
    assert materialize(instance, key, upstream).success
    assert [row for row in query(site, damage + " RETURNING 1")] == [(1,)]

    result = materialize(instance, key)
    assert not result.success
    failed = {
        (e.asset_key.to_user_string(), e.check_name) for e in result.get_asset_check_evaluations() if not e.passed
    }
    assert (asset, check) in failed
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}
    assert not {"deer_matches", "deer_profiles"} & made
    assert query(site, "SELECT count(*) FROM match_decisions") == [(0,)]
    assert query(site, "SELECT count(*) FROM deer") == [(0,)]


def test_reembedding_fills_what_is_missing_and_nothing_else(site: Site, key: str, instance: dg.DagsterInstance) -> None:
    assert materialize(instance, key).success
    before = query(site, "SELECT detection_id, branch, created_at FROM embeddings ORDER BY 1, 2")
    lost = before[0][0]
    query(site, "DELETE FROM embeddings WHERE detection_id = :lost RETURNING 1", lost=lost)
    job = defs.resolve_job_def("reembedding_job")
    result = job.execute_in_process(instance=instance, resources={"site": GivenSite()})
    assert metadata_of(result, "deer_profiles")["detections_embedded"] == 1
    after = query(site, "SELECT detection_id, branch, created_at FROM embeddings ORDER BY 1, 2")
    assert [row[:2] for row in after] == [row[:2] for row in before]
    assert [row for row in after if row[0] != lost] == [row for row in before if row[0] != lost]
