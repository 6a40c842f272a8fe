"""The installation as a Dagster resource."""

from functools import cached_property

import dagster as dg
from pydantic import PrivateAttr

from deer_reid_pipeline.defs.workers import WORKER_TAG, worker_identity, worker_tag
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.site import Matcher, Site, connect_site


class SiteResource(dg.ConfigurableResource):
    """Opens the installation named by the environment when a run first needs it.

    A run keeps the matcher that it started with, whatever is promoted meanwhile.
    """

    _matcher: Matcher | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Note on the run which process works on it, so that it can be closed when that process was killed."""
        if context.run is not None and context.instance is not None:
            run_id = context.run.run_id
            context.instance.add_run_tags(run_id, {WORKER_TAG: worker_tag(run_id, worker_identity())})

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
