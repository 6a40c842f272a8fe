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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from error
    except Exception as error:  # safetensors raises its own root class
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise WeightsError(f"{path} is not a plain table of tensors; save model.state_dict()")
    return state


def load_into(model: torch.nn.Module, state: State, what: str) -> None:
    """Load named tensors into a network without classifier; every key and shape must fit.

    Raises:
        WeightsError: keys are missing, left over, have another shape, or are not plain finite numbers; a few are
            named. Nothing is computed of a tensor that has another shape: a small file can claim a huge one.
    """
    import torch

    own = model.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    fitting = [key for key in own if key in state and own[key].shape == state[key].shape]
    odd = [
        key
        for key in fitting
        if state[key].layout != torch.strided or state[key].is_floating_point() != own[key].is_floating_point()
    ]
    problems = {
        "missing": sorted(key for key in own if key not in state and key not in counters),
        "unknown": sorted(key for key in state if key not in own),
        "of another shape": sorted(key for key in own if key in state and key not in (*counters, *fitting)),
        "of another kind": sorted(odd),
        "not finite": sorted(key for key in fitting if key not in odd and not bool(torch.isfinite(state[key]).all())),
    }
    for problem, keys in problems.items():
        if keys:
            few = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise WeightsError(f"weights for {what} do not fit: {problem}: {few}")
    model.load_state_dict({key: state[key] for key in fitting}, strict=False)


def hash_state(state: State) -> str:
    """SHA-256 over names, types, shapes and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
