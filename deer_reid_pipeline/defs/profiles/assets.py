"""`deer_matches` and `deer_profiles`: who was seen, and what is known of every individual."""

import dagster as dg
from pydantic import Field

from deer_reid_pipeline.defs.embeddings.assets import BRANCH_OF
from deer_reid_pipeline.defs.metadata import columns, contact_sheet, picture
from deer_reid_pipeline.defs.partitions import image_drop_partitions
from deer_reid_pipeline.defs.profiles.tables import decision_table
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.steps.checks import check_profiles, shared_pictures, undecided_encounters
from deer_reid_pipeline.steps.contact_sheets import SheetItem
from deer_reid_pipeline.steps.finetuned import embed_judges
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.plots import similarity_plot
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.search import recall_in_words, search_recall
from deer_reid_pipeline.steps.summary import finish_drop, seen_in_drop


@dg.asset(
    partitions_def=image_drop_partitions,
    group_name="profiles",
    deps=list(BRANCH_OF),
    kinds={"postgres"},
    pool="gpu",  # individuals that another release opened are embedded first
    description="Which individual each encounter is: matched, new_individual or uncertain, with its evidence.",
    check_specs=[
        dg.AssetCheckSpec(
            "every_encounter_has_a_decision",
            asset="deer_matches",
            blocking=True,
            description="Every encounter of the drop is matched, new_individual or uncertain.",
        ),
        dg.AssetCheckSpec(
            "one_picture_never_shows_an_individual_twice",
            asset="deer_matches",
            description="Two boxes of a picture are two animals. Where one name stands at both, a person has given it "
            "twice, or a box is double.",
        ),
    ],
)
def deer_matches(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: a decision about one encounter, in an append-only log. Key: its number in the log."""
    match_drop(site.site, site.matcher, context.partition_key, context.run_id, context.log.info)
    summary = finish_drop(site.site, context.partition_key)
    undecided = undecided_encounters(site.site, context.partition_key)
    twice = shared_pictures(site.site, context.partition_key)
    seen = seen_in_drop(site.site, context.partition_key)
    items = [SheetItem(row.detection_id, row.individual or "uncertain") for row in seen]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": summary.encounters,
            "matched": summary.matched,
            "new_individuals": summary.new,
            "uncertain": summary.uncertain,
            "identified_by_a_person": summary.by_person,
            "individuals_known": summary.individuals,
            "matcher": site.matcher.describe(),
            "decisions": dg.MetadataValue.md(decision_table(seen)),
            "contact_sheet": contact_sheet(site.site, items),
            "similarities": picture(
                "similarities", similarity_plot(site.site, context.partition_key), "No machine decision to show."
            ),
            "dagster/column_schema": columns(
                encounter_id="uuid: one animal in one event",
                decision="text: matched, new_individual or uncertain",
                method="text: human or machine",
                individual="text: individualID",
                score="float: fused similarity to the best candidate, -1 to 1",
                runner_up_score="float: the next best",
                threshold="float: matched from here",
                probability="float: null until a calibration was measured",
                recipe_id="text: what made the vectors",
                release_id="int: the release that decided",
            ),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="every_encounter_has_a_decision",
                passed=undecided == 0,
                metadata={"undecided": undecided},
            ),
            dg.AssetCheckResult(
                check_name="one_picture_never_shows_an_individual_twice",
                passed=not twice,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"pictures": twice[:10]},
            ),
        ],
    )


class ReembeddingConfig(dg.Config):
    """How `deer_profiles` re-embeds. The defaults do what is missing and nothing else."""

    recipe: str = Field(
        "",
        description="Recipe to embed under: a built-in one, or the name or id of a stored one; empty: the live "
        "release's.",
    )
    restart: bool = Field(False, description="Make every vector again instead of going on where a run stopped.")
    backlog: bool = Field(False, description="Embed detections without an individual too, as the night run does.")


@dg.asset(
    group_name="profiles",
    deps=[deer_matches],
    kinds={"postgres", "pytorch"},
    pool="gpu",
    description="What is known of every individual: exemplars by viewpoint and mean vectors, by recipe.",
    check_specs=[
        dg.AssetCheckSpec(
            "profiles_with_sightings_have_all_vectors",
            asset="deer_profiles",
            blocking=True,
            description="Every individual that was seen has its vectors under the live recipe; the first that lack one "
            "are named.",
        ),
        dg.AssetCheckSpec(
            "profile_vectors_are_unit_norm",
            asset="deer_profiles",
            blocking=True,
            description="Every norm is 1 within 1e-4.",
        ),
        dg.AssetCheckSpec(
            "embedding_version_is_consistent",
            asset="deer_profiles",
            blocking=True,
            description="The vectors shown for every individual are the live release's; the first others are named.",
        ),
        dg.AssetCheckSpec(
            "individuals_did_not_drop",
            asset="deer_profiles",
            description="There are at least as many individuals with sightings as after the run before.",
        ),
        dg.AssetCheckSpec(
            "search_recall_holds",
            asset="deer_profiles",
            description="Searches of the live release find what exact search finds, on a sample; above 100,000 "
            "exemplars an index may miss some.",
        ),
    ],
)
def deer_profiles(
    context: dg.AssetExecutionContext, config: ReembeddingConfig, site: SiteResource
) -> dg.MaterializeResult:
    """One row: an individual under a recipe. The vector columns of `deer` show the live release's."""
    before = _last_row_count(context)
    recipe = site.site.recipe(config.recipe) if config.recipe else site.matcher.recipe
    result = update_profiles(
        site.site,
        recipe,
        context.log.info,
        again=config.restart,
        backlog=config.backlog,
        branches=site.site.needed_branches(recipe.id),
    )
    embed_judges(site.site, recipe.id, context.log.info)
    check = check_profiles(site.site)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": check.individuals,
            "profiles_made": result.made,
            "profiles_unchanged": result.unchanged,
            "detections_embedded": result.embedded,
            "seconds": result.seconds,
            "recipe": recipe.id,
            "exemplars": check.exemplars,
            "dagster/column_schema": columns(
                deer_id="uuid: the individual",
                recipe_id="text: what made the vectors",
                branch="text: baseline, multiscale or efficientnet",
                vector="vector(512): mean direction, unit norm",
                detections="int: pictures behind it",
            ),
        },
        data_version=dg.DataVersion(f"{recipe.id}/{check.digest}"),
        check_results=[
            dg.AssetCheckResult(
                check_name="profiles_with_sightings_have_all_vectors",
                passed=not check.without_vectors,
                metadata={"individuals": check.without_vectors[:10]},
            ),
            dg.AssetCheckResult(
                check_name="profile_vectors_are_unit_norm",
                passed=check.off_norm == 0,
                metadata={"off_norm": check.off_norm},
            ),
            dg.AssetCheckResult(
                check_name="embedding_version_is_consistent",
                passed=not check.wrong_version,
                metadata={"individuals": check.wrong_version[:10]},
            ),
            dg.AssetCheckResult(
                check_name="individuals_did_not_drop",
                passed=check.individuals >= before,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"before": before, "after": check.individuals},
            ),
            _recall_check(site),
        ],
    )


def _recall_check(site: SiteResource) -> dg.AssetCheckResult:
    """Searches of the live release against exact search, on a sample; exact search itself misses nothing."""
    found = search_recall(site.site)
    return dg.AssetCheckResult(
        check_name="search_recall_holds",
        passed=all(item.holds for item in found),
        severity=dg.AssetCheckSeverity.WARN,
        description=recall_in_words(found),
        metadata={f"recall_{item.what}": item.recall for item in found}
        | {f"exemplars_{item.what}": item.rows for item in found}
        | {"searched_by_index": any(item.indexed for item in found)},
    )


def _last_row_count(context: dg.AssetExecutionContext) -> int:
    """Individuals at the last materialization; 0 before the first."""
    last = context.instance.get_latest_materialization_event(dg.AssetKey("deer_profiles"))
    materialization = last.asset_materialization if last else None
    value = materialization.metadata.get("dagster/row_count") if materialization else None
    return int(value.value) if value is not None and isinstance(value.value, int) else 0
