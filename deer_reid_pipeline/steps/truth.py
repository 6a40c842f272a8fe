"""The labelled detections of an installation: what every evaluation and every fit is made on.

An encounter here is one individual in one event, however the matcher of the day cut its decisions, so that two
matchers are judged on the same encounters.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.encounters import BURST_GAP
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray, VectorSet
from deer_reid_pipeline.reid.vocabulary import UNKNOWN, agreed_sex, sex_of
from deer_reid_pipeline.steps.fold_models import FoldModels, fold_models, needed_by_judges
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.models import VECTOR_SIZE
from deer_reid_pipeline.store.reviews import DIFFERENT, SAME, PairReview, standing_reviews
from deer_reid_pipeline.store.truth import TruthRow, encounters_of, load_vectors, truth_rows

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
"""Where pictures stand that carry no time and came with no drop: they were there before the pipeline."""

MOST_LACKING = 0.1
"""Share of the detections that may be left out because a judging model has not embedded them yet."""


@dataclass(frozen=True)
class Learned:
    """Identities that follow from comparisons of two pictures by a person.

    Attributes:
        individuals: encounter -> individual.
        contradicted: encounters that stay unidentified because the comparisons contradict each other.
        disputed: pairs of named detections of which a comparison says otherwise than their names.
    """

    individuals: Mapping[uuid.UUID, str]
    contradicted: int
    disputed: int


@dataclass(frozen=True)
class Truth:
    """Labelled detections, and an account of what was added to and left out of them.

    Attributes:
        without_vectors: identified detections that lack a vector of some branch under the recipe.
        reviews: what comparisons by a person added.
        trained_on: individuals left out because every model of the recipe was trained on them.
        models: who judges whom, where the recipe is fine-tuned; None otherwise.
    """

    labelled: Labelled
    without_vectors: int
    reviews: Learned
    trained_on: int = 0
    models: FoldModels | None = None


def load_labelled(site: Site, recipe_id: str) -> Labelled:
    """Standing detections whose individual a person gave, with their vectors under a recipe.

    Rows are ordered by encounter, then detection; individuals by name. Strata are light (day, infrared), flank, sex,
    camera, and sightings: how many encounters apart by more than a burst the individual has (1, 2-4, 5+).
    """
    return load_truth(site, recipe_id).labelled


def load_truth(site: Site, recipe_id: str) -> Truth:
    """The labelled detections under a recipe, and what was added and left out.

    A "same" between an identified detection and an encounter without a name gives that encounter the individual, for
    evaluation only: nothing is written.

    Under a fine-tuned recipe an individual has the vectors of the model that was trained without it, in a compartment
    of that model. They carry the fine-tuned recipe's id all the same: it is what they judge, and the compartments
    keep vectors of two models from being compared. Where each of these models has embedded nearly all that is judged,
    each compartment has a gallery of all, and what one of them lacks is left out.
    """
    with site.database.session() as session:
        named, learned = _named(session)
        models = fold_models(session, recipe_id)
        individuals: dict[str, list[uuid.UUID]] = defaultdict(list)
        for row in named:
            individuals[str(row.individual)].append(row.detection_id)
        models = None if models is None else models.as_named(individuals)
        judged = (
            set(individuals) if models is None else {name for name in individuals if models.judge(name) is not None}
        )
        named = [row for row in named if row.individual in judged]
        vectors, complete = _vectors(session, recipe_id, models, named)
        galleries, everywhere = ({}, complete) if models is None else _galleries(session, models, named)
    if galleries:
        complete &= everywhere
    kept = [row for row, there in zip(named, complete.tolist(), strict=True) if there]
    labelled = _labelled(
        kept,
        _sets(recipe_id, vectors, complete),
        models,
        {number: _sets(recipe_id, gallery, complete) for number, gallery in galleries.items()},
    )
    return Truth(labelled, len(named) - len(kept), learned, len(individuals) - len(judged), models)


def load_identities(site: Site) -> Labelled:
    """Standing detections whose individual a person gave, whatever they were embedded with: rows without vectors."""
    with site.database.session() as session:
        return _labelled(_named(session)[0], {}, None)


def named_detections(site: Site) -> list[uuid.UUID]:
    """Standing detections whose individual a person gave, directly or by a comparison."""
    with site.database.session() as session:
        return [row.detection_id for row in _named(session)[0]]


def learned_from_reviews(site: Site) -> Learned:
    """Whom the encounters without a name show, by the comparisons of pictures that stand."""
    with site.database.session() as session:
        return _named(session)[1]


def judged_by_others(site: Site, recipe_id: str) -> dict[str, list[uuid.UUID]]:
    """Fold model of a fine-tuned recipe -> detections that it needs vectors of to judge; empty for other recipes."""
    with site.database.session() as session:
        models = fold_models(session, recipe_id)
    if models is None or not models.recipes:
        return {}
    labelled = load_identities(site)
    named = [key for key in labelled.keys if isinstance(key, uuid.UUID)]
    needed = needed_by_judges(models, labelled, named)
    return {judge: keys for judge, keys in needed.items() if judge != recipe_id}


def _named(session: Session) -> tuple[list[TruthRow], Learned]:
    """The detections that a person identified, directly or by a comparison, and what the comparisons added."""
    reviews = standing_reviews(session)
    compared = {key for review in reviews for key in review.pair}
    rows = truth_rows(session, encounters_of(session, compared) if compared else ())
    learned = learn(rows, reviews)
    return [row for row in (_with_learned(row, learned) for row in rows) if row.individual is not None], learned


def _vectors(
    session: Session, recipe_id: str, models: FoldModels | None, rows: Sequence[TruthRow]
) -> tuple[dict[str, FloatArray], np.ndarray]:
    """As `load_vectors`, each row's of the recipe that judges its individual."""
    if models is None:
        return load_vectors(session, recipe_id, BRANCHES, [row.detection_id for row in rows])
    places: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        places[models.judge(str(row.individual)) or recipe_id].append(index)
    vectors = {branch: np.zeros((len(rows), VECTOR_SIZE), dtype=np.float32) for branch in BRANCHES}
    complete = np.zeros(len(rows), dtype=bool)
    for judge, indices in places.items():
        part, there = load_vectors(session, judge, BRANCHES, [rows[index].detection_id for index in indices])
        complete[indices] = there
        for branch, matrix in part.items():
            vectors[branch][indices] = matrix
    return vectors, complete


def _galleries(
    session: Session, models: FoldModels, rows: Sequence[TruthRow]
) -> tuple[dict[int, dict[str, FloatArray]], np.ndarray]:
    """All rows as each model that judges some gives them.

    Returns:
        compartment -> branch -> float32 (n, 512), nothing where there is one model, or where the models lack more than
        a few rows; and which rows all of them have, bool (n,).
    """
    judges = {models.compartment(str(row.individual)): models.judge(str(row.individual)) for row in rows}
    found: dict[int, dict[str, FloatArray]] = {}
    everywhere = np.ones(len(rows), dtype=bool)
    if len(judges) < 2:
        return found, everywhere
    for number, judge in judges.items():
        assert number is not None
        assert judge is not None
        found[number], there = load_vectors(session, judge, BRANCHES, [row.detection_id for row in rows])
        everywhere &= there
        if everywhere.mean() < 1 - MOST_LACKING:
            return {}, everywhere
    return found, everywhere


def _sets(recipe_id: str, vectors: Mapping[str, FloatArray], keep: np.ndarray) -> dict[str, VectorSet]:
    return {
        branch: VectorSet(recipe_id, branch, matrix if keep.all() else matrix[keep])
        for branch, matrix in vectors.items()
    }


def data_digest(labelled: Labelled) -> str:
    """sha256 over detections, individuals and encounters: tells whether two reports judged the same data."""
    lines = (
        f"{key} {labelled.names[individual]} {encounter}\n"
        for key, individual, encounter in zip(
            labelled.keys, labelled.individual.tolist(), labelled.encounter.tolist(), strict=True
        )
    )
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def learn(rows: Sequence[TruthRow], reviews: Sequence[PairReview]) -> Learned:
    """Whom the encounters without a name show, by a person's comparisons of two pictures.

    Of several comparisons of one pair the latest counts. Encounters said to be the same are joined, and take the one
    individual that any of them was said to be. They stay without where two individuals, or a "different" among them,
    contradict that.

    Args:
        reviews: those on detections that are not among the rows are passed over.
    """
    name = {row.detection_id: row.individual for row in rows if row.individual is not None}
    unnamed = {row.detection_id: row.encounter_id for row in rows if row.individual is None and row.encounter_id}
    place = {key: index for index, key in enumerate(sorted(set(unnamed.values()), key=str))}
    node = {detection: place[encounter] for detection, encounter in unnamed.items()}
    latest: dict[tuple[uuid.UUID, uuid.UUID], str] = {}
    for review in sorted(reviews, key=lambda item: item.reviewed_at):
        latest[review.pair] = review.verdict
    words = [(*pair, verdict == SAME) for pair, verdict in latest.items() if verdict in (SAME, DIFFERENT)]
    group = _groups(len(place), ((node[a], node[b]) for a, b, same in words if same and a in node and b in node))
    said: dict[int, set[str]] = defaultdict(set)
    denied: dict[int, set[str]] = defaultdict(set)
    torn: set[int] = set()
    disputed = 0
    for a, b, same in words:
        if a in name and b in name:
            disputed += (name[a] == name[b]) != same
        elif a in node and b in node:
            if not same and group[node[a]] == group[node[b]]:
                torn.add(int(group[node[a]]))
        elif (a in name or b in name) and (a in node or b in node):
            known, other = (a, b) if a in name else (b, a)
            (said if same else denied)[int(group[node[other]])].add(name[known])
    individuals: dict[uuid.UUID, str] = {}
    contradicted = 0
    for key, index in place.items():
        of = int(group[index])
        if len(said[of]) > 1 or said[of] & denied[of] or (said[of] and of in torn):
            contradicted += 1
        elif said[of]:
            individuals[key] = next(iter(said[of]))
    return Learned(individuals, contradicted, disputed)


def _with_learned(row: TruthRow, learned: Learned) -> TruthRow:
    if row.individual is not None or row.encounter_id is None:
        return row
    return replace(row, individual=learned.individuals.get(row.encounter_id))


def _groups(count: int, links: Iterable[tuple[int, int]]) -> Ints:
    """Number of the connected group of each of `count` things; int64 (count,)."""
    pairs = np.array(list(links), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64) if count else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class _Encounter:
    """One individual in one event.

    Attributes:
        events: the event it was decided in, the events its pictures came with, and the pictures themselves.
    """

    individual: str
    rows: tuple[int, ...]
    events: frozenset[Hashable]
    camera: str | None
    started_at: datetime | None
    ended_at: datetime | None
    sex: str
    when: tuple[datetime, datetime, int, str]


def _labelled(
    rows: Sequence[TruthRow],
    vectors: Mapping[str, VectorSet],
    models: FoldModels | None = None,
    galleries: Mapping[int, Mapping[str, VectorSet]] = MappingProxyType({}),
) -> Labelled:
    encounters = _encounters(rows)
    order = [index for encounter in encounters for index in encounter.rows]

    def ordered_sets(sets: Mapping[str, VectorSet]) -> dict[str, VectorSet]:
        return {branch: VectorSet(item.recipe_id, branch, item.vectors[order]) for branch, item in sets.items()}

    code = np.repeat(np.arange(len(encounters)), [len(encounter.rows) for encounter in encounters])
    burst = _bursts(encounters)
    names = sorted({encounter.individual for encounter in encounters})
    place = {name: index for index, name in enumerate(names)}
    owner = np.array([place[encounter.individual] for encounter in encounters], dtype=np.int64)
    met = np.array([len(set(burst[owner == index].tolist())) for index in range(len(names))], dtype=np.int64)
    ordered = [rows[index] for index in order]
    sexes = [encounters[index].sex for index in code.tolist()]
    compartment = None
    if models is not None:
        compartment = np.array([models.compartment(name) for name in names], dtype=np.int64)[owner[code]]
    return Labelled(
        keys=[row.detection_id for row in ordered],
        vectors=ordered_sets(vectors),
        individual=owner[code],
        encounter=code.astype(np.int64),
        burst=burst[code],
        viewpoints=[row.viewpoint for row in ordered],
        names=names,
        sexes=sexes,
        strata={
            "light": ["" if row.infrared is None else "infrared" if row.infrared else "day" for row in ordered],
            "flank": [row.viewpoint or "" for row in ordered],
            "sex": ["" if sex == UNKNOWN else sex for sex in sexes],
            "sightings": [_sightings(count) for count in met[owner[code]].tolist()],
            "camera": ["" if (row.camera or "folder:").startswith("folder:") else str(row.camera) for row in ordered],
        },
        compartment=compartment,
        galleries={number: ordered_sets(gallery) for number, gallery in galleries.items()},
    )


def _sightings(encounters: int) -> str:
    return "1" if encounters == 1 else "2-4" if encounters < 5 else "5+"


def _encounters(rows: Sequence[TruthRow]) -> list[_Encounter]:
    """One individual in one event each, in the order in which they happened.

    Where no time is known, an encounter happened when its drop was sealed, in the drop's own order.
    """
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        assert row.individual is not None
        members[row.event, row.individual].append(index)
    found = []
    for (event, individual), indices in members.items():
        of = [rows[index] for index in indices]
        started = min((row.started_at for row in of if row.started_at), default=None)
        sealed = min((row.sealed_at for row in of if row.sealed_at), default=_BEFORE_ALL)
        found.append(
            _Encounter(
                individual=individual,
                rows=tuple(indices),
                events=frozenset(
                    {event, *(row.given_event for row in of if row.given_event), *(row.image_id for row in of)}
                ),
                camera=of[0].camera,
                started_at=started,
                ended_at=max((row.ended_at for row in of if row.ended_at), default=started),
                sex=agreed_sex([row.sex or sex_of(row.classification) for row in of]),
                when=(started or sealed, sealed, min(row.ordinal for row in of), f"{event} {individual}"),
            )
        )
    return sorted(found, key=lambda encounter: encounter.when)


def _bursts(encounters: Sequence[_Encounter]) -> Ints:
    """Code of the burst of each encounter: one event, or one individual on one camera within `BURST_GAP`."""
    links: list[tuple[int, int]] = []
    first: dict[Hashable, int] = {}
    for index, encounter in enumerate(encounters):
        links += [(index, first.setdefault(event, index)) for event in encounter.events]
    until: dict[tuple[str, str], tuple[datetime, int]] = {}
    for index, encounter in enumerate(encounters):
        if encounter.started_at is None or encounter.ended_at is None or encounter.camera is None:
            continue
        place = (encounter.individual, encounter.camera)
        ended, last = until.get(place, (encounter.ended_at, index))
        if encounter.started_at - ended <= BURST_GAP:
            links.append((index, last))
        until[place] = (max(ended, encounter.ended_at), index)
    return _groups(len(encounters), links)
