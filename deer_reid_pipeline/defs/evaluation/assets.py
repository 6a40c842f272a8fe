"""Evaluation, tuning and release control: what is measured on people's identities, and what follows from it."""

from typing import Any

import dagster as dg
from pydantic import Field

from deer_reid_pipeline.defs.evaluation.tables import comparison_table, estimate_lines, findings_table, grid_table
from deer_reid_pipeline.defs.metadata import columns, picture
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.steps.ab import ab_report as compare_arms
from deer_reid_pipeline.steps.ab import newest_test
from deer_reid_pipeline.steps.finetuned import comparison_of_run
from deer_reid_pipeline.steps.judging import Released, act_on_verdict, candidate_to_judge, judge
from deer_reid_pipeline.steps.profiles import show_live_columns
from deer_reid_pipeline.steps.releases import status
from deer_reid_pipeline.steps.report.assignment import assignment_summary
from deer_reid_pipeline.steps.similarity_distribution import distribution_plot
from deer_reid_pipeline.steps.similarity_distribution import similarity_distribution as measure_distribution
from deer_reid_pipeline.steps.tuning import fit_release, propose_fit

WARN = dg.AssetCheckSeverity.WARN


@dg.asset(
    group_name="evaluation",
    deps=["deer_profiles"],
    kinds={"postgres"},
    description="Similarity of pictures of one animal and of two, under v1, v2 and the live release.",
    check_specs=[
        dg.AssetCheckSpec(
            "true_pairs_are_more_similar",
            asset="similarity_distribution",
            description="Pictures of one animal are more alike than pictures of two: the lower end of ROC-AUC is "
            "above 0.5.",
        )
    ],
)
def similarity_distribution(site: SiteResource) -> dg.MaterializeResult:
    """One row: a way to compare. Measured on people's identities, same flank, different encounters."""
    found = measure_distribution(site.site)
    live = found.live
    figures = {} if live is None else {"roc_auc": live.roc_auc.value, "d_prime": live.d_prime.value}
    return dg.MaterializeResult(
        metadata={
            "individuals": found.individuals,
            "detections": found.detections,
            "genuine_pairs": found.genuine_pairs,
            "impostor_pairs": found.impostor_pairs,
            **figures,
            "recipe": found.recipe,
            "similarities": picture("similarities", distribution_plot(found), "No two named individuals to compare."),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="true_pairs_are_more_similar",
                passed=live is not None and live.roc_auc.low > 0.5,
                severity=WARN,
                description="nothing could be measured" if live is None else estimate_lines({"ROC-AUC": live.roc_auc}),
            )
        ],
    )


class TuningConfig(dg.Config):
    """How a fit is made."""

    bound: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of searches for unknown animals that may return a name, such as 0.05; 0: as the live "
        "release has it.",
    )
    mode: str = Field(
        default="",
        pattern="^(enhanced|fast)?$",
        description="enhanced: two branches are fused; fast: the multi-scale one decides alone, and the second network "
        "is computed of new animals only; empty: as the live release has it.",
    )


@dg.asset(
    group_name="evaluation",
    deps=["similarity_distribution"],
    kinds={"postgres", "scikitlearn"},
    description="Fusion weights, thresholds and odds fitted to people's identities, by groups of individuals.",
    check_specs=[
        dg.AssetCheckSpec(
            "unknown_animals_stay_unnamed_outside_the_fit",
            asset="ensemble_weights",
            description="On individuals that nothing was fitted to, the upper end of FPIR (unknown animals given a "
            "name) is within the bound.",
        )
    ],
)
def ensemble_weights(
    context: dg.AssetExecutionContext, config: TuningConfig, site: SiteResource
) -> dg.MaterializeResult:
    """One row: a fit, in the table of reports. What it fitted waits there until `match_threshold` proposes it."""
    bound, mode = config.bound or None, config.mode or None
    found = fit_release(site.site, bound=bound, mode=mode, run_id=context.run_id, say=context.log.info)
    tuned = found.tuned
    figures: dict[str, Any] = {}
    if tuned is not None:
        figures = {
            "fpir_outside_the_fit": tuned.fpir.value,
            "fnir_outside_the_fit": tuned.fnir.value,
            "weights_tried": dg.MetadataValue.md(grid_table(tuned.grid)),
            **{f"weight_{branch}": weight for branch, weight in tuned.fitted.policy.weights.items()},
        }
    return dg.MaterializeResult(
        metadata={
            "report_number": found.report,
            "recipe": found.recipe,
            "rationale": dg.MetadataValue.md("\n".join(f"- {line}" for line in found.rationale)),
            **figures,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="unknown_animals_stay_unnamed_outside_the_fit",
                passed=tuned is not None and tuned.fpir.high <= tuned.bound,
                severity=WARN,
                description="nothing was fitted" if tuned is None else estimate_lines({"FPIR": tuned.fpir}),
            )
        ],
    )


@dg.asset(
    group_name="evaluation",
    deps=["ensemble_weights"],
    kinds={"postgres"},
    description="The candidate release with the fitted thresholds; what is live stays.",
    check_specs=[
        dg.AssetCheckSpec(
            "thresholds_name_animals",
            asset="match_threshold",
            description="A threshold could be shown to be safe, so that the candidate names animals at all.",
        )
    ],
)
def match_threshold(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: a candidate in the table of releases. Key: its number."""
    found = propose_fit(site.site, run_id=context.run_id, say=context.log.info)
    policy = found.summary.get("policy")
    cuts = {} if policy is None else {"matched_from": policy["threshold"], "new_below": policy["new_below"]}
    return dg.MaterializeResult(
        metadata={
            "report_number": found.report,
            "candidate": found.candidate or 0,
            "reason": found.reason,
            **{name: float(value) for name, value in cuts.items()},
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="thresholds_name_animals",
                passed=policy is not None and policy["threshold"] < 1,
                severity=WARN,
                description="; ".join(found.summary["rationale"])[:1000],
            )
        ],
    )


class ValidationConfig(dg.Config):
    """What is judged, and how."""

    candidate: int = Field(
        default=-1,
        ge=-1,
        description="Release to judge against the live one; -1: what this run has fitted, else the newest candidate, "
        "else the live one alone; 0: the live one alone.",
    )
    recipe: str = Field(default="", description="Name or id of a recipe to judge beside the live one instead.")
    control: bool = Field(
        default=True, description="Judge the background alone too; its vectors are made when first needed."
    )


@dg.asset(
    group_name="evaluation",
    deps=["similarity_distribution", dg.AssetDep("match_threshold"), dg.AssetDep("finetuned_embeddings")],
    kinds={"postgres"},
    pool="gpu",  # the background control makes its vectors when they are first needed
    description="How good the identities are: verdict, figures with intervals, the owner's criteria.",
    check_specs=[
        dg.AssetCheckSpec(
            "identities_can_be_trusted",
            asset="validation_report",
            description="The verdict on what is live is PASS. The result says which claims are refuted, or what is "
            "missing to tell.",
        ),
        dg.AssetCheckSpec(
            "unknown_animals_stay_unnamed",
            asset="validation_report",
            description="The upper end of FPIR (unknown animals given a name) is within the bound.",
        ),
    ],
)
def validation_report(
    context: dg.AssetExecutionContext, config: ValidationConfig, site: SiteResource
) -> dg.MaterializeResult:
    """One row: a report in the table of reports, with its page, text and JSON under the home."""
    candidate = config.candidate or None
    if config.candidate == -1:
        candidate = None if config.recipe else candidate_to_judge(site.site, context.run_id)
    found = judge(
        site.site,
        candidate=candidate,
        recipe=config.recipe or None,
        control=config.control,
        run_id=context.run_id,
        say=context.log.info,
    )
    result = found.result
    fpir = result.metrics.get("fpir")
    bound = result.live.fitted.policy.false_positive_bound
    return dg.MaterializeResult(
        metadata={
            "verdict": result.verdict.verdict,
            "verdict_on_what_is_live": result.live_verdict.verdict,
            "findings": dg.MetadataValue.md(findings_table(result.verdict.findings)),
            "judged": result.judged.describe(),
            "report_number": found.report,
            "report": dg.MetadataValue.path(str(result.report)),
            "data_digest": result.data_digest[:16],
            **{name: item.value for name, item in result.metrics.items() if item.n and item.value == item.value},
            **{f"n_{name}": count for name, count in result.counts.items()},
            "dagster/column_schema": columns(
                kind="text: validation",
                verdict="text: PASS, FAIL or INCONCLUSIVE",
                release_id="int: what was live",
                candidate_id="int: what was judged against it",
                summary="jsonb: figures and findings",
            ),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="identities_can_be_trusted",
                passed=result.live_verdict.verdict == "PASS",
                severity=WARN,
                description=f"{result.live_verdict.verdict}: {' '.join(result.live_verdict.reasons)}"[:1500],
            ),
            dg.AssetCheckResult(
                check_name="unknown_animals_stay_unnamed",
                passed=fpir is not None and fpir.high <= bound,
                severity=WARN,
                description="not measured" if fpir is None else estimate_lines({"FPIR": fpir}),
                metadata={"bound": bound},
            ),
        ],
    )


@dg.asset(
    group_name="evaluation",
    deps=["deer_profiles"],
    kinds={"postgres"},
    description="How many detections and encounters have an identity, and from whom. It says nothing of being right.",
)
def assignment_report(site: SiteResource) -> dg.MaterializeResult:
    """One row: an outcome of an encounter, counted."""
    found = assignment_summary(site.site)
    rate = {} if found.assignment_rate is None else {"assignment_rate": found.assignment_rate}
    return dg.MaterializeResult(
        metadata={
            **rate,
            "detections": found.detections,
            "assigned": found.assigned,
            "by_a_person": found.by_person,
            "individuals": found.individuals,
            "opened_by_the_machine": found.opened_by_machine,
            "encounters": found.encounters,
            "undecided": found.undecided,
            "report": dg.MetadataValue.md(found.markdown()),
        }
    )


class ReleaseConfig(dg.Config):
    """Whether the gate's PASS is acted upon."""

    promote: bool = Field(default=True, description="Make the candidate that this run has judged live, if it passed.")
    backup: bool = Field(default=True, description="Dump the database before anything becomes live.")


@dg.asset(
    group_name="evaluation",
    deps=["validation_report"],
    kinds={"postgres"},
    description="What matching uses. Another release becomes live only on a report that says PASS.",
    check_specs=[
        dg.AssetCheckSpec(
            "live_release_rests_on_evidence",
            asset="embedding_release",
            description="What is live became so on a report that says PASS; the first release and forced ones did not.",
        )
    ],
)
def embedding_release(
    context: dg.AssetExecutionContext, config: ReleaseConfig, site: SiteResource
) -> dg.MaterializeResult:
    """One row: a release. Key: its number; one is live."""
    released = Released(None, "promotion is switched off for this run")
    if config.promote:
        released = act_on_verdict(site.site, context.run_id, backup=config.backup)
    context.log.info(released.reason)
    if released.change is not None:
        context.log.info(f"release {released.change.release} is live, in {released.change.seconds:.2f} s")
        show_live_columns(site.site, context.log.info)
    found = status(site.site)
    live = found.live
    last = next((event for event in found.history if event.action in ("first", "promoted", "rolled_back")), None)
    shown: dict[str, Any] = {} if live is None else {"live": live.release, "recipe": live.recipe, "why": live.reason}
    return dg.MaterializeResult(
        metadata={
            **shown,
            "promoted_now": 0 if released.change is None else released.change.release,
            "in_words": released.reason,
            "candidates_waiting": len(found.candidates),
            "previous": found.previous.release if found.previous else 0,
        },
        data_version=dg.DataVersion(f"release-{live.release}" if live else "none"),
        check_results=[
            dg.AssetCheckResult(
                check_name="live_release_rests_on_evidence",
                passed=last is not None and last.action == "promoted" and last.verdict == "PASS" and not last.forced,
                severity=WARN,
                description="no release yet" if last is None else f"{last.action}: {last.reason}",
            )
        ],
    )


@dg.asset(
    group_name="evaluation",
    deps=[
        dg.AssetDep("deer_matches", partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep("finetuned_embeddings"),
    ],
    kinds={"postgres"},
    description="Two releases side by side on the same new encounters, as far as people have said who they show; of a "
    "recipe that this run has trained, its figures beside those before it.",
)
def ab_report(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: an encounter that both releases decided."""
    trained = comparison_of_run(site.site, context.run_id)
    offline = {"fine_tuned_beside_the_others": dg.MetadataValue.md(comparison_table(trained))} if trained else {}
    if newest_test(site.site) is None:
        in_words = "No A/B test on new encounters was started yet."
        return dg.MaterializeResult(metadata={"encounters": 0, "in_words": in_words, **offline})
    found = compare_arms(site.site, run_id=context.run_id)
    comparison = found.comparison
    return dg.MaterializeResult(
        metadata={
            **offline,
            "test": found.test.test,
            "running": found.test.running,
            "encounters": comparison.encounters,
            "with_truth": comparison.with_truth,
            "agreement": comparison.agreement.value if comparison.encounters else 0.0,
            "figures": estimate_lines(
                {
                    "agreement": comparison.agreement,
                    **{f"right, release {arm}": item for arm, item in comparison.right.items()},
                    **{f"wrong name, release {arm}": item for arm, item in comparison.wrong.items()},
                }
            ),
        }
    )
