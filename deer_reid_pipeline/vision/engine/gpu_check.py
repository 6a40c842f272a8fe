"""Does the inference engine do on this card what it promises, and how fast is it? Run as a module, by `make gpu-check`.

Needs torch, torchvision, numpy and pillow, and nothing else: networks have random weights, pictures are drawn. Never
changes a setting of the card, and never takes more of it than the budget.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.sample.calibration import calibration_pictures
from deer_reid_pipeline.vision.crops import CropSpec, encode_crop, fitted_size, squash
from deer_reid_pipeline.vision.embedder import EmbeddingError, resolve_device
from deer_reid_pipeline.vision.engine.batches import SIZES
from deer_reid_pipeline.vision.engine.gpu_memory import MIB, Budget, claim_budget
from deer_reid_pipeline.vision.engine.gpu_shapes import SEED, embedder_of, measurable, shape_of
from deer_reid_pipeline.vision.engine.gpu_trials import RecipeFigures, measure_recipe
from deer_reid_pipeline.vision.engine.loading import cores
from deer_reid_pipeline.vision.model_files import write_whole

PASSED, FAILED, NO_DEVICE = 0, 1, 2


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        side: width and height of the networks' input, pixels.
        pictures: how many are drawn.
        seconds: spent on each speed.
    """

    sizes: tuple[int, ...] = SIZES
    side: int = 224
    pictures: int = 32
    seconds: float = 2.0


WHOLE = Extent()
QUICK = Extent(sizes=(1, 8, 32), pictures=8, seconds=0.2)
QUICK_WITHOUT_CARD = Extent(sizes=(1, 4), side=64, pictures=4, seconds=0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 all is as it has to be, 1 something is not, 2 the device is absent."""
    asked = _parser().parse_args(arguments)
    try:
        device = resolve_device(asked.device)
    except EmbeddingError as error:
        print(f"nothing was checked: {error} (of this check: --device cpu, for what needs no card)", flush=True)
        return NO_DEVICE
    try:
        report = check(device, asked.vram_mb, extent_of(device, asked.quick))
        for line in table(report):
            print(line, flush=True)
        if asked.json is not None:
            write_whole(asked.json, (json.dumps(report, indent=1) + "\n").encode("ascii"))
    except torch.cuda.OutOfMemoryError:
        print("FAIL: the memory budget does not hold one crop and the networks; allow more with --vram-mb", flush=True)
        return FAILED
    except DeerReidError as error:
        print(f"FAIL: {error}", flush=True)
        return FAILED
    return FAILED if report["failures"] else PASSED


def extent_of(device: torch.device, quick: bool) -> Extent:
    """How much is measured on this device."""
    if not quick:
        return WHOLE
    return QUICK if device.type == "cuda" else QUICK_WITHOUT_CARD


def check(
    device: torch.device, vram_mb: int | None, extent: Extent, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """All figures as plain data.

    Args:
        vram_mb: MiB of the card that may be used; None: 75 % of it.
        say: is told how far it is; None: standard output.
    """
    say = say or (lambda line: print(line, flush=True))
    budget = claim_budget(vram_mb, device) if device.type == "cuda" else None
    say(f"measuring on {device_name(device)}" + (f": {budget.describe()}" if budget else ": memory is left out"))
    say(f"drawing {extent.pictures} pictures")
    contents = draw_contents(extent.pictures)
    found = []
    for name in measurable():
        found.append(_measure(name, contents, device, budget, extent, say))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {
        "machine": machine(device),
        "budget": None if budget is None else asdict(budget),
        "extent": asdict(extent),
        "weights": "random",
        "recipes": [asdict(each) for each in found],
        "failures": [reason for each in found for reason in each.failures],
    }


def _measure(
    name: str,
    contents: Sequence[bytes],
    device: torch.device,
    budget: Budget | None,
    extent: Extent,
    say: Callable[[str], None],
) -> RecipeFigures:
    shape = shape_of(name, extent.side)
    for line in shape.stand_ins():
        say(line)
    pictures = calibration_pictures(min(extent.pictures, 8), SEED)
    embedder = embedder_of(shape, pictures, str(device))
    return measure_recipe(name, shape.stand_ins(), embedder, contents, budget, extent.sizes, extent.seconds, say)


def draw_contents(count: int) -> list[bytes]:
    """Drawn animals as JPEG of the size and quality in which crops are stored."""
    spec = CropSpec()
    contents = []
    for pixels in calibration_pictures(count, SEED):
        width, height = fitted_size(pixels.shape[1], pixels.shape[0], spec.max_side, spec.max_side)
        contents.append(encode_crop(squash(pixels, width, height), spec))
    return contents


def device_name(device: torch.device) -> str:
    """The card's name, or the processor's kind."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    facts: dict[str, Any] = {
        "device": device_name(device),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        facts |= {
            "capability": f"{card.major}.{card.minor}",
            "memory_mib": card.total_memory // MIB,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
        }
    return facts


def table(report: dict[str, Any]) -> list[str]:
    """A report as lines for a person, ASCII."""
    lines = ["", f"{'recipe':<10} {'batch':>5} {'bare/s':>9} {'engine/s':>9} {'ratio':>6} {'peak MiB':>9}"]
    for each in report["recipes"]:
        for row in each["batches"]:
            ratio = None if row["bare"] is None else row["engine"] / row["bare"]
            lines.append(
                f"{each['recipe']:<10} {row['batch']:>5} {_number(row['bare'], 1):>9} {_number(row['engine'], 1):>9} "
                f"{_number(ratio, 2):>6} {_number(row['peak_mib'], 0):>9}"
            )
    lines.append("")
    for each in report["recipes"]:
        lines += _summary(each)
    budget = report["budget"]
    lines.append(
        "no card: memory was left out"
        if budget is None
        else f"budget {budget['bytes'] // MIB} MiB; "
        f"torch {report['machine']['torch']}, {report['machine']['cores']} cores, {report['machine']['device']}"
    )
    lines.append("random weights: another arithmetic may pass with a recipe's own, and vectors mean nothing")
    lines.append("not measured: training")
    lines += [f"FAIL: {reason}" for reason in report["failures"]] or ["ok: all checks passed"]
    return lines


def _summary(each: dict[str, Any]) -> list[str]:
    limits, trial = each["limits"], each["out_of_memory"]
    plan = ", ".join(f"{key} by {choice}" for key, choice in each["plan"].items())
    lines = [
        *each["stand_ins"],
        f"{each['recipe']}: {plan}; cosine to float32 {each['cosine']:.5f}; largest batch {each['largest_batch']}",
        f"{each['recipe']}: at batch {limits['batch']}, crops/s: decode {_number(limits['decode'], 1)}, "
        f"copy {_number(limits['copy'], 1)} ({_number(limits['copy_gb_per_s'], 1)} GB/s pinned), "
        f"compute {_number(limits['compute'], 1)}, network thread {_number(limits['network_thread'], 1)}; "
        f"next limit: {limits['next']}",
    ]
    if trial is not None:
        lines.append(
            f"{each['recipe']}: within {trial['limit_mib']:.0f} MiB a batch of {trial['before']} became "
            f"{trial['after']}, cosine {_number(trial['cosine'], 6)}"
        )
    return lines


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--vram-mb", type=_positive, metavar="N", help="MiB of the card to use at most (75 %% of it)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (memory is then left out)")
    parser.add_argument("--quick", action="store_true", help="a few small batches, for a first look")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of MiB above zero")
    return value


if __name__ == "__main__":
    sys.exit(main())
