"""`false_positive_report`: the day's matches, what of them is implausible, and how often the live matcher is wrong."""

from datetime import date

import dagster as dg

from deer_reid_pipeline.defs.metadata import columns, picture
from deer_reid_pipeline.defs.monitoring.partitions import daily_partitions
from deer_reid_pipeline.defs.resources import SiteResource
from deer_reid_pipeline.steps.monitoring import report_day
from deer_reid_pipeline.steps.monitoring_files import RULE_NAMES
from deer_reid_pipeline.steps.monitoring_plots import recent_plot
from deer_reid_pipeline.steps.monitoring_report import INCONCLUSIVE, PASS, MonitoringReport
from deer_reid_pipeline.steps.summary import markdown_text

MOST_FLAGS = 50
MOST_IN_A_CHECK = 3


@dg.asset(
    partitions_def=daily_partitions,
    group_name="monitoring",
    # A day's decisions may come from any drop.
    deps=[dg.AssetDep("deer_matches", partition_mapping=dg.AllPartitionMapping())],
    kinds={"postgres"},
    description="One day's machine matches: which are implausible, which to review, and the share of false ones.",
    check_specs=[
        dg.AssetCheckSpec(
            "no_implausible_matches",
            asset="false_positive_report",
            description="No match of the day contradicts another sighting; `flags` lists those that do.",
        ),
        dg.AssetCheckSpec(
            "reviewed_false_match_rate_within_bound",
            asset="false_positive_report",
            description="At most 5 % of the matches of the last 30 days are false, with 95 % confidence, by what "
            "people said in reviews. Too few reviews to tell is a warning.",
        ),
    ],
)
def false_positive_report(context: dg.AssetExecutionContext, site: SiteResource) -> dg.MaterializeResult:
    """One row: a flag of the day. A day that was missed is reported by a backfill of its partition."""
    report = report_day(site.site, date.fromisoformat(context.partition_key), context.run_id)
    rate = report.rate
    measured: dict[str, float] = {"false_match_rate": rate.value} if rate.reviewed else {}
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(report.flags),
            "matched": report.matched,
            "new_individuals": report.outcomes.get("new_individual", 0),
            "uncertain": report.outcomes.get("uncertain", 0),
            "matches_above_0.50": len(report.similar),
            "drawn_for_review": report.sampled,
            "to_review": len(report.to_review),
            "verdict": report.verdict,
            "in_words": report.sentence,
            **measured,
            "false_match_rate_low": rate.low,
            "false_match_rate_high": rate.high,
            "reviewed": rate.reviewed,
            "flags": dg.MetadataValue.md(_flag_table(report)),
            "similarities": picture("similarities", recent_plot(report.recent), "No machine match in the last days."),
            "report": dg.MetadataValue.path(str(site.site.settings.home / report.folder / "monitoring.html")),
            "dagster/column_schema": columns(
                day="date: UTC day of deciding",
                rule="text: the rule that found it",
                encounter_id="uuid: the match to look at first",
                other_encounter_id="uuid: what it contradicts",
                decision_id="bigint: the decision in the log",
                deer_id="uuid: the individual",
                detail="text: the reason in words",
            ),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="no_implausible_matches",
                passed=not report.flags,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"flags": len(report.flags)},
                description=_first_flags(report),
            ),
            dg.AssetCheckResult(
                check_name="reviewed_false_match_rate_within_bound",
                passed=report.verdict == PASS,
                # Not knowing is not the same as knowing that it is wrong.
                severity=(
                    dg.AssetCheckSeverity.WARN if report.verdict == INCONCLUSIVE else dg.AssetCheckSeverity.ERROR
                ),
                metadata={"verdict": report.verdict, "reviewed": rate.reviewed, "low": rate.low, "high": rate.high},
                description=f"{report.verdict}: {report.sentence}",
            ),
        ],
    )


fp_monitoring_job = dg.define_asset_job(
    "fp_monitoring_job",
    selection=dg.AssetSelection.assets("false_positive_report"),
    partitions_def=daily_partitions,
    description="Look at one day's matches: implausible ones, a sample to review, the share of false ones.",
)


def _first_flags(report: MonitoringReport) -> str:
    """How many matches are implausible, and the first ones in words."""
    if not report.flags:
        return "nothing implausible"
    shown = " ".join(markdown_text(flag.text) for flag in report.flags[:MOST_IN_A_CHECK])
    return f"{len(report.flags)} implausible: {shown}"


def _flag_table(report: MonitoringReport) -> str:
    if not report.flags:
        return "nothing"
    lines = ["| rule | what |", "|---|---|"]
    lines += [f"| {RULE_NAMES[flag.rule]} | {markdown_text(flag.text)} |" for flag in report.flags[:MOST_FLAGS]]
    if len(report.flags) > MOST_FLAGS:
        lines.append(f"| and {len(report.flags) - MOST_FLAGS} more | |")
    return "\n".join(lines)
