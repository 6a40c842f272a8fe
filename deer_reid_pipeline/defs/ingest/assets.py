"""From a drop to crops: `image_drops`, `images`, `detections`, `detection_crops`."""

from collections.abc import Sequence

import dagster as dg

from deer_reid_pipeline.defs.metadata import columns, contact_sheet
from deer_reid_pipeline.defs.partitions import image_drop_partitions
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.steps.contact_sheets import SheetItem
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.summary import describe_drop, markdown_text
from deer_reid_pipeline.store.drops import summarize_drop
from deer_reid_pipeline.store.media import detections_of_drop

GROUP = "ingest"

MOST_WARNINGS = 50


@dg.asset(
    partitions_def=image_drop_partitions,
    group_name=GROUP,
    kinds={"postgres"},
    description="A sealed folder of media that arrived together: one partition.",
)
def image_drops(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: a drop. Key: name and content digest. Everything after it is about the drop's own pictures."""
    drop = describe_drop(site.site, context.partition_key)
    return dg.MaterializeResult(
        metadata={
            "folder": dg.MetadataValue.path(drop.root),
            "layout": drop.layout,
            "pictures": drop.pictures,
            "quarantined": len(drop.quarantined),
            "warnings": dg.MetadataValue.md(_as_list(drop.warnings)),
        },
        data_version=dg.DataVersion(drop.digest),
    )


def _as_list(lines: Sequence[str]) -> str:
    """A Markdown list of the first lines; names in them come from outside."""
    shown = [f"- {markdown_text(line)}" for line in lines[:MOST_WARNINGS]]
    if len(lines) > MOST_WARNINGS:
        shown.append(f"- and {len(lines) - MOST_WARNINGS} more")
    return "\n".join(shown) or "none"


@dg.asset(
    partitions_def=image_drop_partitions,
    group_name=GROUP,
    deps=[image_drops],
    kinds={"postgres"},
    description="Readable pictures, each stored once by sha256.",
)
def images(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: a picture. Key: sha256 of its bytes. Unusable files are in the quarantine, each with a reason."""
    result = store_images(site.site, context.partition_key)
    drop = describe_drop(site.site, context.partition_key)
    with site.site.database.session() as session:
        counts = summarize_drop(session, context.partition_key)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": counts.images,
            "stored_now": result.stored,
            "quarantined": len(drop.quarantined),
            "quarantine": dg.MetadataValue.md(drop.quarantine_table()),
            "dagster/column_schema": columns(
                id="uuid: from the sha256",
                sha256="text: of the file's bytes",
                path="text: where the file was",
                timestamp="timestamptz: from the table, else EXIF",
                width="int: pixels, upright",
                height="int: pixels, upright",
            ),
        },
        data_version=dg.DataVersion(drop.digest),
    )


@dg.asset(
    partitions_def=image_drop_partitions,
    group_name=GROUP,
    deps=[images],
    kinds={"postgres", "onnx"},
    description="Boxes of animals, from the drop's table or from a detector.",
    check_specs=[
        dg.AssetCheckSpec(
            "boxes_lie_within_their_picture",
            asset="detections",
            blocking=True,
            description="No box is empty or reaches beyond its picture; `first` names the pictures where one does.",
        ),
    ],
)
def detections(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: a box of one animal in one picture. Key: picture and box."""
    result = store_detections(site.site, context.partition_key)
    with site.site.database.session() as session:
        rows = detections_of_drop(session, context.partition_key)
    outside = [row.file_path for row in rows if not _inside(row.box)]
    by_source = {
        "from the table": result.from_manifest,
        "detected": result.detected,
        "whole frame": result.whole_frames,
    }
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "blank_pictures": result.blank,
            "whole_frames": result.whole_frames,
            "sources": dg.MetadataValue.md("\n".join(f"- {name}: {count}" for name, count in by_source.items())),
            "dagster/column_schema": columns(
                id="uuid: from picture and box",
                image_id="uuid: the picture",
                bbox_x="float: left edge, share of the width",
                bbox_y="float: top edge, share of the height",
                bbox_width="float: share of the width",
                bbox_height="float: share of the height",
                confidence="float: 0 to 1",
                viewpoint="text: left, right, front, back or null",
                source="text: manifest, whole_frame or the detector",
                deer_id="uuid: the individual, once decided",
            ),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="boxes_lie_within_their_picture",
                passed=not outside,
                metadata={"outside": len(outside), "first": outside[:5]},
            )
        ],
    )


def _inside(box: tuple[float, float, float, float]) -> bool:
    x, y, width, height = box
    slack = 1e-6
    return width > 0 and height > 0 and min(x, y) >= -slack and max(x + width, y + height) <= 1 + slack


@dg.asset(
    partitions_def=image_drop_partitions,
    group_name=GROUP,
    deps=[detections],
    kinds={"file"},
    code_version="2",
    description="The pixels of every detection, as a file of the home: the input of recipes.",
    check_specs=[
        dg.AssetCheckSpec(
            "every_detection_has_a_crop",
            asset="detection_crops",
            description="Every box could be cut out. Animals that could not are left out; `first` says which and why.",
        )
    ],
)
def detection_crops(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: a detection's crop file. Key: detection and crop specification."""
    spec = site.site.crop_spec()
    result = store_crops(site.site, drop_key=context.partition_key, spec=spec)
    with site.site.database.session() as session:
        rows = detections_of_drop(session, context.partition_key)
        counts = summarize_drop(session, context.partition_key)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": counts.crops,
            "written_now": result.written,
            "specification": spec.id,
            "contact_sheet": contact_sheet(site.site, [SheetItem(row.id, row.viewpoint or "") for row in rows]),
            "dagster/column_schema": columns(
                detection_id="uuid: the detection",
                spec_id="text: margin, size, encoding and how it was shrunk",
                file="text: under the home's crops folder",
                sha256="text: of the file",
            ),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="every_detection_has_a_crop",
                passed=not result.lost,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"lost": len(result.lost), "first": list(result.lost[:5])},
            )
        ],
    )
