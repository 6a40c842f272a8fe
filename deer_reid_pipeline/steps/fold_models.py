"""Which recipe's vectors judge an individual under a fine-tuned recipe: never those of a model that was trained on it.

A fine-tuned recipe comes with fold recipes, each trained without the individuals of one fold. These individuals are
judged by it, and those that no training saw by the recipe itself. Who was trained on and has no fold recipe is not
judged at all.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.store.recipes import fold_recipes, training_of


@dataclass(frozen=True)
class FoldModels:
    """Who judges whom under a fine-tuned recipe.

    Attributes:
        recipe: its id.
        folds: number of folds; also the compartment of individuals that the recipe itself judges.
        fold: individual that it was trained on -> its fold, None where no model was trained without it.
        recipes: fold -> id of its fold recipe.
        detections: detection that it was trained on -> its fold, for individuals that were renamed since.
    """

    recipe: str
    folds: int
    fold: Mapping[str, int | None]
    recipes: Mapping[int, str]
    detections: Mapping[str, int | None] = field(default_factory=dict)

    def as_named(self, members: Mapping[str, Iterable[object]]) -> FoldModels:
        """Who judges whom by the names of today: a picture that was trained on stays so under another name.

        An individual of which pictures of several folds are known now, as after a merge, has no model that saw none.

        Args:
            members: individual -> its detections.
        """
        fold: dict[str, int | None] = {}
        for name, keys in members.items():
            found = {self.detections[key] for key in map(str, keys) if key in self.detections}
            found |= {self.fold[name]} if name in self.fold else set()
            if found:
                fold[name] = next(iter(found)) if len(found) == 1 else None
        return replace(self, fold=fold)

    def compartment(self, individual: str) -> int | None:
        """Compartment that an individual is judged in; None where every model here was trained on it."""
        if individual not in self.fold:
            return self.folds
        fold = self.fold[individual]
        return fold if fold in self.recipes else None

    def judge(self, individual: str) -> str | None:
        """Recipe whose vectors an individual is judged by; None where every model here was trained on it."""
        compartment = self.compartment(individual)
        return None if compartment is None else self.recipes.get(compartment, self.recipe)


def by_judge(models: FoldModels, labelled: Labelled, keys: Iterable[uuid.UUID]) -> dict[str, list[uuid.UUID]]:
    """Recipe -> those of these labelled detections that it judges; those whom nobody judges are left out."""
    members: dict[str, list[uuid.UUID]] = defaultdict(list)
    for key, judge in _judged(models, labelled, keys):
        members[judge].append(key)
    return dict(sorted(members.items()))


def needed_by_judges(models: FoldModels, labelled: Labelled, keys: Iterable[uuid.UUID]) -> dict[str, list[uuid.UUID]]:
    """Recipe that judges somebody -> those of these labelled detections that it needs vectors of.

    These are all that any recipe judges: an animal is searched for among all others by the model that judges it.
    """
    judged = _judged(models, labelled, keys)
    return {recipe: [key for key, _ in judged] for recipe in sorted({judge for _, judge in judged})}


def _judged(models: FoldModels, labelled: Labelled, keys: Iterable[uuid.UUID]) -> list[tuple[uuid.UUID, str]]:
    """Each of these detections that is judged, with the recipe that does, by the names of today."""
    owner = {key: labelled.names[code] for key, code in zip(labelled.keys, labelled.individual.tolist(), strict=True)}
    pictures: dict[str, list[object]] = defaultdict(list)
    for key, name in owner.items():
        pictures[name].append(key)
    today = models.as_named(pictures)
    return [(key, judge) for key in keys if (judge := today.judge(owner[key])) is not None]


def fold_models(session: Session, recipe_id: str) -> FoldModels | None:
    """Who judges whom under a recipe; None where it is not fine-tuned and judges everybody itself."""
    training = training_of(session, recipe_id)
    if training is None:
        return None
    return FoldModels(
        recipe_id,
        int(training["folds"]),
        dict(training["individuals"]),
        fold_recipes(session, recipe_id),
        dict(training.get("detections", {})),
    )
