"""Named tensors (state dicts): read from a file, hashed, and loaded into a network without leniency."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from deer_reid_pipeline.errors import WeightsError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]


def read_state(path: Path) -> State:
    """Named tensors of a `.pth` (weights only, no code is run) or `.safetensors` file.

    Raises:
        WeightsError: the file is not one of the two, or holds more than tensors.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(path)))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from error
    except Exception as error:  # safetensors raises its own root class
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path} is not a plain table of tensors; save model.state_dict()")
    return state


def load_into(model: torch.nn.Module, state: State, what: str) -> None:
    """Load named tensors into a network without classifier; every key and shape must fit.

    Raises:
        WeightsError: keys are missing, left over, or have another shape; a few are named.
    """
    import torch

    own = model.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    problems = {
        "missing": sorted(key for key in own if key not in state and key not in counters),
        "unknown": sorted(key for key in state if key not in own),
        "of another shape": sorted(
            k for k in own if k in state and k not in counters and own[k].shape != state[k].shape
        ),
        "not finite": sorted(key for key in own if key in state and not bool(torch.isfinite(state[key].float()).all())),
    }
    for problem, keys in problems.items():
        if keys:
            few = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise WeightsError(f"weights for {what} do not fit: {problem}: {few}")
    model.load_state_dict(state, strict=False)


def hash_state(state: State) -> str:
    """SHA-256 over names, types, shapes and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
