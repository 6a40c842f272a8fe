"""Every colour model that Pillow knows, brought to 8-bit RGB; and whether a picture has colour at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""uint8 array [height, width, 3], RGB, upright."""

_MID_GREY = 128
_ROWS = 256
_COLOUR_SPREAD = 12.0
"""Channel spread (0 to 255) that a tenth of the pixels must exceed for a picture to count as coloured."""


def to_rgb(image: Any) -> Image.Image:
    """Decode and bring any Pillow mode to RGB; transparency is laid on mid grey, deep grey is scaled by its
    range."""
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (_MID_GREY, _MID_GREY, _MID_GREY, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    converted: Image.Image = image if image.mode == "RGB" else image.convert("RGB")
    return converted


def _eight_bit(values: NDArray[Any]) -> Pixels:
    """Deep grey [h, w] to 0..255 over its own darkest to brightest value (a 12-bit picture in 16 bits stays
    visible)."""
    result = np.full(values.shape, _MID_GREY, np.uint8)
    rows = [slice(at, at + _ROWS) for at in range(0, len(values), _ROWS)]  # ten times less memory than all at once
    ends = [
        (float(part.min()), float(part.max())) for part in map(_finite, (values[span] for span in rows)) if part.size
    ]
    low, high = min((end for end, _ in ends), default=0.0), max((end for _, end in ends), default=0.0)
    if high <= low:
        return result
    for span in rows:
        grey = values[span].astype(np.float64)
        grey = np.where(np.isfinite(grey), grey, low)
        result[span] = np.rint((grey - low) * (255.0 / (high - low))).astype(np.uint8)
    return result


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return values[np.isfinite(values)]


def is_grey(pixels: Pixels) -> bool:
    """No colour beyond an even tint: infrared filters tint a whole frame, so each channel loses its own
    median."""
    values = pixels.astype(np.float32).reshape(-1, 3)
    values = values - np.median(values - values.mean(axis=1, keepdims=True), axis=0)
    return bool(np.percentile(values.max(axis=1) - values.min(axis=1), 90) < _COLOUR_SPREAD)
