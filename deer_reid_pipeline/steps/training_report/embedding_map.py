"""The vectors of the pictures laid out on a plane, one panel a model (t-SNE, van der Maaten and Hinton 2008)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.similarity import MULTISCALE
from deer_reid_pipeline.steps.report.plots import drawn, svg

MOST = 300
"""Pictures in a panel."""
FEWEST = 10
"""Pictures below which there is nothing to lay out."""
SEED = 1
PERPLEXITY = 30.0
MARKERS = "os^Dv"
COLOURS = 20


@dataclass(frozen=True)
class Panel:
    """The pictures of one model.

    Attributes:
        compartment: as in `Labelled`; None where there are none.
        places: on the plane; float64 (n, 2).
        individual: number of each picture's individual within the panel; int64 (n,).
        of: pictures that there are.
    """

    compartment: int | None
    places: NDArray[np.float64]
    individual: Ints
    of: int


def panels(labelled: Labelled) -> tuple[Panel, ...]:
    """One panel a compartment that has enough pictures; the same for the same vectors."""
    if MULTISCALE not in labelled.vectors:
        return ()
    compartment = np.zeros(len(labelled), np.int64) if labelled.compartment is None else labelled.compartment
    found = []
    for number in np.unique(compartment).tolist():
        own = np.flatnonzero(compartment == number)
        rows = _chosen(labelled, own)
        vectors = np.asarray(labelled.vectors[MULTISCALE].vectors[rows], dtype=np.float64)
        if len(rows) < FEWEST or not np.ptp(vectors, axis=0).any():
            continue
        individual = np.unique(labelled.individual[rows], return_inverse=True)[1].astype(np.int64)
        found.append(Panel(None if labelled.compartment is None else number, _laid_out(vectors), individual, len(own)))
    return tuple(found)


def draw(found: Sequence[Panel], titles: Sequence[str]) -> str:
    """The panels, coloured by individual; SVG without any name."""
    from matplotlib import colormaps

    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    with drawn(0.2 + (2.5 if columns > 1 else 4.4) * rows, rows, columns) as (figure, axes):
        places = np.atleast_1d(axes).ravel()
        for panel, title, place in zip(found, titles, places, strict=False):
            for style in range(COLOURS * len(MARKERS)):
                here = panel.individual % (COLOURS * len(MARKERS)) == style
                if here.any():
                    place.scatter(
                        *panel.places[here].T, s=11, color=colours[style % COLOURS], marker=MARKERS[style // COLOURS],
                        linewidths=0,
                    )  # fmt: skip
            place.set_title(title, loc="left", fontsize=9)
            place.set_xticks([])
            place.set_yticks([])
        for place in places[len(found) :]:
            place.set_visible(False)
        return svg(figure)


def _chosen(labelled: Labelled, rows: Ints) -> Ints:
    """At most MOST of these rows: all rows of individuals drawn at random, those with several encounters first."""
    if len(rows) <= MOST:
        return rows
    rng = np.random.default_rng(SEED)
    individuals = rng.permutation(np.unique(labelled.individual[rows]))
    members = [rows[labelled.individual[rows] == code] for code in individuals]
    members.sort(key=lambda own: len(np.unique(labelled.encounter[own])) < 2)  # stable
    return np.sort(np.concatenate(members)[:MOST])


def _laid_out(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE  # slow to import, and most processes never draw

    found = TSNE(
        perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
        init="pca",
        metric="euclidean",  # of unit vectors: in the order of their cosine
        method="exact",  # the same on any number of cores
        random_state=SEED,
    ).fit_transform(vectors)
    return np.asarray(found, dtype=np.float64)
