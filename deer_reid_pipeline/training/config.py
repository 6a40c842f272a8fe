"""What a training is asked to do, as typed settings with the help texts that every launcher shows."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Loss = Literal["triplet", "arcface", "supcon", "supcon_arcface"]


class TrainingConfig(BaseModel):
    """Settings of a fine-tuning. docs/accuracy.md says what the defaults rest on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Loss = Field(
        default="supcon_arcface",
        description="What is minimised: triplet (batch-hard), arcface (sub-centre), supcon (supervised contrastive), "
        "or supcon_arcface.",
    )
    epochs: int = Field(default=36, ge=1, le=1000, description="Times that as many pictures are shown as there are.")
    epoch_pictures: int = Field(
        default=4000,
        ge=64,
        description="Most pictures of an epoch, drawn anew for each, so that a large herd does not train for days.",
    )
    folds: int = Field(
        default=5,
        ge=0,
        le=20,
        description="Groups of individuals for the cross-validation that the figures come from, and one more model on "
        "all of them; 0: one split, 80 % to train, 10 % to validate, 10 % to test.",
    )
    width: int = Field(default=240, ge=64, le=640, description="Width that crops are letterboxed to, pixels.")
    height: int = Field(default=192, ge=64, le=640, description="Height that crops are letterboxed to, pixels.")
    inner: float = Field(default=0.85, gt=0.3, le=1, description="Centre share of a crop that is used (0 to 1).")
    views: int = Field(
        default=3,
        ge=1,
        le=7,
        description="Centre shares around inner, each 15 % larger than the one before, at which a trained recipe sees "
        "a crop; the vector is their mean. Each is one more pass when pictures are embedded.",
    )
    classes_per_batch: int = Field(default=16, ge=2, le=512, description="Classes (animal and flank) in a batch.")
    pictures_per_class: int = Field(
        default=4, ge=2, le=64, description="Pictures of a class in a batch, each from another encounter."
    )
    mirrored: bool = Field(
        default=True, description="Show mirrored pictures too, as classes of their own: as many classes again."
    )
    learning_rate: float = Field(default=4e-4, gt=0, le=1, description="Highest learning rate of the last layers.")
    layer_decay: float = Field(
        default=0.93, gt=0, le=1, description="Factor on the learning rate for each layer further from the end."
    )
    weight_decay: float = Field(default=0.05, ge=0, le=1, description="AdamW's weight decay.")
    warmup: float = Field(default=0.06, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    last_stride: int = Field(
        default=1,
        ge=1,
        le=2,
        description="Of the multiscale network: 1 keeps twice the resolution in its last stage, which takes more time; "
        "2: as published.",
    )
    frozen: float = Field(
        default=0.35, ge=0, lt=1, description="Share of the layers, from the input, that stay as they are."
    )
    frozen_statistics: bool = Field(
        default=True,
        description="Keep the backbone's batch-norm statistics as they are; its weights learn all the same.",
    )
    ema: float = Field(default=0.99, ge=0, lt=1, description="Decay of the moving average of the weights, a step.")
    augment: float = Field(default=1.0, ge=0, le=2, description="Strength of the augmentation; 0: none.")
    margin: float = Field(default=20.0, gt=0, lt=90, description="Angular margin of arcface, degrees.")
    scale: float = Field(default=32.0, gt=0, description="Scale of arcface's logits.")
    sub_centres: int = Field(default=3, ge=1, le=10, description="Centres of a class in arcface.")
    arcface_weight: float = Field(default=0.2, gt=0, description="Weight of arcface beside supcon.")
    temperature: float = Field(default=0.1, gt=0, le=1, description="Temperature of supcon.")
    triplet_margin: float = Field(default=0.2, gt=0, le=2, description="Margin of the triplet loss, cosine distance.")
    patience: int = Field(
        default=18, ge=1, description="Epochs without a better mAP on the validation individuals before it stops."
    )
    second: bool | None = Field(
        default=None,
        description="Train the second branch (EfficientNet) too; otherwise it stays as it is. Empty: with a GPU only, "
        "since it nearly doubles the time.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Arithmetic of the forward pass; auto: what the device has."
    )
    seed: int = Field(
        default=1, ge=0, description="One seed on one device gives the same weights; the log says where a GPU cannot."
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Trainings side by side at most without a GPU; 0: one a core. Changes only how long it takes.",
    )

    @field_validator("folds")
    @classmethod
    def _one_fold_is_none(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one fold would be trained on nobody: 0 for one split, or 2 and more")
        return value

    @property
    def batch(self) -> int:
        """Pictures in a batch."""
        return self.classes_per_batch * self.pictures_per_class
