"""Files that must be exactly what their hash says: hashing, whole-or-nothing writes, and the model store.

The model store is a folder of `<sha256>.safetensors` (projections and fine-tuned weights). A file in it never
changes; a file whose bytes do not match its name is refused.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deer_reid_pipeline.errors import WeightsError

if TYPE_CHECKING:
    import torch

_CHUNK = 1 << 20
_known: dict[tuple[str, int, int, int, int, int], str] = {}
_known_lock = threading.Lock()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex. Remembered in this process while the file, its size and its times stay the same.

    The time of the inode's last change is compared too: it cannot be set back as the modification time can.
    """
    facts = path.stat()
    key = (str(path.resolve()), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    with _known_lock:
        if key in _known:
            return _known[key]
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    with _known_lock:
        _known[key] = digest.hexdigest()
    return digest.hexdigest()


def check_hash(path: Path, expected: str) -> str:
    """The full SHA-256 of a file that must begin with `expected` (8 to 64 hex digits).

    Raises:
        WeightsError: the file is another one, or damaged; names file, expected and found hash.
    """
    found = sha256_of(path)
    if not found.startswith(expected):
        raise WeightsError(
            f"{path} is damaged or another file: expected sha256 {expected}, found {found}; "
            "a published one is fetched again once it is deleted, a fine-tuned one comes from a backup only "
            "(deer-reid restore)"
        )
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that after any interruption it is there whole or not at all.

    Raises:
        WeightsError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:24]}.", suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise WeightsError(
            f"cannot write {path} ({len(content)} bytes): {reason}; free some space or choose another folder"
        ) from error


class ModelFiles:
    """A folder of tensors named by their hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.safetensors"

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def save(self, tensors: Mapping[str, torch.Tensor]) -> str:
        """Store named tensors and return the file's SHA-256, which is its name. Storing them twice changes
        nothing.

        Raises:
            WeightsError: the file cannot be written.
        """
        from safetensors.torch import save

        content = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)})
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        if not path.is_file() or sha256_of(path) != sha256:
            write_whole(path, content)
        return sha256

    def checked(self, sha256: str) -> Path:
        """The file of this name, after making sure that it is what its name says.

        Raises:
            WeightsError: the file is missing, or its bytes do not match its name.
        """
        path = self.path(sha256)
        if not path.is_file():
            raise WeightsError(
                f"{path} is missing and this recipe needs it; restore the folder from a backup, "
                "or run 'deer-reid init' to make the built-in recipes anew"
            )
        check_hash(path, sha256)
        return path

    def load(self, sha256: str) -> dict[str, torch.Tensor]:
        """Read named tensors (CPU).

        Raises:
            WeightsError: the file is missing, or its bytes do not match its name.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.checked(sha256)
        try:
            return dict(load_file(str(path)))
        except SafetensorError as error:
            raise WeightsError(f"{path} is not a safetensors file: {error}") from error
