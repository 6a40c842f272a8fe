"""`triplet_dataset` and `finetuned_model`: the labelled crops of an installation, and the recipe trained on them.

Only what a person identified is trained on. What a run needs is under the home, in `training/<run>`: a run that was
stopped goes on there, and one that is done is not done again.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from deer_reid_pipeline.progress import remark, report
from deer_reid_pipeline.steps.embeddings import load_crops
from deer_reid_pipeline.steps.images import in_batches
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import load_identities
from deer_reid_pipeline.store.recipes import fold_of_recipe, fold_recipes, register_recipe, training_of
from deer_reid_pipeline.store.releases import refuse_unreleasable
from deer_reid_pipeline.store.reports import TRAINING, add_report
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.crop_cache import CropCache, make_cache, open_cache
from deer_reid_pipeline.training.dataset import (
    PARTS,
    SALT,
    UNKNOWN_FLANK,
    Picture,
    TrainingSet,
    part_of,
    refuse_too_little,
)
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.left_out import write_left_out
from deer_reid_pipeline.training.outcome import Outcome, outcome_of
from deer_reid_pipeline.training.plan import CHECKPOINT, Plan, refuse_pointless, splits_of
from deer_reid_pipeline.training.runs import Tell, Told, discard_intermediate, finished, run_jobs, side_by_side
from deer_reid_pipeline.training.shape import branches_of, learned_branches
from deer_reid_pipeline.training.worker import read_result
from deer_reid_pipeline.vision.crops import Pixels
from deer_reid_pipeline.vision.recipe import Recipe, base_name

LogLine = Callable[[str], None]

log = logging.getLogger(__name__)

SPARE = 1.3
"""Cached crops are this much larger than the network's input, for parts of them are shown enlarged."""


@dataclass(frozen=True)
class DatasetFacts:
    """What there is to train on.

    Attributes:
        parts: train, validation and test -> their counts, as `TrainingSet.counts`, the same ones for each.
        too_little: why nothing can be learned from it; None where something can.
    """

    digest: str
    counts: Mapping[str, int]
    parts: Mapping[str, Mapping[str, int]]
    too_little: str | None


def training_set(site: Site) -> TrainingSet:
    """Every standing detection whose individual a person gave, reviews included, in the order of encounters."""
    labelled = load_identities(site)
    return TrainingSet(
        tuple(
            Picture(str(key), labelled.names[individual], viewpoint or "", f"{burst:06d}")
            for key, individual, viewpoint, burst in zip(
                labelled.keys,
                labelled.individual.tolist(),
                labelled.viewpoints,
                labelled.burst.tolist(),
                strict=True,
            )
        )
    )


def dataset_facts(site: Site, config: TrainingConfig) -> DatasetFacts:
    """What there is to train on, by part, and whether it is enough."""
    data = training_set(site)
    members = {part: frozenset(name for name in data.individuals if part_of(name) == part) for part in PARTS}
    parts = {part: dict.fromkeys(data.counts(), 0) | data.of(names).counts() for part, names in members.items()}
    try:
        refuse_too_little(data, splits_of(config, data))
        reason = None
    except TrainingError as error:
        reason = str(error)
    return DatasetFacts(data.digest, data.counts(), parts, reason)


def train_model(
    site: Site, config: TrainingConfig, *, start: str = "", say: LogLine = log.info, watch: Tell | None = None
) -> Outcome:
    """Train, or go on with what was begun, and register the recipes.

    Args:
        start: name or id of the recipe to start from; empty for the live one, which goes on where it was left if it is
            fine-tuned.
        watch: is told each epoch.

    Raises:
        TrainingError: too little to train on, another process trains the same, or a training failed.
        WeightsError: the weights to start from are missing.
    """
    from deer_reid_pipeline.vision.embedder import resolve_device

    data = training_set(site)
    starts = _starts(site, start, config)
    weights = site.weights
    plan = Plan(
        config=config,
        data=data,
        starts=starts,
        search_dirs=tuple(str(folder) for folder in weights.search_dirs),
        models_dir=str(site.settings.models_dir),
        device=str(resolve_device(site.settings.device)),
        vram_mb=site.settings.vram_mb,
    )
    refuse_pointless(plan)
    _refuse_nothing_new(site, plan, plan.data)
    folder = site.settings.home / "training" / plan.id
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(str(folder.parent / "lock"), timeout=0):
            outcome = _run(site, plan, folder, say, watch)
    except Timeout as error:
        raise TrainingError(f"another process trains in {folder.parent} now: wait for it") from error
    _register(site, outcome)
    trained = len(outcome.seen.individuals)
    say(f"recipe {outcome.recipe.id}: trained on {trained} individuals in {outcome.seconds:.0f} s")
    return outcome


def note_training(site: Site, outcome: Outcome, run_id: str | None) -> None:
    """Keep that this run has trained the recipe, so that what follows in the run goes on with it."""
    with site.database.session() as session:
        add_report(
            session,
            TRAINING,
            {"recipe": outcome.recipe.id, "epochs": outcome.epochs, "seconds": round(outcome.seconds, 1)},
            recipe_id=outcome.recipe.id,
            data_digest=outcome.plan.data.digest,
            folder=outcome.folder.relative_to(site.settings.home).as_posix(),
            run_id=run_id,
        )


def _run(site: Site, plan: Plan, folder: Path, say: LogLine, watch: Tell | None) -> Outcome:
    counts = plan.data.counts()
    say(
        f"training run {plan.id} from {plan.base.id} on {plan.device}: {counts['pictures']} pictures of "
        f"{counts['individuals']} individuals, {len(plan.jobs())} trainings of at most {plan.config.epochs} epochs, "
        f"{side_by_side(plan)} at a time"
    )
    if counts[UNKNOWN_FLANK]:
        say(
            f"{counts[UNKNOWN_FLANK]} of these pictures do not say which flank they show (viewpoint): they are never "
            "learned to differ from the other pictures of their animal"
        )
    say(_heads(plan))
    plan.write(folder)
    if not finished(plan, folder):
        _refuse_unreadable(site, plan, folder, _cache_crops(site, plan, folder, say))

    heard: set[str] = set()
    kept = {
        job.name
        for job in plan.jobs()
        if read_result(folder / job.name) is None and (folder / job.name / CHECKPOINT).is_file()
    }

    def speak(line: str) -> None:
        say(line)
        remark(line)

    for name in sorted(kept):
        speak(f"{name} goes on from its last checkpoint")

    def tell(told: Told) -> None:
        report("training", told.done, told.total)
        if told.job in kept and told.epoch["number"] == 1:
            speak(f"{told.job} was begun anew: its checkpoint was damaged")
        kept.discard(told.job)
        speak(_line(told))
        for sentence in told.epoch.get("unrepeatable", ()):  # type: ignore[attr-defined]
            if sentence not in heard:
                heard.add(sentence)
                say(f"another training with this seed need not give the same weights: {sentence}")
        if watch is not None:
            watch(told)

    outcome = outcome_of(plan, folder, run_jobs(plan, folder, tell))
    discard_intermediate(plan, folder)
    return outcome


def _line(told: Told) -> str:
    epoch = told.epoch
    figures = epoch["figures"]
    judged = ""
    if isinstance(figures, Mapping) and figures.get("map_individual") is not None:
        judged = f", validation mAP {100 * float(figures['map_individual']):.1f} %{' (best)' if epoch['best'] else ''}"
    left = "" if told.seconds_left is None else f", {told.seconds_left / 60:.0f} min left"
    return (
        f"{told.job}: epoch {epoch['number']} of {epoch['of']}, loss {epoch['loss']:.3f}{judged}, "
        f"{epoch['pictures_per_second']:.0f} pictures/s{left}"
    )


def _heads(plan: Plan) -> str:
    """Which heads go on from what was learned before, and which start anew; one line for the log."""
    known = [name for key in plan.keys for name in learned_branches(plan.base, key)]
    fresh = [name for key in plan.keys for name in branches_of(plan.base, key) if name not in known]
    said = [f"{', '.join(known)} go on from {plan.base.id}"] if known else []
    said += [f"{', '.join(fresh)} start anew"] if fresh else []
    return f"heads: {'; '.join(said)}"


def _cache_crops(site: Site, plan: Plan, folder: Path, say: LogLine) -> TrainingSet:
    """Decode the crops, where that is not done yet.

    Returns:
        The pictures that could be read; which could not is kept in the folder.
    """
    cache = open_cache(folder)
    if cache is None:
        cache = _decode_crops(site, plan, folder, say)
    lost = frozenset(picture.key for picture in plan.data.pictures if picture.key not in cache)
    write_left_out(folder, lost)
    if lost:
        say(f"{len(lost)} of {len(plan.data.pictures)} pictures cannot be read any more and are left out")
    return plan.data.without(lost)


def _refuse_unreadable(site: Site, plan: Plan, folder: Path, readable: TrainingSet) -> None:
    """Make sure that what can be read is enough, and something new; else the crops are decoded anew the next time."""
    try:
        refuse_too_little(readable, plan.splits, len(plan.data.pictures) - len(readable.pictures))
        _refuse_nothing_new(site, plan, readable)
    except TrainingError:
        discard_intermediate(plan, folder)
        raise


def _decode_crops(site: Site, plan: Plan, folder: Path, say: LogLine) -> CropCache:
    say("decoding the crops once")
    keys = [uuid.UUID(picture.key) for picture in plan.data.pictures]

    def crops() -> Iterator[tuple[str, Pixels]]:
        for batch in in_batches(keys, site.settings.batch_size):
            found, pixels = load_crops(site, plan.base, batch)
            yield from ((str(key), each) for key, each in zip(found, pixels, strict=True))

    longest = round(SPARE * max(plan.config.width, plan.config.height))
    return make_cache(folder, crops(), longest, lambda done: report("crops", done, len(keys)))


def _starts(site: Site, start: str, config: TrainingConfig) -> dict[int | None, Recipe]:
    """What each model starts from. A fold's model goes on from the model that never saw the fold's individuals."""
    recipe = site.recipe(start) if start else site.matcher().recipe
    with site.database.session() as session:
        before = training_of(session, recipe.id)
        folds = fold_recipes(session, recipe.id)
        judges = fold_of_recipe(session, recipe.id)
        if judges is None:
            refuse_unreleasable(session, recipe.id)
    if judges is not None:
        raise TrainingError(
            f"{recipe.id} is the judge of one fold of {judges}, and was trained on the animals of the others: go on "
            f"from {judges}, or start anew with --from {base_name(recipe.name)}"
        )
    wanted = config.folds
    if before is None:
        return {None: recipe, **dict.fromkeys(range(wanted), recipe)}
    if before["folds"] != wanted or set(folds) != set(range(wanted)) or before["salt"] != SALT:
        raise TrainingError(
            f"{recipe.id} was trained with {before['folds']} folds, and going on with {wanted} would judge models by "
            f"animals that they were trained on: use --folds {before['folds']}, or start anew with --from "
            f"{base_name(recipe.name)}"
        )
    return {None: recipe, **{fold: site.stored_recipe(key) for fold, key in folds.items()}}


def _refuse_nothing_new(site: Site, plan: Plan, data: TrainingSet) -> None:
    """Make sure that these pictures are not those that the start was trained on."""
    with site.database.session() as session:
        before = training_of(session, plan.base.id)
    # Records of earlier versions have no digest of what could be read.
    if before is not None and before.get("seen_digest", before["dataset_digest"]) == data.digest:
        raise TrainingError(
            f"nothing new to train on: {plan.base.id} was trained on these {len(data.pictures)} pictures. Name "
            f"more animals first, or start anew with --from {base_name(plan.base.name)}"
        )


def _register(site: Site, outcome: Outcome) -> None:
    recipe = outcome.recipe
    with site.database.session() as session:
        record = outcome.record(training_of(session, outcome.plan.base.id))
        register_recipe(session, recipe.id, recipe.name, recipe.to_json(), recipe.random_weights, training=record)
        for fold, judging in outcome.folds.items():
            register_recipe(
                session,
                judging.id,
                judging.name,
                judging.to_json(),
                judging.random_weights,
                fold_of=recipe.id,
                fold=fold,
            )
