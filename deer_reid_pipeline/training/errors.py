"""What can go wrong with a training, said so that a person knows what to do."""

from deer_reid_pipeline.errors import DeerReidError


class TrainingError(DeerReidError):
    """A training cannot be started or cannot go on."""
