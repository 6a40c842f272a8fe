"""Made-up herds for the open-set tests, and the matcher's own gallery rebuilt for a single query."""

import numpy as np

from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.evaluation.searches import Searches, searches_of
from deer_reid_pipeline.reid.exemplars import choose_exemplars, mean_direction
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import Known, MatchPolicy, Query
from deer_reid_pipeline.reid.similarity import VectorSet, unit
from deer_reid_pipeline.reid.vocabulary import agreed_sex

BRANCHES = ("multiscale", "efficientnet")
VIEWS: list[str | None] = ["left", "right", "front", "back", None]
FOLDED = FittedPolicy(
    policy=MatchPolicy(threshold=0.6, new_below=0.3),
    without=(
        MatchPolicy(threshold=0.6, new_below=0.3, weights={"multiscale": 0.5, "efficientnet": 0.5}),
        MatchPolicy(threshold=0.7, new_below=0.2, weights={"multiscale": 0.8, "efficientnet": 0.2}),
        MatchPolicy(threshold=0.5, new_below=0.4, weights={"multiscale": 1.0}),
    ),
    salt="tests",
)
"""Policies that differ from fold to fold, so that a query scored by another fold's policy is noticed."""


def wild_herd(seed: int, individuals: int = 6, encounters: int = 40, noise: float = 0.8) -> Labelled:
    """Encounters of one to four pictures, all viewpoints, some sexes; about every third is a neighbour of the last."""
    rng = np.random.default_rng(seed)
    who = rng.integers(0, individuals, encounters)
    who[1::3] = who[: len(who[1::3]) * 3 : 3]
    burst = np.cumsum(np.arange(encounters) % 3 != 1)
    event = np.repeat(np.arange(encounters), rng.integers(1, 5, encounters))
    shuffled = rng.permutation(len(event))
    event = event[shuffled]
    sexes = rng.choice(["male", "female", "unknown"], encounters)
    animals = {branch: rng.normal(size=(individuals, 8)) for branch in BRANCHES}
    return Labelled(
        keys=[f"key {number:04d}" for number in rng.permutation(len(event))],
        vectors={
            branch: VectorSet(
                "r", branch, unit((centres[who[event]] + noise * rng.normal(size=(len(event), 8))).astype(np.float32))
            )
            for branch, centres in animals.items()
        },
        individual=who[event].astype(np.int64),
        encounter=event.astype(np.int64),
        burst=burst[event].astype(np.int64),
        viewpoints=[VIEWS[code] for code in rng.integers(0, len(VIEWS), len(event))],
        names=[f"deer {code}" for code in range(individuals)],
        sexes=[str(sexes[code]) for code in event],
    )


def pictured(
    pictures: list[tuple[int, int, float]],
    names: int | None = None,
    sexes: list[str] | None = None,
    burst: list[int] | None = None,
) -> Labelled:
    """Detections written down as (individual, encounter, angle in degrees), one branch, in the plane."""
    who, event, angle = (np.array(column) for column in zip(*pictures, strict=True))
    radians = np.deg2rad(angle.astype(np.float64))
    points = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    return Labelled(
        keys=[f"{row:03d}" for row in range(len(who))],
        vectors={"multiscale": VectorSet("r", "multiscale", points)},
        individual=who.astype(np.int64),
        encounter=event.astype(np.int64),
        burst=event.astype(np.int64) if burst is None else np.array(burst, dtype=np.int64),
        viewpoints=[None] * len(who),
        names=[f"deer {code}" for code in range(names or int(who.max()) + 1)],
        sexes=sexes or ["unknown"] * len(who),
    )


def permuted(data: Labelled, order: Ints) -> Labelled:
    """The same detections in another order."""
    return Labelled(
        keys=[data.keys[row] for row in order],
        vectors={b: VectorSet(v.recipe_id, b, v.vectors[order]) for b, v in data.vectors.items()},
        individual=data.individual[order],
        encounter=data.encounter[order],
        burst=data.burst[order],
        viewpoints=[data.viewpoints[row] for row in order],
        names=data.names,
        sexes=[data.sexes[row] for row in order],
    )


def gallery_entry(data: Labelled, rows: Ints, code: int, gallery: str = "exemplars", sex: str = "unknown") -> Known:
    """An individual as the store would hand it to the matcher when these detections are all that is known of it."""
    if gallery == "profile":
        means = {b: VectorSet("r", b, mean_direction(v.vectors[rows])[None]) for b, v in data.vectors.items()}
        return Known(code, data.names[code], sex, means, [None])
    both = [branch for branch in ("baseline", *BRANCHES) if branch in data.vectors]
    chosen = rows[
        choose_exemplars(
            [data.keys[row] for row in rows],
            np.concatenate([data.vectors[branch].vectors[rows] for branch in both], axis=1),
            [data.viewpoints[row] for row in rows],
            [True] * len(rows),
        )
    ]
    vectors = {branch: VectorSet("r", branch, item.vectors[chosen]) for branch, item in data.vectors.items()}
    return Known(code, data.names[code], sex, vectors, [data.viewpoints[row] for row in chosen])


def asked(data: Labelled, rows: Ints) -> Query:
    """These detections as the matcher asks about them."""
    vectors = {branch: VectorSet("r", branch, item.vectors[rows]) for branch, item in data.vectors.items()}
    return Query(vectors, [data.viewpoints[row] for row in rows], agreed_sex([data.sexes[row] for row in rows]))


def scored(individual: list[int] | Ints, scores: object, first: list[bool] | None = None) -> Searches:
    """Searches from a written-down matrix of similarities to every individual; NaN where not comparable."""
    who = np.asarray(individual, dtype=np.int64)
    matrix = np.asarray(scores, dtype=np.float32)
    return searches_of(
        matrix,
        encounter=np.arange(len(who)),
        individual=who,
        fold=np.zeros(len(who), dtype=np.int64),
        first=np.isnan(matrix[np.arange(len(who)), who]) if first is None else np.array(first),
        rows=tuple(np.array([row]) for row in range(len(who))),
        gallery_size=matrix.shape[1] - 1,
    )
