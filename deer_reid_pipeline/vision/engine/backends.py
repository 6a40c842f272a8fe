"""The libraries that can run a trunk, each behind the same call."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.vision.engine.narrowing import NarrowingError, narrowed
from deer_reid_pipeline.vision.engine.options import PLAIN, Choice
from deer_reid_pipeline.vision.trunk import Trunk, in_precision

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Tap

Runner = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""uint8 [n, h, w, 3] on the device to pooled taps, each float32 [n, features] on the device."""

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Name of an arithmetic -> torch's type."""
_OPENVINO_TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class BackendError(DeerReidError):
    """A library cannot run this network here; the text is the reason that the measurement shows."""


def candidates(device: torch.device) -> list[Choice]:
    """What may be faster than float32 as loaded, the quickest to try first. Which is, is measured."""
    kinds = ["float32", *fast_types(device)]
    backends = ["torch", "openvino", "compile"] if device.type == "cpu" else ["torch", "compile"]
    return [Choice(backend, kind) for backend in backends for kind in kinds]


def fast_types(device: torch.device) -> list[str]:
    """Narrow types in which this device computes, rather than only stores."""
    if device.type == "cuda":
        return ["bfloat16", "float16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["float16"]
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        narrow = {"bfloat16": ("amx_bf16", "avx512_bf16"), "float16": ("amx_fp16", "avx512_fp16")}
        return [kind for kind, flags in narrow.items() if any(can.get(flag) for flag in flags)]
    return ["float16"]


def absent(backend: str, device: torch.device) -> str | None:
    """Why a library cannot be used here at all; None where it can be tried."""
    if backend == "openvino":
        if device.type != "cpu":
            return "OpenVINO is used on the CPU only"
        if importlib.util.find_spec("openvino") is None:
            return "the package openvino is not installed; install it with 'pip install openvino', where there is one"
    if backend == "compile" and device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            return f"torch.compile needs a C++ compiler and there is no {compiler}; install one or set CXX"
    if backend == "compile" and device.type == "mps":
        return "torch.compile is not used on mps"
    return None


def build_runner(trunk: Trunk, choice: Choice, device: torch.device, batch: int) -> Runner:
    """A trunk (float32, as loaded) made ready on a device.

    Args:
        batch: the one size that torch.compile is given: fewer crops are filled up with black ones, more run in turns,
            so that a crop's vector never depends on how many came with it. It compiles at the first call.

    Raises:
        BackendError: the library is absent, or cannot take this network.
    """
    reason = absent(choice.backend, device)
    if reason is not None:
        raise BackendError(reason)
    if choice == PLAIN:
        plain: Runner = trunk.to(memory_format=torch.channels_last).to(device)
        return plain
    if choice.backend == "openvino":
        if choice.wide is None:
            return _openvino(in_precision(trunk, torch.float32, choice.folded), choice.precision)
        return _openvino_in_parts(trunk, choice.wide)
    network = in_precision(trunk, TYPES[choice.precision], choice.folded).to(device)
    if choice.backend == "torch":
        eager: Runner = network
        return eager
    return _compiled(network, device, batch)


def _compiled(network: Trunk, device: torch.device, size: int) -> Runner:
    # Weights as constants let the CPU's convolutions keep them in their own layout and take in what follows them.
    options: dict[str, Any] | None = {"freezing": True} if device.type == "cpu" else None
    compiled = torch.compile(network, dynamic=False, options=options)

    def whole(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        lacking = size - len(batch)
        filled = torch.cat([batch, batch.new_zeros((lacking, *batch.shape[1:]))]) if lacking else batch
        try:
            result: tuple[torch.Tensor, ...] = compiled(filled)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler's errors have no common class
            raise BackendError(f"torch.compile cannot take this network: {_first_line(error)}") from error
        return tuple(values[: len(batch)] for values in result)

    def run(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = [whole(part) for part in batch.split(size)]
        return parts[0] if len(parts) == 1 else tuple(torch.cat(each) for each in zip(*parts, strict=True))

    return run


def _openvino(network: Trunk, precision: str) -> Runner:
    example = torch.zeros((2, network.height, network.width, 3), dtype=torch.uint8)
    return _converted(network, example, precision, len(network.taps))


def _openvino_in_parts(trunk: Trunk, wide: int) -> Runner:
    """The first part in bfloat16, the last `wide` parts of the network in float32."""
    try:
        parts = narrowed(trunk, wide)
    except NarrowingError as error:
        raise BackendError(str(error)) from error
    example = torch.zeros((2, trunk.height, trunk.width, 3), dtype=torch.uint8)
    compiled: list[tuple[tuple[Tap, ...], Runner]] = []
    for part in parts:
        outputs = len(part.taps) + (0 if part.last else 1)
        compiled.append((part.taps, _converted(part, example, "bfloat16" if part.first else "float32", outputs)))
        if not part.last:
            with torch.inference_mode():
                example = part(example)[-1]

    wanted = trunk.taps

    def run(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pooled: dict[Tap, torch.Tensor] = {}
        given = batch
        for taps, runner in compiled:
            found = runner(given)
            pooled.update(zip(taps, found, strict=False))  # what comes after the taps is the map for the next part
            given = found[-1]
        return tuple(pooled[tap] for tap in wanted)

    return run


def _converted(network: nn.Module, example: torch.Tensor, precision: str, count: int) -> Runner:
    """A network of one input and `count` outputs, for any number of rows of what `example` is two of."""
    # Converting a model tells Intel so, if this module can be imported; nothing is to leave the machine.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        shape = openvino.PartialShape([-1, *example.shape[1:]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's, of how OpenVINO reads its networks
            model = openvino.convert_model(network, example_input=example, input=[shape])
        compiled = openvino.Core().compile_model(model, "CPU", settings)
    except Exception as error:  # OpenVINO raises RuntimeError and classes of its own
        raise BackendError(f"OpenVINO cannot take this network: {_first_line(error)}") from error

    def run(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # The input is read where it is, and the outputs are copies already.
        found = compiled.create_infer_request().infer([batch.numpy()], share_inputs=True)
        return tuple(torch.from_numpy(found[index]) for index in range(count))

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
