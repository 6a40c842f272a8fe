"""The installation as a Dagster resource."""

from functools import cached_property

import dagster as dg
from pydantic import PrivateAttr

from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.site import Matcher, Site, connect_site


class SiteResource(dg.ConfigurableResource):
    """Opens the installation named by the environment when a run first needs it.

    A run keeps the matcher that it started with, whatever is promoted meanwhile.
    """

    _matcher: Matcher | None = PrivateAttr(default=None)

    @cached_property
    def _opened(self) -> Site:
        return connect_site(load_settings())

    @property
    def site(self) -> Site:
        """The open installation, its server started again if it died between two steps.

        Raises:
            DatabaseError: it cannot be opened.
        """
        self._opened.database.ensure_alive()
        return self._opened

    @property
    def matcher(self) -> Matcher:
        """The live release with its overrides, read once a run."""
        if self._matcher is None:
            self._matcher = self.site.matcher()
        return self._matcher
