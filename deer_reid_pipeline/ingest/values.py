"""What single cells mean: boxes, identities, time stamps, and the owner's words for sex and age."""

from __future__ import annotations

import math
import unicodedata
from datetime import datetime
from typing import NamedTuple

from deer_reid_pipeline.ingest.ledger import BadValue
from deer_reid_pipeline.ingest.wording import has_control, printable

OVERSHOOT = 0.01
"""How far a box may reach over the picture's edge (share of the side) and still be clipped, not refused."""

INDIVIDUAL_LIMIT = 100
MISSING = ("", "na", "n/a", "null")
"""Cells, in lower case, that stand for "nothing given" in every column."""

NOT_AN_IDENTITY = frozenset({"unknown", "none", "nan", "unidentified", "unlabelled", "unlabeled"})
"""Words in individualID that mean nobody knows; taken as names they would merge strangers into one animal."""

_VIEWPOINTS = frozenset({"left", "right", "front", "back"})
_STAGES = frozenset({"adult", "subadult", "juvenile"})
_SEX_OF = {"male": "male", "female": "female", "doe": "female"} | dict.fromkeys(
    ("buck", "mature", "mid", "young"), "male"
)
_OWNERS_WORDS = frozenset({"buck", "doe", "fawn", "mature", "mid", "young"})


class Animal(NamedTuple):
    """Sex (male, female, unknown), life stage or None, the owner's class, and words not understood."""

    sex: str
    life_stage: str | None
    classification: str
    not_understood: tuple[str, ...]


def given(cell: str | None) -> str | None:
    """The trimmed cell, or None where it is empty or says NA, N/A or null."""
    text = "" if cell is None else cell.strip()
    return None if text.lower() in MISSING else text


def number(value: object, *, decimal_comma: bool = False) -> float:
    """A number as a float, which may be infinite or NaN.

    Raises:
        BadValue: bad_box, for anything that is not a number (true and false are not).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadValue("bad_box", f"the box holds {_kind(value)} where a number belongs")
    try:
        return float(value.replace(",", ".") if isinstance(value, str) and decimal_comma else value)
    except (ValueError, OverflowError) as error:
        shown = printable(str(value)[:40], 20) if isinstance(value, str) else "a number too large"
        raise BadValue("bad_box", f"the box holds {shown!r} where a number belongs") from error


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "something else")


def clip_box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """The box clipped to the picture: x, y, width, height, as shares of its sides (0 to 1).

    Raises:
        BadValue: bad_box where a number is not finite or a side is not positive; box_outside where the box
            reaches over an edge by more than `OVERSHOOT`, or nothing is left of it.
    """
    if not all(map(math.isfinite, (x, y, width, height))):
        raise BadValue("bad_box", "a number of the box is NaN or infinite")
    if width <= 0 or height <= 0:
        raise BadValue("bad_box", f"the box has no area (width {width:.4g}, height {height:.4g})")
    if min(x, y) < -OVERSHOOT or max(x + width, y + height) > 1 + OVERSHOOT:
        raise BadValue(
            "box_outside",
            f"the box x {x:.4g}, y {y:.4g}, width {width:.4g}, height {height:.4g} leaves the picture; "
            "numbers are shares of the picture's size, 0 to 1",
        )
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + width, 1.0), min(y + height, 1.0)
    if right <= left or bottom <= top:
        raise BadValue("box_outside", "nothing of the box lies inside the picture")
    return left, top, min(right - left, 1.0), min(bottom - top, 1.0)


def individual(cell: str | None) -> str | None:
    """The identity, trimmed and in Unicode normal form C, or None where none is given.

    Raises:
        BadValue: bad_value where it is longer than 100 characters or holds control characters.
    """
    text = given(cell)
    if text is None or text.lower() in NOT_AN_IDENTITY:
        return None
    text = unicodedata.normalize("NFC", text)
    if len(text) > INDIVIDUAL_LIMIT:
        raise BadValue("bad_value", f"individualID is longer than {INDIVIDUAL_LIMIT} characters")
    if has_control(text):
        raise BadValue("bad_value", f"individualID {printable(text, 60)} holds control characters")
    return text


def timestamp(cell: str | None) -> datetime | None:
    """An ISO 8601 date and time, or EXIF's "2024:05:01 06:07:08"; with an offset only where one is given.

    Raises:
        BadValue: bad_value where it is not a date with a time of day between the years 1900 and 2200.
    """
    text = given(cell)
    if text is None:
        return None
    if len(text) >= 19 and text[4] == text[7] and text[4] in ":/":
        text = f"{text[:4]}-{text[5:7]}-{text[8:]}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadValue("bad_value", f"timestamp {printable(text, 40)} is not ISO 8601") from error
    if ":" not in text and "T" not in text:
        raise BadValue("bad_value", f"timestamp {printable(text, 40)} has no time of day")
    if not 1900 <= moment.year <= 2200:
        raise BadValue("bad_value", f"timestamp {printable(text, 40)} is not a plausible year")
    return moment


def position(latitude: str | None, longitude: str | None) -> tuple[float, float] | None:
    """Degrees north (-90 to 90) and east (-180 to 180); None where neither is given.

    Raises:
        BadValue: bad_value where one is missing, no number or out of range. The text never holds the coordinate.
    """
    cells = (given(latitude), given(longitude))
    if cells == (None, None):
        return None
    try:
        north, east = (float("nan") if cell is None else float(cell.replace(",", ".")) for cell in cells)
    except ValueError as error:
        raise BadValue("bad_value", "latitude or longitude is not a number") from error
    if not (-90 <= north <= 90 and -180 <= east <= 180):
        raise BadValue("bad_value", "latitude or longitude is missing or out of range (-90 to 90, -180 to 180)")
    return north, east


def viewpoint(cell: str | None) -> tuple[str | None, bool]:
    """left, right, front, back or None, and whether the word was understood."""
    word = (given(cell) or "unknown").lower()
    return (word, True) if word in _VIEWPOINTS else (None, word == "unknown")


def animal(sex: str | None, life_stage: str | None, classification: str | None = None) -> Animal:
    """Sex, life stage and class from three cells; the owner's words are understood in each of them.

    The first cell that says something wins. Where no owner's word is given the class is derived: juvenile is
    fawn, male is buck, female is doe.
    """
    words = [(given(cell) or "unknown").lower() for cell in (sex, classification, life_stage)]
    found_sex = next((_SEX_OF[word] for word in words if word in _SEX_OF), "unknown")
    stages = ["juvenile" if word == "fawn" else word for word in (words[2], words[1], words[0])]
    found_stage = next((word for word in stages if word in _STAGES), None)
    owners = next((word for word in (words[1], words[0], words[2]) if word in _OWNERS_WORDS), None)
    if owners is None:
        derived = {"male": "buck", "female": "doe"}.get(found_sex, "unknown")
        owners = "fawn" if found_stage == "juvenile" else derived
    understood = {"unknown", *_SEX_OF, *_STAGES, *_OWNERS_WORDS}
    return Animal(found_sex, found_stage, owners, tuple(word for word in words if word not in understood))
