"""Calibrators against closed forms and independent fits, and the rules that none may break."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize
from scipy.special import betaln, expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from deer_reid_pipeline.reid import calibration
from deer_reid_pipeline.reid.calibration import fit, fit_fusion, folds_of, sighting_weights
from deer_reid_pipeline.reid.calibrators import Beta, CalibratedFusion, Calibrator, Isotonic, Platt

GRID = np.linspace(-1, 1, 201)


def world(seed: int, true: int, false: int, apart: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines of true and false pairs, whether true, and each pair's individual (five true pairs each)."""
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(apart, 0.15, true), rng.normal(0, 0.15, false)].clip(-1, 1)
    same = np.arange(true + false) < true
    return scores, same, np.r_[np.arange(true) // 5, rng.integers(0, max(true // 5, 1), false)]


def test_platt_is_the_maximum_of_platts_likelihood() -> None:
    scores, same, groups = world(0, 60, 500)
    targets = np.where(same, 13 / 14, 1 / 502)  # 12 individuals have true pairs

    def surprise(line: np.ndarray) -> float:
        p = expit(line[0] * scores + line[1])
        return -float(np.sum(targets * np.log(p) + (1 - targets) * np.log(1 - p)))

    slope, intercept = minimize(surprise, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}).x
    found = fit(scores, same, "platt", groups=groups)
    assert isinstance(found, Platt)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept), rel=2e-3)


@pytest.mark.parametrize("scale", ["cosine", "probability"])
def test_beta_finds_the_likelihood_ratio_of_two_beta_distributions(scale: str) -> None:
    """Shares from Beta(5, 2) and Beta(2, 4) have log-odds 3 ln u - 2 ln(1 - u) + c; Kull et al. 2017, section 3."""
    rng = np.random.default_rng(1)
    shares = np.r_[rng.beta(5, 2, 30_000), rng.beta(2, 4, 60_000)]
    same = np.arange(90_000) < 30_000
    found = fit(2 * shares - 1 if scale == "cosine" else shares, same, "beta", scale=scale)  # type: ignore[arg-type]
    assert isinstance(found, Beta)
    assert (found.a, found.b) == pytest.approx((3, 2), abs=0.2)
    u = np.linspace(0.1, 0.9, 17)
    exact = 3 * np.log(u) - 2 * np.log(1 - u) + betaln(2, 4) - betaln(5, 2) + np.log(1 / 2)
    np.testing.assert_allclose(found.log_odds(2 * u - 1 if scale == "cosine" else u), exact, atol=0.2)


def test_isotonic_pools_what_does_not_rise() -> None:
    """By hand: 0.3 and 0.2 are out of order, as are 0.6 and 0.5; each pair is pooled to one half."""
    scores = np.array([0.1, 0.2, 0.3, 0.5, 0.6, 0.7])
    found = fit(scores, np.array([0, 1, 0, 1, 0, 1], dtype=bool), "isotonic", groups=np.arange(6))
    np.testing.assert_allclose(found(scores), [0.2, 0.5, 0.5, 0.5, 0.5, 0.8])  # ends: 1 / (3 + 2), (3 + 1) / (3 + 2)


def test_isotonic_equals_scikit_learn_between_its_ends() -> None:
    scores, same, groups = world(2, 300, 700)
    found = fit(scores, same, "isotonic", groups=groups)
    reference = IsotonicRegression(out_of_bounds="clip").fit(scores, same).predict(GRID)
    np.testing.assert_allclose(found(GRID), reference.clip(1 / 702, 61 / 62), atol=1e-12)


def test_isotonic_of_very_many_pairs_stays_small() -> None:
    rng = np.random.default_rng(3)
    scores = rng.uniform(-1, 1, 60_000)
    same = rng.random(60_000) < expit(3 * scores)
    found = fit(scores, same, "isotonic")
    assert isinstance(found, Isotonic)
    assert len(found.scores) <= calibration.MOST_KNOTS
    np.testing.assert_allclose(found(GRID[5:-5]), expit(3 * GRID[5:-5]), atol=0.05)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["platt", "beta", "isotonic"]), st.floats(-0.5, 0.8))
def test_no_calibrator_ever_falls(seed: int, kind: str, apart: float) -> None:
    scores, same, groups = world(seed, 40, 120, apart)
    found = fit(scores, same, kind, groups=groups)  # type: ignore[arg-type]
    said = found(GRID)
    assert np.all(np.diff(said) >= 0)
    assert np.all((said >= 0) & (said <= 1))
    middle = np.abs(found.log_odds(GRID)) < 20
    np.testing.assert_allclose(found.log_odds(GRID)[middle], logit(said[middle]), atol=1e-5)


@pytest.mark.parametrize("kind", ["platt", "beta"])
def test_scores_that_point_the_wrong_way_say_nothing(kind: str) -> None:
    scores, same, groups = world(4, 50, 450, apart=-0.3)
    said = fit(scores, same, kind, groups=groups)(GRID)  # type: ignore[arg-type]
    assert np.ptp(said) < 1e-12
    assert said[0] == pytest.approx((50 * 11 / 12 + 450 / 452) / 500)


@pytest.mark.parametrize(
    ("true", "each", "false", "kind"),
    [
        (1000, 10, 40_000, "isotonic"),
        (1000, 10, 60_000, "beta"),  # 1.6 % true
        (1000, 20, 1000, "beta"),  # 50 individuals
        (999, 5, 1000, "beta"),
        (100, 3, 1000, "beta"),
        (99, 3, 1000, "platt"),
        (100, 4, 1000, "platt"),  # 25 individuals
    ],
)
def test_the_kind_is_chosen_by_true_pairs_and_individuals(true: int, each: int, false: int, kind: str) -> None:
    scores, same, _ = world(5, true, false)
    groups = np.r_[np.arange(true) // each, np.zeros(false, dtype=np.int64)]
    assert fit(scores, same, groups=groups).kind == kind


def test_certainty_is_limited_by_individuals_and_not_by_pairs() -> None:
    """Perfectly separated: 2,000 true pairs of 8 individuals support no more than 9/10 on average."""
    rng = np.random.default_rng(6)
    scores = np.r_[rng.uniform(0.8, 1.0, 2000), rng.uniform(-0.5, 0.2, 20_000)]
    same = np.arange(22_000) < 2000
    found = fit(scores, same, "platt", groups=np.arange(22_000) % 8)
    assert found(scores[same]).mean() == pytest.approx(0.9, abs=0.005)
    assert found(scores[~same]).max() < 0.01


def test_true_pairs_weigh_one_over_the_root_of_their_number() -> None:
    same = np.array([1, 1, 1, 1, 1, 0, 0], dtype=bool)
    weights = sighting_weights(same, np.array([3, 3, 3, 3, 7, 3, 9]))
    np.testing.assert_allclose(weights, [5 / 6, 5 / 6, 5 / 6, 5 / 6, 5 / 3, 1, 1])
    assert sighting_weights(np.zeros(2, dtype=bool), np.array([0, 1])).tolist() == [1, 1]


def test_a_fit_on_drawn_impostors_is_that_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, same, groups = world(7, 400, 30_000)
    whole = fit(scores, same, "platt", groups=groups)
    monkeypatch.setattr(calibration, "MOST_IMPOSTORS", 5000)
    drawn = fit(scores, same, "platt", groups=groups)
    np.testing.assert_allclose(drawn(GRID[80:140]), whole(GRID[80:140]), atol=0.02)
    assert drawn != whole


def test_individuals_are_never_split_between_folds() -> None:
    same = np.array([1, 0, 1, 0, 1, 0, 0, 0], dtype=bool)
    groups = np.array([5, 5, 2, 2, 9, 9, 4, 8])
    part = folds_of(same, groups, 3)
    assert {tuple(part[groups == code]) for code in (5, 2, 9)} == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize("kind", ["platt", "beta", "isotonic"])
def test_everything_survives_json_exactly(kind: str) -> None:
    scores, same, groups = world(8, 100, 900)
    found = fit(scores, same, kind, groups=groups)  # type: ignore[arg-type]
    again = TypeAdapter(Calibrator).validate_python(json.loads(json.dumps(found.model_dump(mode="json"))))
    assert again == found
    assert np.array_equal(again(GRID), found(GRID))
    fusion = fit_fusion({"a": scores, "b": scores**3}, same, groups, kind=kind)  # type: ignore[arg-type]
    dumped = json.dumps(fusion.model_dump(mode="json"))
    assert CalibratedFusion.model_validate(json.loads(dumped)) == fusion
    assert len(dumped) < 20_000


def test_float32_near_one_loses_nothing_and_nan_stays_nan() -> None:
    close = np.float32([0.5, 0.999, 0.9999, np.nan])
    for found in (Beta(a=2.0, b=1.5, c=-1.0), Platt(slope=4.0, intercept=-2.0)):
        said = found.log_odds(close)
        assert said.dtype == np.float32
        np.testing.assert_allclose(said, found.log_odds(close.astype(np.float64)), rtol=1e-4)
        assert np.isnan(said[-1])
        assert np.isfinite(found.log_odds(np.array([-1.0, 1.0]))).all()


def test_knots_that_fall_or_reach_certainty_are_refused() -> None:
    for scores, heights in (((0.1, 0.1), (0.2, 0.3)), ((0.1, 0.2), (0.4, 0.3)), ((0.1, 0.2), (0.0, 0.3)), ((0.1,), ())):
        with pytest.raises(ValidationError):
            Isotonic(scores=scores, probabilities=heights)


def test_what_cannot_be_fitted_is_refused() -> None:
    scores, same, _ = world(9, 20, 80)
    with pytest.raises(ValueError, match="both needed"):
        fit(scores, np.zeros(100, dtype=bool))
    with pytest.raises(ValueError, match="both needed"):
        fit(scores, np.ones(100, dtype=bool))
    with pytest.raises(ValueError, match="differ in length"):
        fit(scores[:-1], same)
    with pytest.raises(ValueError, match="not finite"):
        fit(np.where(same, scores, np.nan), same)
    with pytest.raises(ValueError, match="1 individuals have true pairs"):
        fit_fusion({"a": scores}, same, np.zeros(100, dtype=np.int64))


def two_branches(seed: int, count: int = 40_000) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Independent Gaussian branches of different spread; their exact P(same) by Bayes' rule."""
    rng = np.random.default_rng(seed)
    same = rng.random(count) < 0.1
    wide, narrow = rng.normal(0.2 * same, 0.2), rng.normal(0.8 + 0.03 * same, 0.02)
    log_odds = (0.2 * wide - 0.02) / 0.04 + (0.03 * (narrow - 0.8) - 0.00045) / 0.0004 + np.log(1 / 9)
    return {"wide": wide, "narrow": narrow}, same, rng.integers(0, 200, count), expit(log_odds)


def test_fusion_finds_bayes_rule_whatever_the_spread_of_a_branch() -> None:
    similarities, same, groups, _ = two_branches(10)
    for kind in ("platt", "beta"):
        fusion = fit_fusion(similarities, same, groups, kind=kind, weights=np.ones(len(same)))  # type: ignore[arg-type]
        fresh, _, _, truth = two_branches(11)
        assert np.abs(fusion(fresh) - truth).mean() < 0.01
    weighted_sum = 0.6 * fresh["narrow"] + 0.4 * fresh["wide"]
    assert np.corrcoef(weighted_sum, truth)[0, 1] < np.corrcoef(fusion(fresh), truth)[0, 1] - 0.1


def test_a_branch_of_noise_gains_no_weight_by_being_flexible() -> None:
    """Isotonic curves fit noise; seen on the pairs they were fitted on, they would look informative."""
    rng = np.random.default_rng(12)
    scores, same, groups = world(13, 1000, 3000)
    noise = rng.normal(0, 0.15, 4000)
    fusion = fit_fusion({"good": scores, "noise": noise}, same, groups, kind="isotonic")
    assert fusion.coefficients["noise"] < 0.15 * fusion.coefficients["good"]
    seen = np.c_[[fit(x, same, "isotonic", groups=groups).log_odds(x) for x in (scores, noise)]].T
    good, fooled = LogisticRegression(C=1e6).fit(seen, same).coef_[0]
    assert fooled > 0.5 * good


def test_fusion_is_elementwise_and_rises_with_every_branch() -> None:
    similarities, same, groups, _ = two_branches(14, 5000)
    fusion = fit_fusion(similarities, same, groups)
    matrix = {branch: values[:600].reshape(20, 30).astype(np.float32) for branch, values in similarities.items()}
    said = fusion(matrix)
    assert (said.shape, said.dtype) == ((20, 30), np.float32)
    np.testing.assert_allclose(said.ravel(), fusion({b: v[:600] for b, v in similarities.items()}), atol=1e-4)
    for branch in matrix:
        assert np.all(fusion(matrix | {branch: matrix[branch] + np.float32(0.01)}) >= said)
    with pytest.raises(ValueError, match="no similarities for branch wide"):
        fusion({"narrow": matrix["narrow"]})
    with pytest.raises(ValueError, match="differ in shape"):
        fusion({"narrow": matrix["narrow"], "wide": matrix["wide"][:1]})


def test_coefficients_and_calibrators_must_name_the_same_branches() -> None:
    with pytest.raises(ValidationError, match="different branches"):
        CalibratedFusion(branches={"a": Platt(slope=1.0, intercept=0.0)}, coefficients={"b": 1.0}, intercept=0.0)
    with pytest.raises(ValidationError):
        CalibratedFusion(branches={"a": Platt(slope=1.0, intercept=0.0)}, coefficients={"a": -1.0}, intercept=0.0)
