"""The strip of facts that a trail camera burns into the lower edge of every picture."""

from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# A new moon, and the mean number of days from one to the next.
NEW_MOON, LUNATION = datetime(2000, 1, 6, 18, 14), 29.530588853


def strip_height(size: tuple[int, int]) -> int:
    """Rows that the strip covers in a picture of `size` = (width, height)."""
    return max(12, round(size[1] * 0.042))


def moon_phase(when: datetime) -> float:
    """0 new, 0.5 full, back to 1."""
    return ((when - NEW_MOON).total_seconds() / 86400.0 / LUNATION) % 1.0


def burn_strip(picture: NDArray[np.uint8], when: datetime, celsius: int, camera: str) -> None:
    """Write date, time, temperature, moon and camera name over the lowest rows of `picture` (h, w, 3), in
    place.
    """
    height, width = picture.shape[:2]
    rows = strip_height((width, height))
    band = Image.new("RGB", (width, rows), (8, 8, 8))
    draw = ImageDraw.Draw(band)
    font = ImageFont.load_default(size=max(8, round(rows * 0.60)))
    ink, middle = (238, 238, 238), rows / 2

    def write(share: float, text: str, anchor: str) -> None:
        draw.text((width * share, middle), text, fill=ink, font=font, anchor=anchor)

    write(0.015, f"{celsius:+d} C", "lm")
    write(0.30, when.strftime("%Y-%m-%d"), "mm")
    write(0.52, when.strftime("%H:%M:%S"), "mm")
    write(0.985, camera, "rm")
    radius, x = rows * 0.30, width * 0.135
    phase = moon_phase(when)
    # The lit limb is a half disc; the terminator is an ellipse that grows from it or eats into it.
    box = (x - radius, middle - radius, x + radius, middle + radius)
    draw.ellipse(box, fill=(52, 52, 52))
    start, stop = (-90, 90) if phase < 0.5 else (90, 270)
    draw.pieslice(box, start, stop, fill=ink)
    bulge = abs(float(np.cos(2 * np.pi * phase))) * radius
    gibbous = 0.25 < phase < 0.75
    draw.ellipse((x - bulge, middle - radius, x + bulge, middle + radius), fill=ink if gibbous else (52, 52, 52))
    picture[height - rows :] = np.asarray(band)
