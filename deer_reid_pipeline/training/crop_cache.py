"""Decoded crops in one file, read through memory mapping, so that no epoch waits for JPEG.

Crops keep their aspect and lose what the network would not see: their longer side is at most `longest`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.vision.crops import Pixels, fitted_size
from deer_reid_pipeline.vision.model_files import sha256_of, write_whole

DATA, INDEX = "crops.u8", "crops.json"


class CropCache:
    """Crops by number, uint8 [h, w, 3]; `open_cache` makes one."""

    def __init__(self, folder: Path, index: dict[str, list[int]]) -> None:
        self._data: np.ndarray = np.memmap(folder / DATA, dtype=np.uint8, mode="r")
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def __getitem__(self, key: str) -> Pixels:
        """The crop of a detection.

        Raises:
            KeyError: it has none.
        """
        start, height, width = self._index[key]
        return np.asarray(self._data[start : start + height * width * 3]).reshape(height, width, 3)


def open_cache(folder: Path) -> CropCache | None:
    """The cache of a folder; None where there is none, or where it is not what was written."""
    try:
        note = json.loads((folder / INDEX).read_text(encoding="ascii"))
        if sha256_of(folder / DATA) != note["sha256"]:
            return None
        return CropCache(folder, note["crops"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_cache(
    folder: Path, crops: Iterable[tuple[str, Pixels]], longest: int, progress: Callable[[int], None] | None = None
) -> CropCache:
    """Write the cache of these crops.

    Args:
        crops: key and uint8 [h, w, 3].
        longest: of the two sides, pixels.
        progress: is told how many crops were written.

    Raises:
        TrainingError: it cannot be written; nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{DATA}.{os.getpid()}.part"
    index: dict[str, list[int]] = {}
    digest = hashlib.sha256()
    start = 0
    try:
        with temporary.open("wb") as stream:
            for key, small in _shrunk(crops, longest):
                content = np.ascontiguousarray(small).tobytes()
                stream.write(content)
                digest.update(content)
                index[key] = [start, small.shape[0], small.shape[1]]
                start += len(content)
                if progress is not None:
                    progress(len(index))
            if not start:
                raise TrainingError("no crop of a labelled detection can be read: nothing to train on")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(folder / DATA)
        write_whole(folder / INDEX, json.dumps({"sha256": digest.hexdigest(), "crops": index}).encode("ascii"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise TrainingError(
            f"the decoded crops cannot be written to {folder} ({start >> 20} MB so far): {reason}; free some space and "
            "run it again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return CropCache(folder, index)


def _shrunk(crops: Iterable[tuple[str, Pixels]], longest: int) -> Iterator[tuple[str, Pixels]]:
    for key, crop in crops:
        height, width = crop.shape[:2]
        if max(height, width) <= longest:
            yield key, crop
        else:
            size = fitted_size(width, height, longest, longest)
            yield key, np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.LANCZOS))
