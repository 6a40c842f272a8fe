"""Draw a labelled herd into a folder that is a drop: pictures, a manifest with gaps, and the truth.

The same parameters give the same bytes. A folder is either this herd (drawn, or begun and not finished) or is
left alone. Pictures go to disk one by one, so the size of a herd is bound by the disk only.
"""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.sample.calibration import calibration_pictures
from deer_reid_pipeline.sample.light import LIGHTS
from deer_reid_pipeline.sample.picture import Box, Studio, compose
from deer_reid_pipeline.sample.plan import Event, Frame, Plan, make_plan
from deer_reid_pipeline.sample.strip import burn_strip
from deer_reid_pipeline.sample.tables import Sighting, write_atomically, write_json, write_tables

__all__ = ["HerdSummary", "calibration_pictures", "draw_herd"]

# Raise when the same parameters would draw something else.
VERSION = 1
MARK, BEGUN = ".herd.json", ".herd.begun.json"
QUALITY = 88
EXIF_IFD, DATE_TIME_ORIGINAL, DATE_TIME, MAKE, MODEL = 0x8769, 0x9003, 0x0132, 0x010F, 0x0110


@dataclass(frozen=True)
class HerdSummary:
    """What a folder holds. Encounters count an animal once an event; `known_encounters` are those with a
    name.

    `new_individuals` never appear among the known encounters: the right answer for them is a new animal.
    """

    folder: Path
    pictures: int
    detections: int
    individuals: int
    events: int
    encounters: int
    known_encounters: int
    new_individuals: int


def draw_herd(
    folder: Path,
    *,
    individuals: int = 8,
    encounters: int = 40,
    seed: int = 0,
    known_share: float = 0.5,
    size: tuple[int, int] = (1280, 960),
    progress: Callable[[int, int], None] | None = None,
) -> HerdSummary:
    """Draw the herd of `seed` into `folder`, or return its summary if it is there already.

    `encounters` animals-in-a-burst of 2 or 3 pictures each; the earliest `known_share` (0..1) of them carry
    names. `size` is (width, height) in pixels, at least (160, 120). `progress(done, total)` is called after
    each picture. Raises `DeerReidError` for parameters out of range and for a folder that holds anything
    else.
    """
    wanted = _parameters(individuals, encounters, seed, known_share, size)
    finished = _finished(folder, wanted)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / BEGUN, wanted)
    plan = make_plan(individuals, encounters, seed, known_share)
    studio, sightings = Studio(seed, size), list[Sighting]()
    total, done = sum(len(event.frames) for event in plan.events), 0
    for event in plan.events:
        for frame in event.frames:
            content, boxes = _picture(studio, event, frame)
            write_atomically(folder / frame.path, content)
            sightings += [_sighting(event, frame, index, box) for index, box in enumerate(boxes)]
            done += 1
            if progress is not None:
                progress(done, total)
    write_tables(folder, sightings)
    summary = _summary(folder, plan, sightings)
    write_json(folder / MARK, {**wanted, "summary": {k: v for k, v in asdict(summary).items() if k != "folder"}})
    (folder / BEGUN).unlink()
    return summary


def _parameters(
    individuals: int, encounters: int, seed: int, known_share: float, size: tuple[int, int]
) -> dict[str, Any]:
    if individuals < 1 or encounters < 1 or seed < 0:
        raise DeerReidError("A herd needs at least 1 individual, at least 1 encounter and a seed of 0 or more.")
    if not 0.0 <= known_share <= 1.0:
        raise DeerReidError(f"known_share is {known_share}; it is a share of the encounters, from 0 to 1.")
    if size[0] < 160 or size[1] < 120:
        raise DeerReidError(f"Pictures of {size[0]}x{size[1]} are too small to draw deer in; use at least 160x120.")
    return {
        "version": VERSION,
        "individuals": individuals,
        "encounters": encounters,
        "seed": seed,
        "known_share": float(known_share),
        "size": list(size),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("ascii"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _finished(folder: Path, wanted: dict[str, Any]) -> HerdSummary | None:
    """The summary if this very herd is drawn; None if it may be drawn here; an error otherwise."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise DeerReidError(f"{folder.name} is a file; name a new or empty folder for the drawn herd.")
    mark = _read(folder / MARK)
    if mark:
        summary = mark.pop("summary", {})
        if mark == wanted:
            return HerdSummary(folder=folder, **summary)
        raise DeerReidError(f"{folder.name} holds a herd drawn with other parameters; name another folder.")
    begun = _read(folder / BEGUN)
    if begun and begun != wanted:
        raise DeerReidError(f"{folder.name} holds an unfinished herd of other parameters; delete it or name another.")
    strangers = [path for path in folder.iterdir() if path.name != f".{BEGUN}.part"]
    if not begun and strangers:
        raise DeerReidError(f"{folder.name} is not empty and is not a drawn herd; name a new or empty folder.")
    return None


def _picture(studio: Studio, event: Event, frame: Frame) -> tuple[bytes, list[Box]]:
    """One finished JPEG and the boxes of its animals."""
    pixels, boxes = compose(studio, event.camera, LIGHTS[event.kind], frame.subjects, frame.stream)
    burn_strip(pixels, frame.when, event.celsius, event.deployment_id)
    return _jpeg(pixels, frame, event.deployment_id), boxes


def _jpeg(pixels: NDArray[np.uint8], frame: Frame, camera: str) -> bytes:
    exif = Image.Exif()
    stamp = frame.when.strftime("%Y:%m:%d %H:%M:%S")
    exif[MAKE], exif[MODEL], exif[DATE_TIME] = "deer-reid sample", camera, stamp
    exif.get_ifd(EXIF_IFD)[DATE_TIME_ORIGINAL] = stamp
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY, exif=exif)
    return stream.getvalue()


def _sighting(event: Event, frame: Frame, index: int, box: Box) -> Sighting:
    subject = frame.subjects[index]
    row = {
        "filePath": frame.path,
        "individualID": subject.animal.name,
        "eventID": event.event_id,
        "viewpoint": subject.flank,
        "sex": subject.animal.sex,
        "lifeStage": subject.animal.life_stage,
        "timestamp": frame.when.isoformat(),
        "deploymentID": event.deployment_id,
    }
    row |= {
        name: f"{value:.6f}" for name, value in zip(("bboxX", "bboxY", "bboxWidth", "bboxHeight"), box, strict=True)
    }
    return Sighting(row, event.known, event.tell_sex, event.tell_stage)


def _summary(folder: Path, plan: Plan, sightings: list[Sighting]) -> HerdSummary:
    encounters = {(s.row["eventID"], s.row["individualID"]): s.known for s in sightings}
    named = {animal for (_, animal), known in encounters.items() if known}
    seen = {animal for _, animal in encounters}
    return HerdSummary(
        folder=folder,
        pictures=len({s.row["filePath"] for s in sightings}),
        detections=len(sightings),
        individuals=len(seen),
        events=len(plan.events),
        encounters=len(encounters),
        known_encounters=sum(encounters.values()),
        new_individuals=len(seen - named),
    )
