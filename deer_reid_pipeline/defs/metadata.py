"""Metadata that several assets show: tables' columns and contact sheets."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import dagster as dg

from deer_reid_pipeline.steps.contact_sheets import SheetItem, draw_sheet
from deer_reid_pipeline.steps.site import Site


def columns(**described: str) -> dg.TableSchema:
    """A table schema from `name="type: description"` pairs."""
    parsed = {name: text.partition(":") for name, text in described.items()}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name, type=kind.strip(), description=description.strip())
            for name, (kind, _, description) in parsed.items()
        ]
    )


def contact_sheet(site: Site, items: Sequence[SheetItem]) -> dg.MarkdownMetadataValue:
    """A small inline picture of crops with their labels; a sentence when there is nothing to show."""
    return picture("contact sheet", draw_sheet(site, items), "No crops to show.")


def picture(name: str, png: bytes | None, otherwise: str) -> dg.MarkdownMetadataValue:
    """An inline PNG, or a sentence where there is none."""
    if png is None:
        return dg.MetadataValue.md(otherwise)
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})")
