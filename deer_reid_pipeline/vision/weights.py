"""Find, fetch, check and load the weights of a backbone.

A weight file is used only if its hash is the pinned one: the published file's, or the one that the user
declared in
`weights.json` beside an own file:

    {"resnet50": {"file": "my_resnet50.pth", "sha256": "..."}}

`.pth` files are read with `weights_only=True`; `.safetensors` are read as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.model_files import ModelFiles, check_hash, sha256_of
from deer_reid_pipeline.vision.published import PUBLISHED, Progress, download, how_to_get
from deer_reid_pipeline.vision.recipe import CHANNELS, WeightsRef
from deer_reid_pipeline.vision.states import hash_state, read_state

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

DECLARATION = "weights.json"
RANDOM_SEED = 20240601
_CLASSIFIERS = ("fc.", "_fc.", "classifier.")
"""Key prefixes of ImageNet classifiers: present in some files, never used here."""


class WeightStore:
    """Weight files in `search_dirs` (first hit wins; downloads are kept in the last) and the model store.

    Args:
        search_dirs: folders with weight files and perhaps a `weights.json`.
        models_dir: the model store, `<sha256>.safetensors`.
        offline: never download.
        allow_random: a missing file becomes seeded random weights, without trying to download it; speed
        trials only. progress: told how a download goes; None logs every tenth.
    """

    def __init__(
        self,
        search_dirs: Sequence[Path],
        models_dir: Path,
        offline: bool = False,
        allow_random: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if not search_dirs:
            raise WeightsError("no folder to search for weights was given")
        self.search_dirs = tuple(Path(folder) for folder in search_dirs)
        self.models = ModelFiles(Path(models_dir))
        self.offline = offline
        self.allow_random = allow_random
        self.progress = progress

    def resolve(self, arch: str) -> WeightsRef:
        """The weights that a new recipe uses for `arch`: declared, else published (downloaded once), else
        random.

        Raises:
            WeightsError: missing and not to be had (the sentence says how to get it), or not the pinned
            bytes.
        """
        _check_arch(arch)
        for path, expected, source in self._candidates(arch):
            return WeightsRef(name=path.name, sha256=check_hash(path, expected), source=source)
        if self.allow_random:
            state = random_state(arch)
            return WeightsRef(
                name=f"random-{arch}-{RANDOM_SEED}", sha256=hash_state(state), source="random", random=True
            )
        path = self._fetch(arch)
        return WeightsRef(name=path.name, sha256=check_hash(path, PUBLISHED[arch].sha256), source="published")

    def state(self, arch: str, ref: WeightsRef) -> State:
        """Named tensors (CPU) of exactly the weights that a recipe names, classifier left out.

        Raises:
            WeightsError: the file is missing, damaged, or another one lies in its place.
        """
        _check_arch(arch)
        if ref.source == "random":
            state = random_state(arch)
            if hash_state(state) != ref.sha256:
                raise WeightsError(
                    f"random weights of {arch} come out differently in this torch version; re-create them"
                )
            return state
        path = self.file(arch, ref)
        assert path is not None
        if path == self.models.path(ref.sha256):
            return _without_classifier(self.models.load(ref.sha256))
        return _without_classifier(read_state(path))

    def file(self, arch: str, ref: WeightsRef) -> Path | None:
        """The file that `state` reads, its hash checked; None for random weights, which are in no file.

        Raises:
            WeightsError: as `state`.
        """
        _check_arch(arch)
        if ref.source == "random":
            return None
        if ref.source == "store" or self.models.has(ref.sha256):
            return self.models.checked(ref.sha256)
        seen = []
        for path, expected, _ in self._candidates(arch):
            found = check_hash(path, expected)
            if found == ref.sha256:
                return path
            seen.append(f"{path} has {found}")
        if not seen and ref.sha256.startswith(PUBLISHED[arch].sha256):
            return self._fetch(arch)
        found_text = "; ".join(seen) or "no file was found"
        raise WeightsError(
            f"the recipe needs {ref.name} with sha256 {ref.sha256} for {arch}, but {found_text}; "
            f"put that file into {self.search_dirs[-1]} and declare it in {DECLARATION}"
        )

    def _candidates(self, arch: str) -> Iterator[tuple[Path, str, Any]]:
        """Files for `arch` that exist, with the hash each must have; the user's own come first."""
        for folder in self.search_dirs:
            declared = _declaration(folder).get(arch)
            if declared is not None:
                path = folder / declared["file"]
                if not path.is_file():
                    raise WeightsError(
                        f"{folder / DECLARATION} names {path} for {arch}, which does not exist: put it back, or "
                        f"correct {DECLARATION}"
                    )
                yield path, declared["sha256"], "declared"
        published = PUBLISHED[arch]
        for folder in self.search_dirs:
            if (folder / published.name).is_file():
                yield folder / published.name, published.sha256, "published"
        packaged = published.in_package()
        if packaged is not None:
            yield packaged, published.sha256, "published"

    def _fetch(self, arch: str) -> Path:
        """Download the published file of `arch` into the last search folder; several processes fetch it
        once."""
        from filelock import FileLock

        file, folder = PUBLISHED[arch], self.search_dirs[-1]
        target = folder / file.name
        if self.offline or not file.url:
            looked = " or ".join(str(each) for each in self.search_dirs)
            why = " and downloading is switched off" if file.url else ""
            raise WeightsError(f"{file.name} is not in {looked}{why}; {how_to_get(file, folder)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(target) + ".lock")
            lock.acquire()
        except OSError as error:
            raise WeightsError(f"{file.name} cannot be kept in {folder}: {error.strerror or error}") from error
        try:
            if not target.is_file():
                download(file, target, self.progress)
        finally:
            lock.release()
        return target


def random_state(arch: str) -> State:
    """Seeded random weights of `arch`; the same on every call."""
    import torch

    from deer_reid_pipeline.vision.backbones import build_network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return build_network(arch, 224, 224).state_dict()


def declare(folder: Path, arch: str, file: str) -> None:
    """Write `file` (in `folder`) into the folder's `weights.json` as the weights of `arch`, with its hash."""
    _check_arch(arch)
    table = _declaration(folder)
    table[arch] = {"file": file, "sha256": sha256_of(folder / file)}
    (folder / DECLARATION).write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="ascii")


def _declaration(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / DECLARATION
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        for arch, entry in table.items():
            _check_arch(arch)
            if set(entry) != {"file", "sha256"} or len(entry["sha256"]) != 64:
                raise ValueError(f"the entry for {arch} needs 'file' and a 64-digit 'sha256'")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be used: {error}") from error
    return dict(table)


def _check_arch(arch: str) -> None:
    if arch not in CHANNELS:
        raise WeightsError(f"unknown architecture {arch!r}; known are {', '.join(CHANNELS)}")


def _without_classifier(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith(_CLASSIFIERS)}
