"""`similarity_distribution` judges what is live as matching and `validate` do: by the release's policies."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.steps import similarity_distribution as step
from deer_reid_pipeline_tests.reid.worlds import herd

ALL = MatchPolicy(threshold=0.9, new_below=0.1, weights={"multiscale": 1.0})
WITHOUT = MatchPolicy(threshold=0.9, new_below=0.1, weights={"multiscale": 0.5})


@pytest.mark.parametrize(
    ("release", "overrides", "policy"), [(7, (), WITHOUT), (None, (), ALL), (7, ("MATCH_THRESHOLD",), ALL)]
)
def test_what_is_live_is_judged_by_the_policies_fitted_without_the_animal(
    monkeypatch: pytest.MonkeyPatch, release: int | None, overrides: tuple[str, ...], policy: MatchPolicy
) -> None:
    world = herd(1, individuals=6, encounters=3)
    labelled = world.labelled(world.vectors(0.5))
    labelled.vectors["baseline"] = labelled.vectors["multiscale"]  # type: ignore[index]
    fitted = FittedPolicy(policy=ALL, without=(WITHOUT, WITHOUT))
    monkeypatch.setattr(step, "load_labelled", lambda *_: labelled)
    monkeypatch.setattr(step, "get_release", lambda _, number: {7: fitted}[number])
    monkeypatch.setattr(step, "fitted_of", lambda found: found)
    matcher = SimpleNamespace(recipe=SimpleNamespace(id="r"), policy=ALL, release_id=release, overrides=overrides)
    site = SimpleNamespace(matcher=lambda: matcher, database=SimpleNamespace(session=nullcontext))

    found = step.similarity_distribution(site)  # type: ignore[arg-type]

    assert found.live is not None
    multiscale = found.spreads[1].mean_genuine.value
    assert found.live.mean_genuine.value == pytest.approx(multiscale * policy.weights["multiscale"], abs=1e-4)
    assert np.isfinite(multiscale)
