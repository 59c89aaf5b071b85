"""Guarantees of random coefficients: by hand, attained by the posterior mean, and in trials."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import draw

import colora_theory as ct
from colora_theory.guarantees.empirical_bayes import prior_covariance, prior_variances, shrinkage, user_rows

get = ct.guarantees.get
BASE = ct.Problem(num_users=12, num_samples=15, dim_in=6, rank=2, noise_std=0.5)
MIXED = {
    "tilted": {"similarity_angle": 0.6},
    "dense": {"deviation": "dense", "deviation_norm": 0.7, "core_distribution": "unit"},
    "sparse": {"deviation": "sparse", "deviation_norm": 0.7, "deviation_level": 2},
    "two outputs": {"dim_out": 2, "rank": (2, 1), "similarity_angle": 0.5},
    "sensing": {"dim_out": 2, "rank": 1, "design": "sensing", "similarity_angle": 0.4, "num_samples": 20},
}


@pytest.mark.parametrize("fields", MIXED.values(), ids=MIXED)
def test_prior_moments_are_those_of_the_users(fields):
    """Second moments of many users around one U and V."""
    problem = BASE.replace(**fields, num_users=20_000)
    truth = ct.sample_truth(problem, np.random.default_rng(0))
    flat = truth.changes.reshape(20_000, -1)
    expected = prior_covariance(problem, truth)
    np.testing.assert_allclose(flat.T @ flat / 20_000, expected, atol=6 * np.abs(expected).max() / np.sqrt(20_000))
    values = [variance for variance, size in prior_variances(problem) for _ in range(size)]
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(expected), atol=1e-12)


def test_bayes_level_by_hand():
    level = get("bayes_level")
    assert level.value(BASE) == pytest.approx(12 * 2 / (15 / 0.25 + 2))
    assert level.value(BASE) == pytest.approx(get("genie_known_subspace").value(BASE))
    truth, data = draw(BASE, 0)
    assert level.value(BASE, truth=truth, data=data) == pytest.approx(
        get("genie_known_subspace").value(BASE, truth=truth, data=data)
    )
    everywhere = BASE.replace(deviation="dense", deviation_norm=np.sqrt(6.0), signal_norm=0.0)
    assert level.value(everywhere) == pytest.approx(12 * 6 / (15 / 0.25 + 1))


@pytest.mark.parametrize("fields", MIXED.values(), ids=MIXED)
def test_posterior_means_attain_the_level(fields):
    """Average over users and noise of the posterior mean's error: the level, neither below nor above."""
    problem = BASE.replace(**fields, num_users=400)
    gaps = []
    for seed in range(10):
        truth, data = draw(problem, seed)
        risk = get("posterior_risk").observed(problem, truth, data, None)
        gaps.append(risk / get("bayes_level").value(problem, truth=truth, data=data) - 1.0)
    assert abs(np.mean(gaps)) <= 5 * np.std(gaps, ddof=1) / np.sqrt(10)
    assert abs(np.mean(gaps)) <= 0.05


@pytest.mark.parametrize("name", ["posterior_risk", "stein_ellipsoid", "bayes_level"])
@pytest.mark.parametrize("fields", [MIXED["tilted"], MIXED["sensing"]])
def test_in_trials(name, fields):
    assert ct.testing.assert_guarantee(name, BASE.replace(**fields), trials=100).status in (
        "holds",
        "inconclusive",
    )


def test_stein_ellipsoid_is_sharp():
    """On its border the least eigenvalue of the difference of the error matrices is zero."""
    truth, data = draw(BASE.replace(similarity_angle=0.6), 1)
    prior, rows = prior_covariance(BASE.replace(similarity_angle=0.6), truth), user_rows(data, 0)[0]
    local = 0.25 * np.linalg.inv(rows.T @ rows)
    gain = shrinkage(rows, prior, 0.25)[1]
    direction = np.random.default_rng(0).standard_normal(6)
    for stretch, sign in ((0.999, 1), (1.001, -1)):
        w = stretch * direction / np.sqrt(direction @ np.linalg.solve(2 * prior + local, direction))
        left = np.eye(6) - gain @ rows
        difference = local - 0.25 * gain @ gain.T - left @ np.outer(w, w) @ left.T
        assert np.sign(np.linalg.eigvalsh(difference)[0]) == sign


def test_coverage_in_trials():
    problem = ct.Problem(num_users=40, num_samples=40, dim_in=10, rank=2, noise_std=0.3, similarity_angle=0.2)
    for estimator in ("hierarchical", "full_finetuning"):
        verdict = ct.testing.assert_guarantee("interval_coverage", problem, estimator=estimator, trials=25)
        assert verdict.status in ("holds", "inconclusive")
    with pytest.raises(AssertionError):
        ct.testing.assert_guarantee(
            "interval_coverage", problem, estimator="altmin", params={"rank": 2}, trials=25
        )
