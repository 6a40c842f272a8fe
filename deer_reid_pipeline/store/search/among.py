"""Which exemplars a query is compared with: the matcher's sex and flank rules as SQL conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, String, cast, func, or_
from sqlalchemy.orm import aliased

from deer_reid_pipeline.reid.vocabulary import SEX_BY_CLASSIFICATION
from deer_reid_pipeline.store.models import Deer, ProfileExemplar

OPPOSITE_FLANK = {"left": "right", "right": "left"}
OTHER_SEX = {"male": "female", "female": "male"}

Exemplar = type[ProfileExemplar]
"""The table, or an alias of it."""


@dataclass(frozen=True)
class Among:
    """The exemplars that a query may be compared with; the default is all.

    Attributes:
        sex: of the query; individuals of the other sex are left out, those of unknown sex never.
        viewpoint: of the query; exemplars of the opposite flank are left out.
    """

    sex: str = "unknown"
    viewpoint: str | None = None

    @property
    def everyone(self) -> bool:
        """Nothing is left out."""
        return self.sex not in OTHER_SEX and self.viewpoint not in OPPOSITE_FLANK

    def narrow(self, query: Select[Any], exemplar: Exemplar = ProfileExemplar) -> Select[Any]:
        """The query with what is left out taken away; joins the individuals where their sex matters."""
        if self.viewpoint in OPPOSITE_FLANK:
            opposite = OPPOSITE_FLANK[self.viewpoint or ""]
            query = query.where(or_(exemplar.viewpoint.is_(None), exemplar.viewpoint != opposite))
        if self.sex in OTHER_SEX:
            deer = aliased(Deer)
            query = query.join(deer, deer.id == exemplar.deer_id).where(_not_of(OTHER_SEX[self.sex], deer.sex))
        return query


def _not_of(sex: str, column: Any) -> ColumnElement[bool]:
    """The owner's word does not mean this sex; the column may be a native enum."""
    words = sorted(word for word, meaning in SEX_BY_CLASSIFICATION.items() if meaning == sex)
    return func.lower(cast(column, String)).not_in(words)


EVERYONE = Among()
