"""The errors of the launcher that a person is meant to read."""

from deer_reid_pipeline.errors import DeerReidError


class LauncherError(DeerReidError):
    """A run cannot be placed, watched or ended; the text says why and what to do."""


class NoCardsError(LauncherError):
    """No card can be looked at: library, driver or card is missing; the text says which."""
