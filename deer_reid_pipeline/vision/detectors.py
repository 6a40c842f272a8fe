"""Who finds the animals in pictures that came without boxes. Models are loaded only when a detector is
opened.

- `OnnxDetector`: a YOLOX network with COCO classes, the light one. COCO knows no deer, so the scores of all
  its animal classes count together.
- `MegaDetector`: the field's own, through its own package (optional extra `detect`).
- `WholeFrame`: no detector; the picture is one box, and its name says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.boxes import DetectedBox, Detector, clipped_box, non_maximum_suppression
from deer_reid_pipeline.vision.crops import fitted_size, letterbox
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.model_files import sha256_of

__all__ = ["DetectedBox", "Detector", "MegaDetector", "OnnxDetector", "WholeFrame", "open_detector"]

YOLOX_NANO = "yolox_nano.onnx"
MIN_CONFIDENCE = 0.2
"""Default threshold of `OnnxDetector`; see docs for what it finds at which value."""

_STRIDES = (8, 16, 32)
_PAD = 114
_NMS_IOU = 0.45
_COCO = {"person": (0,), "vehicle": (1, 2, 3, 5, 7), "animal": tuple(range(14, 24))}
"""Category -> COCO class numbers; animals are bird, cat, dog, horse, sheep, cow, elephant, bear, zebra,
giraffe."""
_MEGADETECTOR_CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}


class WholeFrame:
    """No detector: one box over the whole picture, confidence 1, told from a real one by its name."""

    name = "whole_frame"

    def detect(self, pixels: Pixels) -> list[DetectedBox]:
        return [DetectedBox(0.0, 0.0, 1.0, 1.0, 1.0, "animal")]


class OnnxDetector:
    """A YOLOX network in ONNX form (one input [1, 3, h, w], one output [1, cells, 5 + 80 COCO classes]), on
    the CPU.

    Args:
        path: the .onnx file; the input size is read from it.
        min_confidence: boxes below it are not returned (0 to 1).
        threads: CPU threads of onnxruntime.

    Raises:
        WeightsError: the file is missing, is not such a network, or onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, min_confidence: float = MIN_CONFIDENCE, threads: int = 2) -> None:
        path = Path(path)
        if not path.is_file():
            raise WeightsError(f"detector {path} does not exist; put it there, or set DEER_REID_DETECTOR=none")
        runtime = _imported("onnxruntime", "onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise WeightsError(f"detector {path} cannot be loaded: {str(error).splitlines()[0]}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or not outputs:
            raise WeightsError(f"detector {path} has {len(inputs)} inputs and {len(outputs)} outputs, not one of each")
        feed, out = inputs[0], outputs[0]
        shape = feed.shape
        if len(shape) != 4 or not all(isinstance(side, int) and side % 32 == 0 for side in shape[2:]):
            raise WeightsError(f"detector {path} takes {shape}, not [1, 3, height, width] in multiples of 32")
        self._feed, (self._height, self._width) = feed.name, shape[2:]
        self._grid = _cells(self._width, self._height)
        if list(out.shape)[1:] != [len(self._grid), 85]:
            raise WeightsError(f"detector {path} gives {out.shape}, not YOLOX's [1, {len(self._grid)}, 85]")
        self.min_confidence = min_confidence
        self.name = f"{path.stem}-{sha256_of(path)[:8]}"

    def detect(self, pixels: Pixels) -> list[DetectedBox]:
        """Boxes (animals, people, vehicles) in uint8 [h, w, 3] RGB, by falling confidence."""
        picture = letterbox(pixels, self._width, self._height, (_PAD, _PAD, _PAD), anchor="top_left")
        bgr = np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)
        cells = self._session.run(None, {self._feed: bgr})[0][0]
        corners, scores = decode_yolox(cells, self._grid)
        inner = fitted_size(pixels.shape[1], pixels.shape[0], self._width, self._height)
        corners = corners / np.array([*inner, *inner], np.float64)
        boxes = []
        for category, values in scores.items():
            likely = np.flatnonzero(values >= self.min_confidence)
            for kept in non_maximum_suppression(corners[likely], values[likely], _NMS_IOU):
                left, top, right, bottom = corners[likely[kept]]
                box = clipped_box(left, top, right, bottom, values[likely[kept]], category)
                boxes += [box] if box is not None else []
        return sorted(boxes, key=lambda box: -box.confidence)


class MegaDetector:
    """MegaDetector through its own package (`pip install deer-reid-pipeline[detect]`).

    Args:
        model: a model name that the package knows, or a file.
        min_confidence: boxes below it are not returned.

    Raises:
        WeightsError: the package is not installed, or its model cannot be had.
    """

    def __init__(self, model: str = "MDV5A", min_confidence: float = MIN_CONFIDENCE) -> None:
        package = _imported("megadetector.detection.run_detector", "deer-reid-pipeline[detect]")
        try:
            self._detector: Any = package.load_detector(model)
        except Exception as error:  # whatever the package, its downloader or torch raise
            raise WeightsError(
                f"MegaDetector model {model} cannot be loaded ({error!r:.200}); "
                "give its file as DEER_REID_DETECTOR, or use DEER_REID_DETECTOR=onnx"
            ) from error
        self.min_confidence = min_confidence
        self.name = f"megadetector-{Path(model).stem}"

    def detect(self, pixels: Pixels) -> list[DetectedBox]:
        """Boxes (animals, people, vehicles) in uint8 [h, w, 3] RGB, by falling confidence."""
        found = self._detector.generate_detections_one_image(pixels, "picture", detection_threshold=self.min_confidence)
        if found.get("failure"):
            raise WeightsError(f"MegaDetector failed on a picture: {found['failure']}")
        boxes = []
        for each in found.get("detections") or []:
            x, y, width, height = each["bbox"]
            category = _MEGADETECTOR_CATEGORIES.get(str(each["category"]), "animal")
            box = clipped_box(x, y, x + width, y + height, each["conf"], category)
            boxes += [box] if box is not None else []
        return sorted(boxes, key=lambda box: -box.confidence)


def open_detector(which: str, search_dirs: Sequence[Path], min_confidence: float = MIN_CONFIDENCE) -> Detector:
    """The detector that a setting names.

    Args:
        which: 'none' (whole frame), 'auto' (the first yolox*.onnx in `search_dirs`, else whole frame), 'onnx'
            (yolox_nano.onnx must be there), 'megadetector', or an .onnx (YOLOX) or .pt (MegaDetector) file.

    Raises:
        WeightsError: it cannot be had; the sentence says what to do.
    """
    if which == "none":
        return WholeFrame()
    if which == "auto":
        for folder in search_dirs:
            for path in sorted(Path(folder).glob("yolox*.onnx")):
                return OnnxDetector(path, min_confidence)
        return WholeFrame()
    if which == "onnx":
        for folder in search_dirs:
            if (Path(folder) / YOLOX_NANO).is_file():
                return OnnxDetector(Path(folder) / YOLOX_NANO, min_confidence)
        looked = " or ".join(str(folder) for folder in search_dirs)
        raise WeightsError(
            f"{YOLOX_NANO} is not in {looked}; export it from YOLOX 0.1.1rc0 (Apache-2.0) and put it there, "
            "or set DEER_REID_DETECTOR=none"
        )
    if which == "megadetector":
        return MegaDetector(min_confidence=min_confidence)
    if which.endswith(".onnx"):
        return OnnxDetector(which, min_confidence)
    if which.endswith(".pt"):
        return MegaDetector(which, min_confidence)
    raise WeightsError(f"unknown detector {which!r}; use auto, none, onnx, megadetector, or an .onnx or .pt file")


def decode_yolox(
    cells: NDArray[np.float32], grid: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Raw YOLOX output to boxes in input pixels and one score for each category.

    Args:
        cells: [n, 85]: centre offset x, y and log size w, h in strides, objectness, 80 class probabilities.
        grid: [n, 3]: column, row and stride of each cell.

    Returns:
        corners [n, 4] left, top, right, bottom; category -> [n] objectness times its classes' summed
        probability.
    """
    stride = grid[:, 2:]
    centre = (cells[:, :2] + grid[:, :2]) * stride
    half = np.exp(np.clip(cells[:, 2:4].astype(np.float64), -20, 20)) * stride / 2
    objectness, classes = cells[:, 4].astype(np.float64), cells[:, 5:].astype(np.float64)
    scores = {
        category: objectness * np.minimum(1.0, classes[:, list(numbers)].sum(axis=1))
        for category, numbers in _COCO.items()
    }
    return np.concatenate([centre - half, centre + half], axis=1), scores


def _cells(width: int, height: int) -> NDArray[np.float64]:
    """Column, row and stride of every YOLOX cell, [n, 3], in the network's order."""
    parts = []
    for stride in _STRIDES:
        rows, columns = np.mgrid[0 : height // stride, 0 : width // stride]
        parts.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(parts).astype(np.float64)


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WeightsError(f"this detector needs {package}; install it with 'pip install {package}'") from error
