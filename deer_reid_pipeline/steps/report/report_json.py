"""The report for programs: what `validate --json` prints, and everything else that the page shows in numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.reid.evaluation.gate import Verdict
from deer_reid_pipeline.steps.report.measured import Judged
from deer_reid_pipeline.steps.validation import ValidationResult

Figures = dict[str, dict[str, Any]]


def report_json(result: ValidationResult, sides: tuple[Judged, ...], page: str) -> str:
    """The report as JSON text, without NaN and infinity.

    Args:
        page: name of the page's file, beside the JSON.
    """
    value = {
        **result.as_json(),
        "report": page,
        "made_at": result.made_at.isoformat(),
        "findings": _findings(result.verdict),
        "live_findings": _findings(result.live_verdict),
        **{f"{side.label}_figures": _side(side) for side in sides},
    }
    return json.dumps(value, ensure_ascii=True, indent=1, allow_nan=False, default=str) + "\n"


def _findings(verdict: Verdict) -> list[dict[str, Any]]:
    return [{"name": item.name, "ok": item.ok, "text": item.text} for item in verdict.findings]


def _side(side: Judged) -> dict[str, Any]:
    found = side.measured
    return {
        "recipe": side.evaluation.recipe_id,
        "policy": side.evaluation.policies.policy.model_dump(mode="json"),
        "individuals_made": side.evaluation.made,
        "individuals_true": side.evaluation.true,
        "metrics": _figures(found.figures),
        "leaky": _figures(found.leaky),
        "cross_flank": _figures(found.cross_flank),
        "control": None if found.control is None else _figures(found.control),
        "strata_rank1": {name: _figures(values) for name, values in found.strata.items()},
    }


def _figures(figures: Mapping[str, Estimate]) -> Figures:
    return {
        name: {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in item.as_dict().items()}
        for name, item in figures.items()
    }
