"""The errors that a person is meant to read.

Every error that the product raises on purpose is a `DeerReidError`: one line that says what was wrong, where,
and what to do. The command line prints that line and exits non-zero; Dagster shows it as the run's failure.
Anything else that escapes is a bug and keeps its traceback.
"""


class DeerReidError(Exception):
    """Base of all deliberate errors; its text is one line for a person."""


class SettingsError(DeerReidError):
    """A setting has a wrong value; the text names the environment variable."""


class WeightsError(DeerReidError):
    """A weight file is missing, or is not the file that the recipe names."""


class RecipeMismatchError(DeerReidError):
    """Vectors of two different recipes, or of two branches, were about to be compared."""


class DropError(DeerReidError):
    """A drop as a whole cannot be used (mixed layouts, nothing usable in it, changed after it was sealed)."""


class FolderError(DropError):
    """A drop's folder cannot be listed now, or changed while it was read: nothing is known of what it holds."""


class ReleaseError(DeerReidError):
    """A release may not become live; the text says what is missing and how to get it."""


class DatabaseError(DeerReidError):
    """The database cannot be reached, is too old, or is not at the migration that this version needs."""


class BackupError(DeerReidError):
    """A backup could not be made or brought back; the text says what was left as it was."""


class HandoverError(DeerReidError):
    """A hand-over package cannot be written or taken over; the text says why, and nothing was stored."""


class Interrupted(DeerReidError):  # noqa: N818 - a person did it, nothing failed
    """Ctrl-C during work that does not go on when it is run again; the text says what was left."""
