"""How high the right pictures stand when a picture is looked up among all others.

The gallery holds detections, not individuals: everything that may be compared with the query except pictures of the
same animal from the same burst, which are removed as junk is removed in the Market-1501 protocol (Zheng et al. 2015,
ICCV). Equal scores count against the query: a wrong picture that ties with a right one stands before it, so that an
embedding that gives everything the same score gains nothing by the order of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from deer_reid_pipeline.reid.evaluation.blocks import Block, mates, never_compared, row_blocks
from deer_reid_pipeline.reid.evaluation.estimates import Floats, Statistic, mean_of_individuals, ratio
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled, Mask
from deer_reid_pipeline.reid.similarity import FloatArray

TIE = 1e-6
"""Scores closer than this are equal: single precision cannot tell them apart."""

METRICS = ("rank1", "rank5", "map", "map_individual")


@dataclass(frozen=True)
class Retrieval:
    """One row a query: a detection that has at least one true mate in the gallery.

    Attributes:
        row: of the detection; (q,).
        individual: its individual; (q,).
        rank: place of the first right detection, 1 is first; (q,).
        average_precision: mean over the right detections of the share of right ones up to each; (q,).
        candidates: detections in its gallery; (q,).
        relevant: right ones among them, at least 1; (q,).
        individuals: G.
    """

    row: Ints
    individual: Ints
    rank: Ints
    average_precision: Floats
    candidates: Ints
    relevant: Ints
    individuals: int

    def __len__(self) -> int:
        return len(self.row)

    def statistic(self, name: str, keep: Mask | None = None) -> Statistic:
        """A metric of the queries.

        Args:
            name: rank1 or rank5 (share of queries with a right detection among the first 1 or 5), map (mean average
                precision over queries), map_individual (mean over individuals of theirs, so that the most
                photographed animal counts no more than another).
            keep: only these queries; bool (q,).

        Raises:
            ValueError: there is no such metric.
        """
        if name not in METRICS:
            raise ValueError(f"no metric {name}: there are {', '.join(METRICS)}")
        values = {"rank1": self.rank <= 1, "rank5": self.rank <= 5}.get(name, self.average_precision)
        chosen = np.ones(len(self), dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
        who = self.individual[chosen]
        totals = np.bincount(who, weights=values[chosen], minlength=self.individuals).astype(np.float64)
        counts = np.bincount(who, minlength=self.individuals).astype(np.float64)
        if name != "map_individual":
            return ratio(totals, counts)
        means = np.divide(totals, counts, out=np.full(self.individuals, np.nan), where=counts > 0)
        return mean_of_individuals(means)

    @property
    def chance_rank1(self) -> float:
        """Rank-1 of scores drawn at random: mean share of right detections in the galleries; NaN without a query."""
        return float(np.mean(self.relevant / self.candidates)) if len(self) else float("nan")

    @property
    def chance_rank5(self) -> float:
        """Rank-5 of scores drawn at random: a right one among five drawn, hypergeometric; NaN without a query."""
        if not len(self):
            return float("nan")
        none_in_five = stats.hypergeom.pmf(0, self.candidates, self.relevant, np.minimum(5, self.candidates))
        return float(np.mean(1 - none_in_five))

    @property
    def by_chance(self) -> dict[str, float]:
        """Metric -> what scores drawn at random would reach in these galleries; nothing without a query."""
        if not len(self):
            return {}
        return {"rank1": self.chance_rank1, "rank5": self.chance_rank5, "map": self.chance_map}

    @property
    def chance_map(self) -> float:
        """mAP of scores drawn at random; NaN without a query.

        With R right ones of N: (H_N + (R - 1) / (N - 1) * (N - H_N)) / N, H_N the N-th harmonic number (Bestgen 2015,
        The Prague Bulletin of Mathematical Linguistics 103:93-106).
        """
        if not len(self):
            return float("nan")
        size, right = self.candidates.astype(np.float64), self.relevant.astype(np.float64)
        harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, size.max() + 1))][self.candidates]
        return float(np.mean((harmonic + (right - 1) / np.maximum(size - 1, 1) * (size - harmonic)) / size))


def retrieve(labelled: Labelled, block: Block, *, flank: str = "same", leaky: bool = False) -> Retrieval:
    """Look every detection up among all others.

    Args:
        block: similarity of query rows to all rows.
        flank: "cross" compares opposite flanks and nothing else.
        leaky: pictures of the query's own burst count as right ones.
    """
    individual = labelled.individual
    order = np.argsort(individual, kind="stable")
    counts = np.bincount(individual, minlength=labelled.individuals)
    members = np.split(order, np.cumsum(counts)[:-1])
    left_out = never_compared(labelled, flank)
    found: list[tuple[int, int, float, int, int]] = []
    for chunk in row_blocks(len(labelled)):
        rows = order[chunk]
        scores = block(rows)
        barred = left_out(rows)
        if barred is not None:
            scores = np.where(barred, np.float32(-np.inf), scores)
        for who in np.unique(individual[rows]).tolist():
            own = members[who]
            part = np.flatnonzero(individual[rows] == who)
            true = mates(labelled, rows[part], own, leaky=leaky)
            of_own = np.where(true, scores[part][:, own], -np.inf)
            queries = part[np.isfinite(of_own).any(axis=1)]
            of_own = of_own[np.isfinite(of_own).any(axis=1)]
            wrong = scores[queries]
            wrong[:, own] = -np.inf
            wrong.sort(axis=1)
            for row, right, others in zip(rows[queries].tolist(), of_own, wrong, strict=True):
                found.append((row, *_places(right[np.isfinite(right)], others)))
    found.sort()
    columns = list(zip(*found, strict=True)) or [()] * 5
    row = np.array(columns[0], dtype=np.int64)
    return Retrieval(
        row=row,
        individual=individual[row],
        rank=np.array(columns[1], dtype=np.int64),
        average_precision=np.array(columns[2], dtype=np.float64),
        candidates=np.array(columns[3], dtype=np.int64),
        relevant=np.array(columns[4], dtype=np.int64),
        individuals=labelled.individuals,
    )


def _places(right: Floats, wrong: FloatArray) -> tuple[int, float, int, int]:
    """Rank of the first right one, average precision, candidates and right ones.

    Args:
        right: scores of the right ones.
        wrong: scores of the wrong ones, ascending, behind minus infinities for what does not count.
    """
    right = np.sort(right)[::-1]
    # Positions from the end: how many wrong ones score at least as high as each right one.
    before = len(wrong) - np.searchsorted(wrong, (right - TIE).astype(np.float32), side="left")
    nth = np.arange(1, len(right) + 1)
    precision = nth / (nth + before)
    candidates = len(wrong) - int(np.searchsorted(wrong, np.float32(-np.inf), side="right")) + len(right)
    return int(before[0]) + 1, float(precision.mean()), candidates, len(right)
