"""The built-in recipes, and how their projections come to be.

| recipe | multiscale and baseline | efficientnet |
|---|---|---|
| original | ResNet-50, the owner's design to the letter | EfficientNet-B0 |
| reference | ResNet-50, our projection | EfficientNet-B0 |
| lite | EfficientNet-Lite0 | EfficientNet-Lite2 |
| mobile | MobileNetV2 | EfficientNet-Lite0 |
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.crops import NEW_HOME, CropSpec
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.model_files import write_whole
from deer_reid_pipeline.vision.recipe import (
    CHANNELS,
    Backbone,
    Branch,
    Preprocess,
    Projection,
    Recipe,
    RecipeError,
    Tap,
)
from deer_reid_pipeline.vision.weights import WeightStore

Calibration = Callable[[], list[Pixels]]

CALIBRATION_COUNT = 32
CALIBRATION_SEED = 20240601
LINEAR_SEED = 20240601
INNER = 0.85
"""Centre share of a stored crop that is used (0.94 of the box, whose margin is 5 %): background at the edges
gives the camera away, while heads and antlers near the edges must stay in."""
_BATCH = 16
_BUILD = 1
"""Raised when the making of a projection changes: kept recipes are then made anew."""

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "fill": (124, 116, 104)}
_LITE = {"mean": (0.498, 0.498, 0.498), "std": (0.502, 0.502, 0.502), "fill": (127, 127, 127)}
_NORMALISATION = {"resnet50": _IMAGENET, "efficientnet_b0": _IMAGENET, "mobilenet_v2": _IMAGENET}

_ORIGINAL_TAPS = (
    Tap(layer="layer2", grid=4),
    Tap(layer="layer3", grid=2),
    Tap(layer="layer4"),
    Tap(layer="layer4"),
)
_RESNET_TAPS = (
    Tap(layer="layer2", grid=4),
    Tap(layer="layer3", grid=2),
    Tap(layer="layer4", pool="gem"),
    Tap(layer="layer4"),
)
_STRIDE_TAPS = (
    Tap(layer="stride8", grid=4),
    Tap(layer="stride16", grid=2),
    Tap(layer="stride32"),
    Tap(layer="head", pool="gem"),
)


@dataclass(frozen=True)
class _Design:
    """What a built-in recipe is before weights and projections are known."""

    multiscale_arch: str
    efficientnet_arch: str
    multiscale_taps: tuple[Tap, ...]
    last: str
    owners: bool = False

    @property
    def taps(self) -> dict[str, tuple[str, tuple[Tap, ...]]]:
        """branch -> (backbone key, taps)"""
        return {
            "baseline": ("main", (Tap(layer=self.last),)),
            "multiscale": ("main", self.multiscale_taps),
            "efficientnet": ("second", (Tap(layer="head"),)),
        }

    def preprocess(self, arch: str) -> Preprocess:
        """What a backbone is fed."""
        mode, inner = ("squash", 1.0) if self.owners else ("letterbox", INNER)
        return Preprocess(width=224, height=224, mode=mode, inner=inner, **_NORMALISATION.get(arch, _LITE))


_DESIGNS = {
    "original": _Design("resnet50", "efficientnet_b0", _ORIGINAL_TAPS, "layer4", owners=True),
    "reference": _Design("resnet50", "efficientnet_b0", _RESNET_TAPS, "layer4"),
    "lite": _Design("efficientnet_lite0", "efficientnet_lite2", _STRIDE_TAPS, "head"),
    "mobile": _Design("mobilenet_v2", "efficientnet_lite0", _STRIDE_TAPS, "head"),
}
RECIPE_NAMES = tuple(_DESIGNS)


def architectures(name: str) -> tuple[str, str]:
    """The two networks that a built-in recipe needs weights of: the main one and the second of the ensemble."""
    design = _DESIGNS[name]
    return design.multiscale_arch, design.efficientnet_arch


def build_recipe(
    name: str, store: WeightStore, calibration: Calibration | None = None, crop: CropSpec = NEW_HOME
) -> Recipe:
    """A built-in recipe with the weights that `store` has; makes its projection files if they are absent.

    Args:
        crop: how the crops that it reads are cut; as those of a new home where not given.
        calibration: gives the pictures (uint8 [h, w, 3]) whose mean features are taken as the centre. None:
            the drawn deer of `deer_reid_pipeline.sample`. Only called where a projection has to be made.

    Raises:
        RecipeError: unknown name.
        WeightsError: weights are missing or damaged, or the projection cannot be written.
    """
    design = _DESIGNS.get(name)
    if design is None:
        raise RecipeError(f"unknown recipe {name!r}; known are {', '.join(RECIPE_NAMES)}")
    backbones = {
        key: Backbone.model_validate(
            {"arch": arch, "weights": store.resolve(arch), "preprocess": design.preprocess(arch)}
        )
        for key, arch in (("main", design.multiscale_arch), ("second", design.efficientnet_arch))
    }
    kept = _kept(name, design, backbones, crop, store)
    if kept is not None and calibration is None:
        return kept
    projections = (
        _owners(design, backbones, store)
        if design.owners
        else _calibrated(name, design, backbones, store, calibration or drawn_pictures)
    )
    recipe = Recipe(
        name=name,
        crop=crop.id,
        backbones=backbones,
        branches={
            branch: Branch(backbone=key, taps=taps, projection=projections[branch])
            for branch, (key, taps) in design.taps.items()
        },
    )
    if calibration is None:
        note = json.dumps(recipe.to_json(), indent=1, sort_keys=True)
        write_whole(store.models.folder / _note_name(name, design, backbones, crop), note.encode("ascii"))
    return recipe


def drawn_pictures() -> list[Pixels]:
    """The default calibration pictures: drawn deer, so that nothing is fitted to any real animal.

    Raises:
        WeightsError: the drawing part of the product is not installed.
    """
    try:
        sample = importlib.import_module("deer_reid_pipeline.sample.calibration")
        return list(sample.calibration_pictures(CALIBRATION_COUNT, CALIBRATION_SEED))
    except (ImportError, AttributeError) as error:
        raise WeightsError(
            f"no calibration pictures to make the projection from ({error}); pass calibration= to build_recipe"
        ) from error


def _note_name(name: str, design: _Design, backbones: dict[str, Backbone], crop: CropSpec) -> str:
    """File in the model store that keeps a made recipe, named by all that goes into making it."""
    parts = [str(_BUILD), repr(design), str(CALIBRATION_COUNT), str(CALIBRATION_SEED), str(LINEAR_SEED)]
    parts += [f"{key} {each.arch} {each.weights.sha256} {each.preprocess!r}" for key, each in backbones.items()]
    if crop != CropSpec(shrinking="lanczos"):  # what notes meant before they named it
        parts.append(crop.id)
    return f"recipe-{name}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}.json"


def _kept(
    name: str, design: _Design, backbones: dict[str, Backbone], crop: CropSpec, store: WeightStore
) -> Recipe | None:
    """The recipe as made before, if its projections are still there: its id must not change from run to
    run."""
    path = store.models.folder / _note_name(name, design, backbones, crop)
    if not path.is_file():
        return None
    recipe = Recipe.from_json(path.read_bytes())
    return recipe if all(store.models.has(b.projection.sha256) for b in recipe.branches.values()) else None


def _features(backbone: Backbone, taps: Iterable[Tap]) -> list[int]:
    return [CHANNELS[backbone.arch][tap.layer] * tap.grid**2 for tap in taps]


def _owners(design: _Design, backbones: dict[str, Backbone], store: WeightStore) -> dict[str, Projection]:
    from deer_reid_pipeline.vision.projections import linear_projection, shares

    return {
        branch: linear_projection(store.models, _features(backbones[key], taps), shares(len(taps)), LINEAR_SEED + index)
        for index, (branch, (key, taps)) in enumerate(design.taps.items())
    }


def _calibrated(
    name: str, design: _Design, backbones: dict[str, Backbone], store: WeightStore, calibration: Calibration
) -> dict[str, Projection]:
    """Run the calibration pictures through each backbone once, and make each branch's projection from its
    taps."""
    import torch

    from deer_reid_pipeline.vision.backbones import load_backbone
    from deer_reid_pipeline.vision.features import lay_out, normalise, pooled_taps
    from deer_reid_pipeline.vision.projections import shares, sign_projection

    pictures = calibration()
    if len(pictures) < 2:
        raise WeightsError(f"{len(pictures)} calibration pictures are too few to make a projection from")
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes())
    pooled: dict[tuple[str, Tap], list[np.ndarray]] = {}
    for key, backbone in backbones.items():
        taps = [tap for which, branch_taps in design.taps.values() if which == key for tap in branch_taps]
        network = load_backbone(backbone, store)
        for start in range(0, len(pictures), _BATCH):
            batch = lay_out(pictures[start : start + _BATCH], backbone.preprocess)
            with torch.inference_mode():
                x = normalise(batch, backbone.preprocess, torch.device("cpu"))
                for tap, values in pooled_taps(network, x, taps).items():
                    pooled.setdefault((key, tap), []).append(values.numpy())
    return {
        branch: sign_projection(
            store.models,
            [np.concatenate(pooled[key, tap]) for tap in taps],
            shares(len(taps)),
            f"deer-reid/{name}/{branch}",
            digest.hexdigest(),
        )
        for branch, (key, taps) in design.taps.items()
    }
