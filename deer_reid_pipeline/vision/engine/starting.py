"""How long the first picture waits: in a new process, where the networks are loaded again, and where they are ready.

`python -m deer_reid_pipeline.vision.engine.starting` is the new process; it reads what to do from standard input.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deer_reid_pipeline.errors import DeerReidError

TIME_LIMIT = 900.0
"""Seconds after which a new process is given up; networks that are compiled take minutes."""


@dataclass(frozen=True)
class Starts:
    """Seconds to the vectors of one crop.

    Attributes:
        cold: in a new process, from its start; Python and libraries, the networks and the picture included. Files
            that were read before may still be in the system's memory.
        loading: the networks loaded again in this process, and one crop.
        warm: with everything loaded; the median.
    """

    cold: float
    loading: float
    warm: float


def measure_starts(
    recipe: dict[str, Any],
    search_dirs: Sequence[Path],
    models: Path,
    device: str,
    plan: dict[str, dict[str, Any]],
    crop: bytes,
    rounds: int = 3,
) -> Starts:
    """Time the first crop three ways.

    Args:
        recipe: as `Recipe.to_json` gives it.
        plan: backbone -> fields of its `Choice`.
        crop: a stored crop, JPEG.

    Raises:
        DeerReidError: the new process failed.
    """
    from deer_reid_pipeline.vision.crops import decode_crop

    given = {
        "recipe": recipe,
        "search_dirs": [str(folder) for folder in search_dirs],
        "models": str(models),
        "device": device,
        "plan": plan,
        "crop": crop.hex(),
    }
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeerReidError(
            f"a new process gave no vector within {TIME_LIMIT:.0f} s: set DEER_REID_BACKEND=torch, which starts at once"
        ) from error
    cold = time.perf_counter() - start
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DeerReidError(f"a new process could not compute a vector ({said}); run `deer-reid doctor`")
    start = time.perf_counter()
    embedder = _loaded(given)
    pixels = decode_crop(crop)
    embedder.embed([pixels])
    loading = time.perf_counter() - start
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        embedder.embed([decode_crop(crop)])
        took.append(time.perf_counter() - start)
    return Starts(cold, loading, statistics.median(took))


def _loaded(given: dict[str, Any]) -> Any:
    from deer_reid_pipeline.vision.embedder import Embedder
    from deer_reid_pipeline.vision.engine.options import Choice
    from deer_reid_pipeline.vision.recipe import Recipe
    from deer_reid_pipeline.vision.weights import WeightStore

    recipe = Recipe.from_json(given["recipe"])
    folders = [Path(folder) for folder in given["search_dirs"]]
    store = WeightStore(folders, Path(given["models"]), offline=True, allow_random=recipe.random_weights)
    embedder = Embedder(recipe, store, given["device"])
    embedder.use({key: Choice(**choice) for key, choice in given["plan"].items()})
    return embedder


def main() -> None:
    """One vector of the crop on standard input; fails where there is none."""
    from deer_reid_pipeline.vision.crops import decode_crop

    given = json.load(sys.stdin)
    _loaded(given).embed([decode_crop(bytes.fromhex(given["crop"]))])


if __name__ == "__main__":
    main()
