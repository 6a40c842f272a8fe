"""What an embedding is, as data: backbones, taps, pooling, projection, preprocessing and weights.

A recipe is stored as JSON beside the vectors it made. Its id is a hash over everything that determines a
vector, so two recipes with one id give the same vectors and a changed byte of a weight file gives another id.
A fine-tuned recipe is the same data with other files. This module knows no torch.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.vision.architectures import BRANCHES, CHANNELS, DIMENSION
from deer_reid_pipeline.vision.crops import CropSpec

FORMAT_VERSION = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Colour = tuple[float, float, float]


def base_name(name: str) -> str:
    """Name of the built-in recipe that one of this name was fine-tuned from; of any other recipe its own name."""
    return name.partition(".")[0]


class RecipeError(DeerReidError):
    """A stored recipe cannot be used by this version, or does not make sense."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WeightsRef(_Data):
    """Which bytes a backbone is loaded from. `name` and `source` say where they came from and are not in the
    id."""

    name: str
    sha256: Sha256
    source: Literal["published", "declared", "store", "random"]
    random: bool = False

    @model_validator(mode="after")
    def _random_is_random(self) -> WeightsRef:
        if self.random != (self.source == "random"):
            raise ValueError("random must be true exactly when the source is 'random'")
        return self


class Preprocess(_Data):
    """From a crop (uint8 RGB) to the network's input.

    `inner`: centre share of the crop that is used. `views`: further centre shares at which the crop is seen too; a
    branch's vector is then the direction of the mean of its unit vectors of all views. `mode`: letterbox keeps the
    aspect and fills with `fill`; squash does not. Then (value / 255 - mean) / std per channel.
    """

    width: int = Field(ge=32, le=1024)
    height: int = Field(ge=32, le=1024)
    mode: Literal["letterbox", "squash"]
    mean: Colour
    std: Colour
    inner: float = Field(default=1.0, gt=0, le=1)
    # Not in the repr, by whose hash built-in recipes are kept (catalog.py): those have no views.
    views: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(), max_length=8, repr=False)
    fill: tuple[int, int, int] = (128, 128, 128)

    @model_validator(mode="after")
    def _usable(self) -> Preprocess:
        if min(self.std) <= 0 or not all(0 <= value <= 255 for value in self.fill):
            raise ValueError("std must be above zero and fill within 0 to 255")
        return self

    def each_view(self) -> tuple[Preprocess, ...]:
        """The layout of every view, the one by `inner` first."""
        return tuple(self.model_copy(update={"inner": inner, "views": ()}) for inner in (self.inner, *self.views))


class Backbone(_Data):
    """A network, its weights and what it is fed. One forward pass of it serves every branch that names it."""

    arch: Literal["resnet50", "efficientnet_b0", "efficientnet_lite0", "efficientnet_lite2", "mobilenet_v2"]
    weights: WeightsRef
    preprocess: Preprocess
    last_stride: Literal[1, 2] = Field(
        default=2, description="1 keeps twice the resolution in the last stage (Luo et al. 2019, Bag of tricks)."
    )


class Tap(_Data):
    """One feature map pooled to `grid` x `grid` cells and flattened, channel first.

    `pool`: avg, max, or gem (generalised mean with exponent `p`, negative values count as zero; Radenovic
    2018).
    """

    layer: str
    pool: Literal["avg", "gem", "max"] = "avg"
    grid: int = Field(default=1, ge=1, le=16)
    p: float = Field(default=3.0, gt=0, le=64)


class Projection(_Data):
    """The affine map from each pooled tap to its share of the vector; one safetensors file in the model
    store.

    The file holds float32 `tap{i}.weight` [outputs[i], features of tap i] and optionally `tap{i}.bias`.
    Centring, scaling, whitening and a batch-norm neck are affine too and are folded into it. `combine`: the
    taps' outputs are concatenated, or (one joint map over all taps) summed. `kind`, `seed` and `calibration`
    record how it was made.
    """

    kind: Literal["linear", "signs", "trained"]
    sha256: Sha256
    outputs: tuple[int, ...]
    combine: Literal["concat", "sum"] = "concat"
    seed: str = ""
    calibration: str = ""


class Branch(_Data):
    """One 512-d vector: taps of one backbone, projected, L2-normalised."""

    backbone: str
    taps: tuple[Tap, ...] = Field(min_length=1)
    projection: Projection

    @model_validator(mode="after")
    def _width(self) -> Branch:
        outputs = self.projection.outputs
        if len(outputs) != len(self.taps):
            raise ValueError(f"{len(self.taps)} taps but {len(outputs)} projection outputs")
        fits = sum(outputs) == DIMENSION if self.projection.combine == "concat" else set(outputs) == {DIMENSION}
        if not fits:
            raise ValueError(f"projection outputs {outputs} do not make {DIMENSION} dimensions")
        return self


class Recipe(_Data):
    """Everything that makes the three vectors of a crop; `id` names it for good."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.]{0,39}$")
    format_version: Literal[1] = 1
    crop: str = Field(
        default=CropSpec(shrinking="lanczos").id,
        description="Id of the CropSpec of the crops that it reads; the first one where a recipe does not say.",
    )
    backbones: dict[str, Backbone]
    branches: dict[str, Branch]
    training_run: str = Field(
        default="",
        pattern=r"^[0-9a-f]{0,12}$",
        description="Training that made it: two trainings are two recipes, each with judges of its own.",
    )

    @property
    def crop_spec(self) -> CropSpec:
        """How the crops that it reads are cut.

        Raises:
            RecipeError: in a way that this version does not know, or not at all, as of a background control.
        """
        try:
            return CropSpec.of(self.crop)
        except ValueError as error:
            raise RecipeError(
                f"recipe {self.id} reads crops that this version cannot cut ({error}): use the version that made it"
            ) from error

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if set(self.branches) != set(BRANCHES):
            raise ValueError(f"branches must be exactly {', '.join(BRANCHES)}, not {', '.join(self.branches)}")
        for name, branch in self.branches.items():
            backbone = self.backbones.get(branch.backbone)
            if backbone is None:
                raise ValueError(f"branch {name} names the unknown backbone {branch.backbone!r}")
            for tap in branch.taps:
                if tap.layer not in CHANNELS[backbone.arch]:
                    known = ", ".join(CHANNELS[backbone.arch])
                    raise ValueError(f"branch {name} taps {tap.layer!r}; {backbone.arch} has {known}")
        return self

    @property
    def id(self) -> str:
        """'name-' and 12 hex digits over all that determines a vector; stored with every vector."""
        data = self.model_dump(mode="json")
        if not data["training_run"]:
            del data["training_run"]  # as before there was training, so that ids stay
        for backbone in data["backbones"].values():
            for provenance in ("name", "source"):
                del backbone["weights"][provenance]
            if not backbone["preprocess"]["views"]:
                del backbone["preprocess"]["views"]  # as before there was a choice, so that ids stay
            if backbone["last_stride"] == 2:
                del backbone["last_stride"]  # as before there was a choice, so that ids stay
        for branch in data["branches"].values():
            for provenance in ("kind", "seed", "calibration"):
                del branch["projection"][provenance]
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"

    @property
    def random_weights(self) -> bool:
        """True where any backbone has random weights: such a recipe is for speed trials and is never
        released."""
        return any(backbone.weights.random for backbone in self.backbones.values())

    def features(self, branch: str) -> tuple[int, ...]:
        """Length of each pooled tap of a branch, before projection."""
        channels = CHANNELS[self.backbones[self.branches[branch].backbone].arch]
        return tuple(channels[tap.layer] * tap.grid**2 for tap in self.branches[branch].taps)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON column; `from_json` is its inverse."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Any) -> Recipe:
        """Read a stored recipe (a dict, or JSON text).

        Raises:
            RecipeError: another format version, an unknown or missing field, or a value that makes no sense.
        """
        if isinstance(data, str | bytes):
            try:
                data = json.loads(data)
            except ValueError as error:
                raise RecipeError(f"recipe is not JSON: {error}") from error
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise RecipeError(
                f"recipe has format_version {version!r}, this version reads {FORMAT_VERSION}; update deer-reid-pipeline"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "recipe"
            raise RecipeError(f"recipe {data.get('name')!r} cannot be used: {place}: {first['msg']}") from error
