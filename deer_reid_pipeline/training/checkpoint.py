"""Everything that a training needs to go on as if it had never stopped, in one safetensors file; never a pickle.

The batches and pictures of an epoch follow from the seed and the epoch's number, so weights, their moving average and
the optimiser's state are all there is to keep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.vision.model_files import write_whole

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Progressed:
    """How far a training is.

    Attributes:
        epoch: epochs done.
        best: figure of the best epoch so far, minus infinity before the first.
        best_epoch: its number, counted from 1; 0 before the first.
        micro_batch: pictures that go through the network at once.
        seconds: spent on training so far.
    """

    epoch: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    micro_batch: int = 0
    seconds: float = 0.0


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], note: Mapping[str, object]) -> None:
    """Write named tensors and a note, with a digest of both, whole or not at all.

    Raises:
        TrainingError: they cannot be written; what was there before still is.
    """
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps(note)
    content = save(kept, metadata={"note": text, "sha256": _digest(kept, text)})
    try:
        write_whole(path, content)
    except WeightsError as error:
        raise TrainingError(f"the state of the training cannot be kept: {error}. Run it again to go on") from error


def read_tensors(path: Path) -> tuple[Tensors, dict[str, object]] | None:
    """Named tensors (CPU) and their note; None where there is no such file or a byte of it is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            about = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            sound = about["sha256"] == _digest(tensors, about["note"])
            return (tensors, json.loads(about["note"])) if sound else None
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def _digest(tensors: Mapping[str, torch.Tensor], note: str) -> str:
    """sha256 over names, bytes and the note: safetensors itself notices a damaged header and no damaged weight."""
    digest = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """The optimiser's state by the place of its parameters, which is the same whenever the network is built."""
    found: Tensors = {}
    for number, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            found[f"{number}.{name}"] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    return found


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `optimiser_tensors`."""
    whole = optimiser.state_dict()
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors under longer names."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def of_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Those that `with_prefix` named so, under their own names."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}/")}
