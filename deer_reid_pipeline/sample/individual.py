"""Who an animal is: everything about one individual that stays the same from picture to picture."""

from dataclasses import dataclass
from typing import Literal

from deer_reid_pipeline.sample.noise import generator

Sex = Literal["male", "female"]
LifeStage = Literal["adult", "subadult", "juvenile"]
Pattern = Literal["rows", "scatter", "blotches", "broken_stripes"]
PATTERNS: tuple[Pattern, ...] = ("rows", "scatter", "blotches", "broken_stripes")
# Daylight coat tones of fallow and sika deer, 0..1 RGB: chestnut, red, fawn, grey-brown, dark, menil.
TONES = (
    (0.50, 0.29, 0.15),
    (0.58, 0.31, 0.13),
    (0.66, 0.47, 0.28),
    (0.43, 0.35, 0.27),
    (0.27, 0.19, 0.13),
    (0.72, 0.55, 0.37),
)


@dataclass(frozen=True)
class Antler:
    """One antler. `length` is in shoulder heights, `sweep` and `spread` in radians, `tines` counts side
    points.
    """

    length: float
    sweep: float
    spread: float
    tines: int
    tine_length: float
    palm: float


@dataclass(frozen=True)
class Individual:
    """One animal's identity. `size` multiplies the height at the shoulder; the other measures are near 1."""

    name: str
    key: tuple[int, int]
    sex: Sex
    life_stage: LifeStage
    size: float
    girth: float
    leg: float
    neck: float
    head: float
    ear: float
    tone: tuple[float, float, float]
    pattern: Pattern
    spot_size: float
    spot_density: float
    spot_strength: float
    belly: float
    antlers: tuple[Antler, Antler] | None
    notched_ears: tuple[bool, bool]
    scars: tuple[int, int]


def _antlers(seed: int, index: int, life_stage: LifeStage) -> tuple[Antler, Antler]:
    rng = generator(seed, 12, index)
    grown = life_stage == "adult"
    length = rng.uniform(0.40, 0.62) if grown else rng.uniform(0.16, 0.28)
    sweep, spread = rng.uniform(0.55, 1.15), rng.uniform(0.25, 0.5)
    tines = int(rng.integers(2, 5)) if grown else int(rng.integers(0, 2))
    palm = float(rng.uniform(0.032, 0.048)) if grown and rng.random() < 0.45 else 0.0
    sides = []
    for _ in range(2):
        extra = int(rng.integers(-1, 2)) if grown else 0
        sides.append(
            Antler(
                float(length * rng.uniform(0.93, 1.07)),
                float(sweep * rng.uniform(0.92, 1.08)),
                float(spread * rng.uniform(0.85, 1.15)),
                max(0, tines + extra),
                float(rng.uniform(0.26, 0.40)),
                palm,
            )
        )
    return sides[0], sides[1]


def individual(seed: int, index: int) -> Individual:
    """The `index`-th animal (0-based) of the herd of `seed`; the same two numbers always give the same
    animal.
    """
    rng = generator(seed, 11, index)
    # Sex and life stage go round so that even a small herd has bucks, does and a fawn.
    sex: Sex = "male" if index % 2 == 0 else "female"
    life_stage: LifeStage = "adult"
    if index % 8 == 5:
        life_stage = "juvenile"
    elif index % 8 in (4, 7):
        life_stage = "subadult"
    fawn = life_stage == "juvenile"
    scale = {"adult": 1.0, "subadult": 0.86, "juvenile": 0.64}[life_stage]
    tone = TONES[(index + int(rng.integers(0, 2))) % len(TONES)]
    shade = rng.uniform(0.90, 1.10)
    antlered = sex == "male" and not fawn
    scars = rng.integers(0, 3, 2) if life_stage == "adult" else (0, 0)
    return Individual(
        name=f"deer_{index + 1:03d}",
        key=(seed, index),
        sex=sex,
        life_stage=life_stage,
        size=float(scale * rng.uniform(0.95, 1.05) * (1.04 if sex == "male" else 0.96)),
        girth=float(rng.uniform(0.93, 1.08) * (0.84 if fawn else 1.0)),
        leg=float(rng.uniform(0.97, 1.03) * (1.06 if fawn else 1.0)),
        neck=float(rng.uniform(1.12, 1.32) if antlered and life_stage == "adult" else rng.uniform(0.86, 1.0)),
        head=float(rng.uniform(0.97, 1.04) * (1.16 if fawn else 1.0)),
        ear=float(rng.uniform(0.92, 1.1) * (1.2 if fawn else 1.0)),
        tone=(float(tone[0] * shade), float(tone[1] * shade), float(tone[2] * shade)),
        pattern="rows" if fawn else PATTERNS[(index + int(rng.integers(0, 3))) % len(PATTERNS)],
        spot_size=float(rng.uniform(0.8, 1.45)),
        spot_density=float(rng.uniform(0.7, 1.3)),
        spot_strength=0.95 if fawn else float(rng.uniform(0.6, 0.95)),
        belly=float(rng.uniform(0.66, 0.84)),
        antlers=_antlers(seed, index, life_stage) if antlered else None,
        notched_ears=(bool(rng.random() < 0.25), bool(rng.random() < 0.25)),
        scars=(int(scars[0]), int(scars[1])),
    )
