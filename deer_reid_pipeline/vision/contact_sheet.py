"""One small picture of many crops, for a person to glance at in the Dagster UI."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from deer_reid_pipeline.vision.crops import letterbox
from deer_reid_pipeline.vision.decode import Pixels

MAX_BYTES = 90_000
_LABEL_HEIGHT = 12
_MIN_CELL = 24
_GROUND = (32, 32, 32)


def contact_sheet(
    crops: Sequence[Pixels], labels: Sequence[str] | None = None, columns: int = 8, cell: int = 96
) -> bytes:
    """PNG of crops (uint8 [h, w, 3]) in rows of `columns`, each a square of `cell` pixels; at most 90 kB.

    Cells get smaller, then colours fewer, then crops are left out, until it fits. `labels` are drawn under the
    crops, ASCII only (others show as '?').

    Raises:
        ValueError: no crops, or another number of labels than crops.
    """
    if not crops:
        raise ValueError("a contact sheet needs at least one crop")
    if labels is not None and len(labels) != len(crops):
        raise ValueError(f"{len(labels)} labels for {len(crops)} crops")
    count = len(crops)
    crops = [letterbox(crop, cell, cell, _GROUND) for crop in crops]
    while True:
        names = None if labels is None else labels[:count]
        side = cell
        while True:
            for colours in (256, 128) if side > _MIN_CELL else (256, 128, 64, 32, 16):
                png = _render(crops[:count], names, columns, side, colours)
                if len(png) <= MAX_BYTES:
                    return png
            if side <= _MIN_CELL:
                break
            fitting = int(side * math.sqrt(MAX_BYTES / len(png)))
            side = max(_MIN_CELL, min(side * 15 // 16, fitting))
        count = max(1, count // 2)


def _render(crops: Sequence[Pixels], labels: Sequence[str] | None, columns: int, cell: int, colours: int) -> bytes:
    across = min(columns, len(crops))
    down = -(-len(crops) // across)
    label_height = _LABEL_HEIGHT if labels is not None else 0
    sheet = Image.new("RGB", (across * cell, down * (cell + label_height)), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for index, crop in enumerate(crops):
        left, top = index % across * cell, index // across * (cell + label_height)
        sheet.paste(Image.fromarray(letterbox(crop, cell, cell, _GROUND)), (left, top))
        if labels is not None:
            text = labels[index].encode("ascii", "replace").decode()[: max(1, cell // 6)]
            draw.text((left + 1, top + cell), text, fill=(230, 230, 230))
    stream = io.BytesIO()
    sheet.quantize(colours, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()
