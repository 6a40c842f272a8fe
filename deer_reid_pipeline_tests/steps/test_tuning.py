"""From labelled animals to a release: fitted, proposed, judged, promoted, each with a row that says so."""

from __future__ import annotations

import pytest

from deer_reid_pipeline.errors import DatabaseError, ReleaseError
from deer_reid_pipeline.steps import validation
from deer_reid_pipeline.steps.judging import act_on_verdict, candidate_to_judge, judge
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.releases import promote, rollback, status
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.tuning import fit_release, propose_fit
from deer_reid_pipeline_tests.labelled_rows import store_shots
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.test_validation import herd, looks, without_animals


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """These animals have vectors and no pictures, so that the background is made up too."""
    monkeypatch.setattr(validation, "made_backgrounds", without_animals)


def labelled_home(site: Site, signal: float, individuals: int = 80, encounters: int = 4) -> Site:
    shots = herd(individuals=individuals, encounters=encounters, seed=3)
    recipe = site.matcher().recipe
    store_shots(site, shots, recipe.id, looks(shots, signal=signal, seed=3))
    update_profiles(site, recipe)
    return site


def test_a_fit_that_names_more_animals_becomes_live_on_its_report(site: Site) -> None:
    # Similarity of true pairs about 0.7: the first policy (0.90) names hardly anybody, a fitted one nearly all.
    labelled_home(site, signal=1.5)
    first = site.matcher()
    fitted = fit_release(site, run_id="fit-run")
    proposed = propose_fit(site, fitted.report)
    assert proposed.candidate is not None
    assert candidate_to_judge(site, "fit-run") == candidate_to_judge(site, "another") == proposed.candidate
    assert site.matcher().policy == first.policy, "proposing must not change what matches"
    with pytest.raises(ReleaseError, match="no validation report"):
        promote(site, proposed.candidate, backup=False)

    found = judge(site, candidate=proposed.candidate)
    assert found.result.verdict.verdict == "PASS", found.result.verdict.reasons
    assert found.result.live_verdict.verdict != "PASS"
    row = query(site, "SELECT * FROM reports WHERE id = :id", id=found.report)[0]
    assert (row.kind, row.verdict, row.release_id, row.candidate_id) == ("validation", "PASS", 1, proposed.candidate)
    assert (site.settings.home / row.folder / "report.html").is_file()
    assert row.data_digest == found.result.data_digest

    change = promote(site, proposed.candidate, backup=False)
    assert change.report == found.report
    assert candidate_to_judge(site, "another") is None
    live = site.matcher()
    assert live.release_id == proposed.candidate
    assert live.policy.threshold < first.policy.threshold
    assert live.policy.odds is not None
    assert live.policy.false_positive_bound == 0.05
    event = query(site, "SELECT * FROM release_events ORDER BY id DESC LIMIT 1")[0]
    assert (event.action, event.verdict, event.forced, event.report_id) == ("promoted", "PASS", False, found.report)

    again = judge(site)
    assert again.result.verdict.verdict == "PASS", again.result.verdict.reasons
    assert again.result.metrics["fpir"].high <= 0.05
    assert again.result.metrics["fnir"].value < 0.2
    rollback(site, reason="back to the first")
    assert site.matcher().policy == first.policy
    released = status(site)
    assert released.live is not None
    assert (released.live.release, released.live.trusted) == (1, found.result.live_verdict.verdict)
    text = next((site.settings.home / "reports" / "tuning").glob("*/tuning_report.txt")).read_text()
    assert all(f"{first:.2f} multiscale" in text for first in (0.5, 0.6, 0.7, 0.8)), "the owner's table is not there"


def test_noise_is_never_promoted(site: Site) -> None:
    labelled_home(site, signal=0.0)
    proposed = propose_fit(site, fit_release(site).report)
    assert proposed.candidate is not None
    found = judge(site, candidate=proposed.candidate)
    assert found.result.verdict.verdict != "PASS"
    with pytest.raises(ReleaseError, match=r"says (FAIL|INCONCLUSIVE)"):
        promote(site, proposed.candidate, backup=False)
    assert site.matcher().release_id == 1


def test_too_few_animals_give_thresholds_that_never_name(site: Site) -> None:
    labelled_home(site, signal=8.0, individuals=20)
    proposed = propose_fit(site, fit_release(site).report)
    assert proposed.summary["policy"]["threshold"] == 1.0
    assert any("it takes 59 without an error" in line for line in proposed.summary["rationale"])


def test_without_labelled_animals_there_is_no_candidate(site: Site) -> None:
    site.matcher()
    with pytest.raises(DatabaseError, match="nothing was fitted yet"):
        propose_fit(site)
    fitted = fit_release(site)
    assert fitted.tuned is None
    proposed = propose_fit(site, fitted.report)
    assert proposed.candidate is None
    assert "individualID" in proposed.reason
    found = judge(site)
    assert found.result.verdict.verdict == "INCONCLUSIVE"
    assert "No embedded detection was identified by a person" in found.result.verdict.reasons[0]


def test_the_same_fit_is_proposed_once(site: Site) -> None:
    labelled_home(site, signal=3.0, individuals=30, encounters=3)
    first = propose_fit(site, fit_release(site).report)
    second = propose_fit(site, fit_release(site).report)
    assert first.candidate == second.candidate
    assert len(status(site).candidates) == 1


def test_only_what_a_run_has_judged_itself_is_promoted(site: Site) -> None:
    labelled_home(site, signal=1.5)
    left = propose_fit(site, fit_release(site, run_id="one").report, "one").candidate
    assert left is not None
    assert judge(site, candidate=left, run_id="one").result.verdict.verdict == "PASS"
    assert act_on_verdict(site, "two", backup=False).change is None, "another run's PASS was acted upon"
    judge(site, run_id="three")
    assert act_on_verdict(site, "three", backup=False).change is None
    assert site.matcher().release_id == 1
    done = act_on_verdict(site, "one", backup=False)
    assert done.change is not None
    assert site.matcher().release_id == left
    again = act_on_verdict(site, "one", backup=False)
    assert again.change is None, "a refusal must not fail the run"
    assert "live already" in again.reason
