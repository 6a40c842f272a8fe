"""What a validation found, and how it is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation
from deer_reid_pipeline.reid.evaluation.gate import Verdict
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.steps.owner_criteria import Criterion
from deer_reid_pipeline.vision.recipe import Recipe


@dataclass(frozen=True)
class Subject:
    """What is judged: a release, or a recipe with the policy that it starts with.

    Attributes:
        release_id: None for a recipe that is not released.
    """

    recipe: Recipe
    fitted: FittedPolicy
    release_id: int | None

    def describe(self) -> str:
        """In words: the release, where there is one, and the recipe."""
        return f"release {self.release_id} ({self.recipe.id})" if self.release_id else f"recipe {self.recipe.id}"


@dataclass(frozen=True)
class ValidationResult:
    """Everything that a validation found.

    Attributes:
        made_at: UTC.
        live, candidate: what was judged; the candidate is None where none was asked for.
        live_evaluation, candidate_evaluation: None where there was too little data to judge anything.
        verdict: of the candidate where there is one, else of what is live.
        live_verdict: whether the identities of what is live can be trusted.
        owner: the owner's criteria, of the candidate where there is one.
        metrics: figures of the candidate where there is one, else of what is live; SPEC section 11's names.
        live_metrics: figures of what is live.
        differences: metric -> candidate minus live, paired.
        counts: individuals, encounters, detections and so on that were judged.
        data_digest: of the judged detections; equal digests mean equal data.
        remarks: what a reader must know: overrides in force, what was left out.
        seconds: how long it took.
        report: the page, once `steps.report` has written it.
    """

    made_at: datetime
    live: Subject
    candidate: Subject | None
    live_evaluation: Evaluation | None
    candidate_evaluation: Evaluation | None
    verdict: Verdict
    live_verdict: Verdict
    owner: tuple[Criterion, ...]
    metrics: Mapping[str, Estimate]
    live_metrics: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    counts: Mapping[str, int]
    data_digest: str
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    report: Path | None = None

    @property
    def judged(self) -> Subject:
        """The candidate where there is one, else what is live."""
        return self.candidate or self.live

    def with_report(self, path: Path) -> ValidationResult:
        """The same result, knowing where its page is."""
        return replace(self, report=path)

    def as_json(self) -> dict[str, Any]:
        """What `validate --json` prints; no NaN and no infinity."""
        return {
            "verdict": self.verdict.verdict,
            "reasons": list(self.verdict.reasons),
            "owner": [_finite(item.as_dict()) for item in self.owner],
            "metrics": {name: _finite(item.as_dict()) for name, item in self.metrics.items()},
            "recipe": self.judged.recipe.id,
            "report": str(self.report) if self.report is not None else None,
            "release": self.live.release_id,
            "candidate": self.candidate.release_id if self.candidate is not None else None,
            "compared_with": self.live.recipe.id if self.candidate is not None else None,
            "live_verdict": self.live_verdict.verdict,
            "differences": {name: _finite(item.as_dict()) for name, item in self.differences.items()},
            "counts": dict(self.counts),
            "data": self.data_digest,
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 2),
        }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
