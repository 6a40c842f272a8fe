"""Fast mode: the multi-scale branch decides alone; the second network sees what stands for an individual only."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import BASELINE, BRANCHES, EFFICIENTNET, MULTISCALE
from deer_reid_pipeline.steps import ab, matches, nightly, releases, validation
from deer_reid_pipeline.steps.checks import check_profiles
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.judging import judge
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.policies import ENHANCED, FAST, first_policy, starting_from
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import load_truth
from deer_reid_pipeline.steps.tuning import fit_release, propose_fit
from deer_reid_pipeline.store.profiles import stale_profiles
from deer_reid_pipeline_tests.sites import part_of_herd, query, read_table, run_all
from deer_reid_pipeline_tests.steps.test_profiles import up_to_matching
from deer_reid_pipeline_tests.steps.test_releases import registered, squashed, validated
from deer_reid_pipeline_tests.steps.test_tuning import labelled_home
from deer_reid_pipeline_tests.steps.test_validation import without_animals

ABSTAINING = MatchPolicy(threshold=0.99, new_below=-1.0, weights={MULTISCALE: 1.0})
OPENING = ABSTAINING.model_copy(update={"new_below": 0.99})
NAMING = ABSTAINING.model_copy(update={"threshold": -1.0})


def make_live(site: Site, policy: MatchPolicy) -> int:
    """A release of the live recipe with this policy, promoted as after a PASS."""
    matcher = site.matcher()
    number = releases.propose(site, matcher.recipe.id, FittedPolicy(policy=policy), "tried in a test")
    validated(site, number, against=matcher.release_id)
    releases.promote(site, number, backup=False)
    return number


def _now() -> datetime:
    return datetime.now(UTC)


def branches_of(site: Site, key: str) -> dict[str, int]:
    """Vectors of a drop's detections by branch."""
    rows = query(
        site,
        "SELECT branch, count(*) FROM embeddings e JOIN detections d ON d.id = e.detection_id "
        "JOIN drop_media m ON m.image_id = d.image_id WHERE m.drop_key = :key GROUP BY branch",
        key=key,
    )
    return dict(map(tuple, rows))


def test_new_pictures_are_matched_without_the_second_network(site: Site, named: Path, unnamed: Path) -> None:
    run_all(site, named)
    make_live(site, ABSTAINING)
    assert "fast mode" in site.matcher().describe()
    key, summary = run_all(site, unnamed)
    found = branches_of(site, key)
    assert set(found) == {BASELINE, MULTISCALE}
    assert found[BASELINE] == found[MULTISCALE] > 0
    assert summary.uncertain == summary.encounters > 0
    candidates = query(site, "SELECT candidates FROM match_decisions WHERE drop_key = :key", key=key)
    assert all(listed for (listed,) in candidates)
    assert nightly.reembedding(site, _now(), _now()).needed is False


def test_what_opens_an_individual_gets_all_branches(site: Site, named: Path, unnamed: Path) -> None:
    run_all(site, named)
    make_live(site, OPENING)
    key, summary = run_all(site, unnamed)
    assert summary.new > 0
    of_each = query(
        site,
        "SELECT d.deer_id IS NOT NULL AS opened, count(*) FROM embeddings e JOIN detections d ON d.id = e.detection_id "
        "JOIN drop_media m ON m.image_id = d.image_id WHERE m.drop_key = :key GROUP BY d.id",
        key=key,
    )
    assert {tuple(row) for row in of_each} <= {(True, 3), (False, 2)}
    assert (True, 3) in of_each
    assert check_profiles(site).without_vectors == []
    assert releases.status(site).live.individuals_lacking == 0  # type: ignore[union-attr]


def test_what_the_machine_matched_is_no_evidence_and_stays_as_it_is(site: Site, named: Path, unnamed: Path) -> None:
    run_all(site, named)
    make_live(site, NAMING)
    key, summary = run_all(site, unnamed)
    assert summary.matched > 0
    assert EFFICIENTNET not in branches_of(site, key)
    assert nightly.reembedding(site, _now(), _now()).needed is False
    assert releases.status(site).live.individuals_lacking == 0  # type: ignore[union-attr]


def test_overriding_settings_do_not_change_what_is_embedded(site: Site, named: Path, unnamed: Path) -> None:
    run_all(site, named)
    make_live(site, ABSTAINING)
    site.settings = site.settings.model_copy(update={"use_enhanced_reid": False, "reid_threshold": -1.0})
    assert site.matcher().overrides
    key, summary = run_all(site, unnamed)
    assert summary.matched > 0
    assert set(branches_of(site, key)) <= {BASELINE, MULTISCALE}


def test_what_was_embedded_in_fast_mode_can_be_matched_after_a_rollback(site: Site, named: Path, unnamed: Path) -> None:
    run_all(site, named)
    make_live(site, ABSTAINING)
    key = register_drop(site, unnamed, "auto").key
    store_images(site, key)
    store_detections(site, key)
    recipe = site.matcher().recipe
    embed_drop(site, recipe, key, branches=site.needed_branches(recipe.id))
    releases.rollback(site, reason="while the drop was at work")
    assert match_drop(site, site.matcher(), key).decided > 0
    found = branches_of(site, key)
    assert found[EFFICIENTNET] == found[MULTISCALE]


def test_everything_made_again_is_made_of_all_branches(site: Site, named: Path, unnamed: Path) -> None:
    run_all(site, named)
    make_live(site, ABSTAINING)
    run_all(site, unnamed)
    with site.database.session() as session:
        session.execute(text("UPDATE embeddings SET created_at = '2020-01-01'"))
    recipe = site.matcher().recipe
    update_profiles(site, recipe, again=True, backlog=True, branches=site.needed_branches(recipe.id))
    kept = query(site, "SELECT count(*) FROM embeddings WHERE created_at < '2021-01-01'")
    assert kept[0][0] == 0


def without_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a run is killed right after deciding."""
    monkeypatch.setattr(matches, "embed_evidence", lambda *_: [])


def test_an_individual_whose_pictures_are_lost_before_it_has_a_profile_holds_nobody_up(
    site: Site, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**row, "individualID": ""} for row in read_table(named / "observations.csv")]
    make_live(site, OPENING)
    with monkeypatch.context() as killed:
        without_evidence(killed)
        up_to_matching(site, part_of_herd(named, named.parent / "lost", rows[:3]))
    assert query(site, "SELECT count(*) FROM deer")[0][0] > 0
    shutil.rmtree(site.settings.crops_dir)
    for path in (*named.parent.glob("lost/**/*.jpg"), *site.settings.home.glob("**/*.jpg")):
        path.unlink()
    report = update_profiles(site, site.matcher().recipe, branches=site.needed_branches(site.matcher().recipe.id))
    assert report.embedded == 0
    with site.database.session() as session:
        assert stale_profiles(session, site.matcher().recipe.id, live=True) == []
    assert check_profiles(site).without_vectors == []
    assert "profiles are behind" not in nightly.reembedding(site, _now(), _now()).reason


def test_a_fast_release_in_an_ab_test_knows_whom_the_live_one_opened(site: Site, named: Path, herd: Path) -> None:
    run_all(site, named)
    live = site.matcher()
    with site.database.session() as session:
        session.execute(text("""UPDATE releases SET policy = policy || '{"new_below": 0.89}' WHERE live"""))
    recipe = registered(site, squashed(live.recipe))
    update_profiles(site, recipe)
    other = releases.propose(site, recipe.id, FittedPolicy(policy=ABSTAINING), "fast, to be tried")
    ab.start(site, other, share_b=1e-9, share_all=1.0, reason="fast beside enhanced")  # all by the live one
    unnamed = [{**row, "individualID": ""} for row in read_table(herd / "observations.csv") if not row["individualID"]]
    run_all(site, part_of_herd(herd, named.parent / "one", unnamed[: len(unnamed) // 2]))
    opened = {key for (key,) in query(site, "SELECT id FROM deer WHERE identified_by = 'machine'")}
    assert opened
    run_all(site, part_of_herd(herd, named.parent / "two", unnamed[len(unnamed) // 2 :]))
    known = {
        key
        for (key,) in query(site, "SELECT DISTINCT deer_id FROM profiles WHERE recipe_id = :recipe", recipe=recipe.id)
    }
    assert opened <= known


def test_whoever_was_opened_by_a_run_that_was_killed_is_known_to_the_next(
    site: Site, named: Path, herd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**row, "individualID": ""} for row in read_table(named / "observations.csv")]
    make_live(site, OPENING)
    with monkeypatch.context() as killed:
        without_evidence(killed)
        up_to_matching(site, part_of_herd(herd, named.parent / "first", rows[: len(rows) // 2]))
    opened = query(site, "SELECT id FROM deer")
    assert opened
    assert query(site, "SELECT count(*) FROM profiles")[0][0] == 0
    assert query(site, "SELECT count(*) FROM embeddings WHERE branch = 'efficientnet'")[0][0] == 0
    assert nightly.reembedding(site, _now(), _now()).needed
    key = up_to_matching(site, part_of_herd(herd, named.parent / "second", rows[len(rows) // 2 :]))
    listed = query(site, "SELECT candidates FROM match_decisions WHERE drop_key = :key", key=key)
    known = {str(key) for (key,) in opened}
    assert known & {item["deer_id"] for (candidates,) in listed for item in candidates}
    profiled = {key for (key,) in query(site, "SELECT DISTINCT deer_id FROM profiles")}
    assert {key for (key,) in opened} <= profiled


def test_going_back_embeds_what_lacks_the_second_network_and_nothing_else(
    site: Site, named: Path, unnamed: Path
) -> None:
    run_all(site, named)
    make_live(site, ABSTAINING)
    key, _ = run_all(site, unnamed)
    before = query(site, "SELECT detection_id, branch, created_at FROM embeddings")
    releases.rollback(site, reason="both branches again")
    matcher = site.matcher()
    assert matcher.policy.needed_branches == BRANCHES
    decision = nightly.reembedding(site, _now(), _now())
    assert "detections lack vectors" in decision.reason
    report = update_profiles(site, matcher.recipe, backlog=True, branches=matcher.policy.needed_branches)
    found = branches_of(site, key)
    assert found[EFFICIENTNET] == found[MULTISCALE] == report.embedded
    assert set(before) < set(query(site, "SELECT detection_id, branch, created_at FROM embeddings"))


def test_pictures_named_afterwards_are_judged_on_all_branches(site: Site, named: Path, unnamed: Path) -> None:
    run_all(site, named)
    make_live(site, ABSTAINING)
    run_all(site, unnamed)
    recipe = site.matcher().recipe
    before = load_truth(site, recipe.id)
    with site.database.session() as session:
        told = session.execute(
            text(
                "UPDATE detections SET given_individual = 'Someone', classification_method = 'human' "
                "WHERE id IN (SELECT detection_id FROM embeddings GROUP BY 1 HAVING count(*) = 2) RETURNING id"
            )
        ).all()
    after = load_truth(site, recipe.id)
    assert after.without_vectors == len(told) > 0
    assert nightly.reembedding(site, _now(), _now()).needed
    update_profiles(site, recipe, branches=site.needed_branches(recipe.id))
    complete = load_truth(site, recipe.id)
    assert complete.without_vectors == 0
    assert len(complete.labelled) == len(before.labelled) + len(told)


def test_a_fit_in_fast_mode_is_judged_and_kept_until_somebody_wants_both(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "made_backgrounds", without_animals)
    labelled_home(site, signal=3.0)
    fitted = fit_release(site, mode=FAST)
    (text,) = (site.settings.home / "reports" / "tuning").glob("*/tuning_report.txt")
    assert "WHAT WAS CHOSEN" in text.read_text()
    assert "WEIGHTS" not in text.read_text()  # there is nothing to weigh
    proposal = propose_fit(site, fitted.report)
    assert proposal.candidate is not None
    found = judge(site, candidate=proposal.candidate)
    assert found.result.verdict.verdict == "PASS", found.result.verdict.reasons
    change = releases.promote(site, proposal.candidate, backup=False)
    live = site.matcher().policy
    assert change.release == proposal.candidate
    assert live.fast
    assert live.weights == {MULTISCALE: 1.0}
    again = fit_release(site)
    assert again.tuned is not None
    assert again.tuned.fitted.policy.fast
    both = fit_release(site, mode=ENHANCED)
    assert both.tuned is not None
    assert set(both.tuned.fitted.policy.branches) == {MULTISCALE, EFFICIENTNET}
    with pytest.raises(ValueError, match="'quick' is not a mode"):
        fit_release(site, mode="quick")


def test_a_fit_starts_from_what_is_live_where_mode_and_recipe_stay(site: Site) -> None:
    recipe = site.matcher().recipe
    live = MatchPolicy(threshold=0.5, new_below=0.1, weights={MULTISCALE: 0.75, EFFICIENTNET: 0.25}, sex_rule="off")
    assert starting_from(live, recipe, fast=False, fresh=False) is live
    assert starting_from(live, recipe, fast=False, fresh=True).weights == first_policy(recipe).weights
    fast = starting_from(live, recipe, fast=True, fresh=False)
    assert fast.fast
    assert fast.sex_rule == "off"
    assert starting_from(fast, recipe, fast=True, fresh=True) is fast
    assert starting_from(fast, recipe, fast=False, fresh=False).weights == first_policy(recipe).weights
