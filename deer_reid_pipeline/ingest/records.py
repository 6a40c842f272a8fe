"""What a drop is turned into: pictures with their boxes, and what could not be used, with the reason.

Plain frozen dataclasses. They know nothing of the layout that they came from, of SQL or of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

LayoutName = Literal["megadetector", "observations", "camtrap_dp", "images"]


@dataclass(frozen=True, slots=True)
class BoxRecord:
    """One animal in one picture, as the drop gives it.

    x, y, width and height are shares of the upright picture's size (0 to 1, already clipped), with the origin
    at the top left. `confidence` is 0 to 1, and 1.0 where a human table gives none. `individual_id` is only
    ever an identity that a person gave. `viewpoint` is left, right, front, back or None; `sex` is male,
    female or unknown; `life_stage` is adult, subadult, juvenile or None; `classification` is the owner's word
    (buck, doe, fawn, mature, mid, young or unknown). `whole_picture` says that no box was given and the frame
    stands for it.
    """

    x: float
    y: float
    width: float
    height: float
    confidence: float = 1.0
    category: str = "animal"
    individual_id: str | None = None
    viewpoint: str | None = None
    sex: str = "unknown"
    life_stage: str | None = None
    classification: str = "unknown"
    whole_picture: bool = False

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON types; `from_json` gives an equal record back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BoxRecord:
        """The record that `to_json` wrote. Keys that are not fields are left out.

        Raises:
            TypeError: x, y, width or height is missing.
        """
        return cls(**{key: value for key, value in data.items() if key in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class MediaRecord:
    """One picture of the drop and what the drop says of it.

    `file_path` is relative to the drop's root, with /, exactly as it is on disk. `timestamp` has an offset
    only if one was given. `boxes` is None where the drop says nothing (a detector is asked) and () where it
    says that no animal is there.
    """

    file_path: str
    timestamp: datetime | None = None
    deployment_id: str | None = None
    event_id: str | None = None
    boxes: tuple[BoxRecord, ...] | None = None


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """Where a camera stands: degrees north and east (WGS 84), or None for both. For the database alone."""

    deployment_id: str
    name: str | None = None
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """A file or a row that was not used. `reason` is one plain ASCII sentence for a person.

    `file` is the path relative to the drop, or "observations.csv:12 (images/a.jpg)" for line 12 of a table.
    """

    file: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class DropContents:
    """All that a drop says. `media` is in processing order; every list is in a fixed order.

    `deployments` are the camera placements of a Camtrap DP package; the other layouts have none.
    """

    layout: LayoutName
    media: tuple[MediaRecord, ...]
    quarantined: tuple[QuarantineEntry, ...]
    warnings: tuple[str, ...]
    deployments: tuple[DeploymentRecord, ...] = ()
