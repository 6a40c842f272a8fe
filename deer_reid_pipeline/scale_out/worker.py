"""What runs on the nodes: reading crops where they are, and embedding them wherever there is a core or a card."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.scale_out.cluster import ScaleOutError, this_node
from deer_reid_pipeline.scale_out.options import fixed, is_plain
from deer_reid_pipeline.scale_out.parcel import Parcel, unpack
from deer_reid_pipeline.vision.decode import ImageError
from deer_reid_pipeline.vision.engine.loading import Job, load_crop
from deer_reid_pipeline.vision.engine.options import EngineOptions
from deer_reid_pipeline.vision.recipe import BRANCHES, DIMENSION

if TYPE_CHECKING:
    import pyarrow as pa

    from deer_reid_pipeline.vision.embedder import Embedder, Prepared

log = logging.getLogger(__name__)

SECONDS = "seconds "
"""Columns of this name and a branch: a crop's share of the branch's time in its batch."""


def read_crops(table: pa.Table, node: str) -> pa.Table:
    """Stored crops as bytes, on the node that has them.

    Args:
        table: `number`, `path` and `sha256` of each crop.
        node: Ray's id of the node that has the files.

    Returns:
        `number`, `content`, `sha256`, and `trouble`: why there is no content, else empty.

    Raises:
        ScaleOutError: this is another node.
    """
    import pyarrow as pa

    if this_node() != node:
        raise ScaleOutError("crops were to be read on a node that does not have them: report this as a bug")
    contents, troubles = [], []
    for path in table["path"].to_pylist():
        try:
            contents.append(Path(path).read_bytes())
            troubles.append("")
        except OSError as error:
            contents.append(b"")
            troubles.append(error.strerror or str(error))
    columns = {"number": table["number"], "content": pa.array(contents, pa.large_binary())}
    return pa.table({**columns, "sha256": table["sha256"], "trouble": pa.array(troubles, pa.string())})


def load_embedder(parcel: Parcel, device: str, threads: int, options: EngineOptions) -> Embedder:
    """The recipe of a parcel, computed in the one way that `options` name, so that all nodes compute alike.

    Args:
        device: 'cpu' or 'cuda'.
        options: 'auto' is float32 on torch, the network as loaded. Another way is used where it passes the self-test
            and is faster.

    Raises:
        WeightsError: the parcel does not fit this node.
        EmbeddingError: the device is absent.
    """
    from deer_reid_pipeline.vision.catalog import drawn_pictures
    from deer_reid_pipeline.vision.embedder import Embedder
    from deer_reid_pipeline.vision.engine.choosing import measure
    from deer_reid_pipeline.vision.engine.settling import fit_batch

    with tempfile.TemporaryDirectory(prefix="deer-reid-") as folder:
        embedder = Embedder(*unpack(parcel, Path(folder)), device, threads)
    if embedder.device.type == "cuda":
        fit_batch(embedder, options)
    named = fixed(options)
    if not is_plain(named):
        embedder.use(measure(embedder, drawn_pictures(), options=named).plan(named))
    embedder.warm_up()
    return embedder


class EmbedCrops:
    """One worker: a loaded recipe that takes tables of crops as `read_crops` gives them."""

    def __init__(
        self, parcel: Any, device: str, threads: int, options: EngineOptions, branches: Sequence[str] = BRANCHES
    ) -> None:
        """Load the recipe. Of an error in here Ray would keep only the text, so the first batch raises it.

        Args:
            parcel: Ray's reference to a `Parcel`, fetched once a node.
            branches: those to be computed.
        """
        import ray

        self.node = this_node()
        self.loading = ThreadPoolExecutor(threads, "load")
        self.failure: DeerReidError | None = None
        try:
            self.embedder = load_embedder(ray.get(parcel), device, threads, options).only(branches)
        except DeerReidError as error:
            self.failure = error

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """`number`, a unit vector of each branch that is asked for (float32 [n, 512]; zeros where there is no crop),
        `code` and `trouble` (why there is none, else empty), the seconds of each branch, and Ray's id of this `node`.

        Raises:
            WeightsError, EmbeddingError: the recipe could not be loaded here, or a vector is not usable.
        """
        if self.failure is not None:
            raise self.failure
        count = len(batch["number"])
        jobs = zip(batch["content"], batch["sha256"], batch["trouble"], strict=True)
        loaded = list(self.loading.map(self._load, jobs))
        good = [row for row, crop in enumerate(loaded) if not isinstance(crop, ImageError)]
        made = self.embedder.embed_prepared([loaded[row] for row in good])  # type: ignore[misc]
        result: dict[str, np.ndarray[Any, Any]] = {"number": np.asarray(batch["number"], np.int64)}
        for branch in self.embedder.branches:
            result[branch] = np.zeros((count, DIMENSION), np.float32)
            result[branch][good] = made.vectors[branch]
            result[SECONDS + branch] = np.full(count, made.branch_seconds.get(branch, 0.0) / count)
        result["node"] = np.array([self.node] * count, dtype=object)
        errors = [crop if isinstance(crop, ImageError) else None for crop in loaded]
        result["code"] = np.array([error.code if error else "" for error in errors], dtype=object)
        result["trouble"] = np.array([str(error) if error else "" for error in errors], dtype=object)
        return result

    def _load(self, crop: tuple[bytes, str, str]) -> Prepared | ImageError:
        content, sha256, trouble = crop
        if trouble:
            return ImageError("unreadable", trouble)
        try:
            return self.embedder.prepare(load_crop(Job(None, content, sha256=sha256)))
        except ImageError as error:
            return error
