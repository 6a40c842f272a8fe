"""One row of a Camtrap DP style table to one box: shared by observations.csv and Camtrap DP packages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deer_reid_pipeline.ingest.ledger import BadValue, Ledger
from deer_reid_pipeline.ingest.records import BoxRecord
from deer_reid_pipeline.ingest.values import animal, clip_box, given, individual, number, viewpoint

BOX_COLUMNS = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")

NOT_LOOKED_AT = "unclassified"
"""The observationType that says that nobody has judged the picture yet."""


def observation_type(cells: Mapping[str, str | None]) -> str:
    """The row's observationType in lower case; empty means animal."""
    return (given(cells.get("observationType")) or "animal").lower()


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads rows. Machine-made rows under `min_confidence` (0 to 1) are left out and counted."""

    ledger: Ledger
    min_confidence: float
    decimal_comma: bool = False

    def box(self, cells: Mapping[str, str | None]) -> BoxRecord | None:
        """The box of an animal row, or None where a machine was not sure enough.

        Raises:
            BadValue: bad_box, box_outside or bad_value; the row is not usable.
        """
        corners = [given(cells.get(column)) for column in BOX_COLUMNS]
        whole = not any(corners)
        if whole:
            x, y, width, height = 0.0, 0.0, 1.0, 1.0
        elif None in corners:
            missing = ", ".join(c for c, value in zip(BOX_COLUMNS, corners, strict=True) if value is None)
            raise BadValue("bad_box", f"the box is given in part only; {missing} is empty")
        else:
            x, y, width, height = clip_box(*(number(c, decimal_comma=self.decimal_comma) for c in corners))
        by_machine = (given(cells.get("classificationMethod")) or "human").lower() != "human"
        confidence = self._confidence(cells.get("classificationProbability"))
        if by_machine and confidence < self.min_confidence:
            self.ledger.tally(f"machine observation with a probability under {self.min_confidence:g}, left out")
            return None
        facts = animal(cells.get("sex"), cells.get("lifeStage"), cells.get("classification"))
        for word in facts.not_understood:
            self.ledger.tally("word for sex or life stage that is not known, taken as unknown", word)
        return BoxRecord(
            x=x,
            y=y,
            width=width,
            height=height,
            confidence=confidence,
            individual_id=self._individual(cells.get("individualID"), by_machine),
            viewpoint=self._viewpoint(cells),
            sex=facts.sex,
            life_stage=facts.life_stage,
            classification=facts.classification,
            whole_picture=whole,
        )

    def _individual(self, cell: str | None, by_machine: bool) -> str | None:
        name = individual(cell)
        if name is not None and by_machine:
            self.ledger.tally("individualID given by a machine, not taken as ground truth", name)
            return None
        if name is None and given(cell) is not None:
            self.ledger.tally("individualID that says nobody knows, taken as unlabelled", given(cell) or "")
        return name

    def _viewpoint(self, cells: Mapping[str, str | None]) -> str | None:
        cell = given(cells.get("viewpoint"))
        if cell is None:
            tags = (tag.strip() for tag in (cells.get("observationTags") or "").split("|"))
            cell = next((tag.partition(":")[2] for tag in tags if tag.lower().startswith("viewpoint:")), None)
        side, understood = viewpoint(cell)
        if not understood:
            self.ledger.tally("viewpoint that is not left, right, front or back, taken as unknown", cell or "")
        return side

    def _confidence(self, cell: str | None) -> float:
        text = given(cell)
        if text is None:
            return 1.0
        try:
            value = number(text, decimal_comma=self.decimal_comma)
        except BadValue:
            value = math.nan
        if 0 <= value <= 1:
            return value
        self.ledger.tally("classificationProbability that is not between 0 and 1, taken as 1", text)
        return 1.0
