"""A recipe with its files as one value that travels to other machines, and is checked where it is unpacked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline import __version__
from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.model_files import write_whole
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore, declare


@dataclass(frozen=True)
class Parcel:
    """A recipe as JSON text, and the bytes that it is loaded from.

    Attributes:
        models: sha256 -> content of a file of the model store.
        weights: (architecture, file name, sha256, content) of each weight file.
        version: of this package where it was packed.
    """

    recipe: str
    models: dict[str, bytes]
    weights: tuple[tuple[str, str, str, bytes], ...]
    version: str = __version__

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.models.values())) + sum(len(entry[3]) for entry in self.weights)


def pack(recipe: Recipe, store: WeightStore) -> Parcel:
    """Read all that a recipe is loaded from; random weights are made again where they are wanted.

    Raises:
        WeightsError: a file is missing, or is not the one that the recipe names.
    """
    used = dict.fromkeys(branch.backbone for branch in recipe.branches.values())
    models = {branch.projection.sha256 for branch in recipe.branches.values()}
    weights = []
    for backbone in (recipe.backbones[key] for key in used):
        path = store.file(backbone.arch, backbone.weights)
        if path is None:
            continue
        if path == store.models.path(backbone.weights.sha256):
            models.add(backbone.weights.sha256)
        else:
            weights.append((backbone.arch, path.name, backbone.weights.sha256, path.read_bytes()))
    found = {sha256: store.models.checked(sha256).read_bytes() for sha256 in sorted(models)}
    return Parcel(recipe.model_dump_json(), found, tuple(weights))


def unpack(parcel: Parcel, folder: Path) -> tuple[Recipe, WeightStore]:
    """Write the files into an empty folder; the store finds them and no others, and downloads nothing.

    Raises:
        WeightsError: a file is not what was packed, this package has another version here, or the disk is full.
    """
    if parcel.version != __version__:
        raise WeightsError(
            f"this node has deer-reid-pipeline {__version__} and the command {parcel.version}: install the same version"
        )
    for sha256, content in parcel.models.items():
        _write(folder / "models" / f"{sha256}.safetensors", content, sha256)
    search = [folder / "weights"]
    for arch, name, sha256, content in parcel.weights:
        search.append(folder / "weights" / sha256)
        _write(search[-1] / name, content, sha256)
        declare(search[-1], arch, name)
    return Recipe.from_json(parcel.recipe), WeightStore(search, folder / "models", offline=True)


def _write(path: Path, content: bytes, sha256: str) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise WeightsError(f"{path.name} was damaged on its way to this node: run the command again")
    write_whole(path, content)
