"""`resnet50_embeddings`, `multiscale_embeddings`, `efficientnet_embeddings`: vectors of detections, made together."""

from collections.abc import Iterator

import dagster as dg

from deer_reid_pipeline.defs.ingest.assets import detection_crops
from deer_reid_pipeline.defs.metadata import columns
from deer_reid_pipeline.defs.partitions import image_drop_partitions
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.reid.similarity import BASELINE, EFFICIENTNET, MULTISCALE
from deer_reid_pipeline.steps.checks import VectorCheck, check_vectors
from deer_reid_pipeline.steps.embeddings import embed_drop

BRANCH_OF = {
    "resnet50_embeddings": BASELINE,
    "multiscale_embeddings": MULTISCALE,
    "efficientnet_embeddings": EFFICIENTNET,
}
_ABOUT = {
    "resnet50_embeddings": "v1: the pooled final layer of the recipe's main backbone, projected to 512.",
    "multiscale_embeddings": "v2: texture, shape, part and whole of the main backbone, projected to 512.",
    "efficientnet_embeddings": "The second network of the v3 ensemble, projected to 512.",
}
LEFT_OUT = "fast mode: computed of pictures that stand for an individual only, by deer_profiles"

CHECKS = {
    "every_crop_has_one_vector": "Every crop of the drop has a vector of this branch under the live recipe; in fast "
    "mode the second network's are not asked for.",
    "embeddings_are_unit_norm": "Every norm is 1 within 1e-4.",
    "embeddings_are_finite": "No vector holds NaN or infinity.",
}


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            name,
            deps=[detection_crops],
            group_name="embeddings",
            kinds={"pytorch", "postgres"},
            description=text,
        )
        for name, text in _ABOUT.items()
    ],
    check_specs=[
        dg.AssetCheckSpec(check, asset=name, blocking=True, description=text)
        for name in BRANCH_OF
        for check, text in CHECKS.items()
    ],
    partitions_def=image_drop_partitions,
    pool="gpu",
)
def embeddings(context: dg.AssetExecutionContext, site: SiteResource) -> Iterator[dg.MaterializeResult]:
    """One row: a vector of 512 float32, unit norm. Key: detection, recipe, branch.

    Branches that share a backbone come out of one forward pass, so the three assets are made together.
    """
    recipe = site.matcher.recipe
    needed = site.site.needed_branches(recipe.id)
    context.log.info(site.matcher.describe())
    done = embed_drop(site.site, recipe, context.partition_key, context.log.info, needed)
    for name, branch in BRANCH_OF.items():
        check = check_vectors(site.site, recipe.id, branch, context.partition_key)
        yield dg.MaterializeResult(
            asset_key=name,
            metadata={
                "dagster/row_count": check.vectors,
                "embedded_now": done.embedded,
                "recipe": recipe.id,
                **({} if branch in needed else {"left_out": LEFT_OUT}),
                "milliseconds_a_crop": 1000 * done.seconds[branch] / max(done.vectors[branch], 1),
                "dagster/column_schema": columns(
                    detection_id="uuid: the detection",
                    recipe_id="text: what made the vector",
                    branch=f"text: {branch}",
                    vector="vector(512): unit norm",
                ),
            },
            data_version=dg.DataVersion(f"{recipe.id}/{check.digest}"),
            check_results=_results(name, check, needed=branch in needed),
        )


def _results(asset: str, check: VectorCheck, *, needed: bool) -> list[dg.AssetCheckResult]:
    wrong = {
        "every_crop_has_one_vector": check.missing if needed else 0,
        "embeddings_are_unit_norm": check.off_norm,
        "embeddings_are_finite": check.not_finite,
    }
    return [
        dg.AssetCheckResult(
            check_name=name,
            asset_key=asset,
            passed=count == 0,
            metadata={"wrong": count},
            description=None if needed else LEFT_OUT,
        )
        for name, count in wrong.items()
    ]
