"""The labelled pictures that could not be read when a training began, as a file in its folder.

The plan says what was labelled; with this the model card says what was seen. It stays when the training is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.vision.model_files import write_whole

LEFT_OUT = "left_out.json"


def write_left_out(folder: Path, keys: Iterable[str]) -> None:
    """Note the detections whose crops could not be read; none, where all could.

    Raises:
        WeightsError: the disk is full or the folder cannot be written.
    """
    write_whole(folder / LEFT_OUT, json.dumps(sorted(keys)).encode("ascii"))


def read_left_out(folder: Path) -> frozenset[str]:
    """The detections that were noted; none where nothing was, as in trainings of earlier versions.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        return frozenset(map(str, json.loads((folder / LEFT_OUT).read_text(encoding="ascii"))))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{folder / LEFT_OUT} cannot be used: {error}; delete {folder} and train again") from error
