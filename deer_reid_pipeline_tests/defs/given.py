"""The code location's resource, opened on a test's installation."""

from __future__ import annotations

from typing import ClassVar

from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.steps.site import Site


class GivenSite(SiteResource):
    """Set `given` before a run asks for it."""

    given: ClassVar[Site]

    @property
    def site(self) -> Site:  # type: ignore[override]
        return GivenSite.given
