"""Metrics against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import draw

import colora_theory as ct
from colora_theory.estimators import Fit
from colora_theory.model import metrics


def fit_of(truth: ct.Truth, shift: float) -> Fit:
    """The truth itself with every weight's first entry shifted."""
    dense = truth.changes.copy()
    dense[:, 0, 0] += shift * np.arange(len(dense))
    return Fit(
        status="converged",
        dense=dense,
        pretrained=truth.pretrained,
        input_subspace=truth.input_subspace,
        output_subspace=truth.output_subspace,
    )


def test_every_metric_on_a_known_error() -> None:
    p = ct.Problem(num_users=4, num_samples=9, dim_in=5, dim_out=2, rank=2, pretrained_norm=1.0)
    truth, _ = draw(p, 0)
    got = metrics.evaluate(metrics.NAMES, p, truth, fit_of(truth, 0.5))
    total = 0.25 * (0 + 1 + 4 + 9)
    assert got["parameter_error"] == pytest.approx(total)
    assert got["prediction_risk"] == pytest.approx(total)
    assert got["mean_user_error"] == pytest.approx(total / 4)
    assert got["max_user_error"] == pytest.approx(0.25 * 9)
    assert got["relative_error"] == pytest.approx(math.sqrt(total / (truth.changes**2).sum()))
    assert got["subspace_distance"] < 1e-14
    assert got["subspace_distance_fro"] < 1e-14
    assert got["output_subspace_distance"] < 1e-14
    assert got["success"] == 1.0
    assert "sweeps" not in got
    assert all(metrics.describe(name) for name in metrics.NAMES)


def test_prediction_risk_is_the_risk_of_a_fresh_covariate() -> None:
    """Monte Carlo over fresh covariates, correlated design, intercepts unfitted."""
    p = ct.Problem(num_users=3, num_samples=9, dim_in=4, rank=2, covariates="ar1", intercept_std=1.0)
    truth, _ = draw(p, 1)
    fit = fit_of(truth, 0.7)
    fresh = ct.sample_data(p.replace(num_samples=200_000), truth, np.random.default_rng(0))
    loss = ((fresh.responses - fresh.covariates @ fit.weights) ** 2).sum((0, 2))
    risk = metrics.prediction_risk(p, truth, fit)
    assert abs(loss.mean() - risk) < 4.9 * loss.std() / math.sqrt(len(loss))


def test_methods_without_a_subspace_have_none() -> None:
    p = ct.Problem(num_users=4, num_samples=9, dim_in=5, rank=2)
    truth, _ = draw(p, 0)
    fit = Fit(status="converged", dense=truth.changes)
    got = metrics.evaluate(metrics.NAMES, p, truth, fit)
    assert got["success"] == 0.0
    assert all(
        math.isnan(got[n]) for n in ("subspace_distance", "subspace_distance_fro", "output_subspace_distance")
    )


def test_success_needs_both_subspaces() -> None:
    p = ct.Problem(num_users=4, num_samples=9, dim_in=5, dim_out=3, rank=2)
    truth, _ = draw(p, 0)
    other, _ = draw(p, 1)
    half = Fit(
        status="converged",
        dense=truth.changes,
        input_subspace=truth.input_subspace,
        output_subspace=other.output_subspace,
    )
    assert metrics.success(p, truth, half) == 0.0
    assert metrics.success(p.replace(noise_std=100.0), truth, half) == 1.0  # within the noise level


def test_fitted_intercepts_are_compared_with_the_true_ones() -> None:
    p = ct.Problem(num_users=3, num_samples=9, dim_in=4, rank=2, intercept_std=1.0)
    truth, _ = draw(p, 1)
    assert truth.intercepts is not None
    fit = Fit(status="converged", dense=truth.changes, intercepts=truth.intercepts + 0.5)
    assert metrics.prediction_risk(p, truth, fit) == pytest.approx(3 * 0.25)


def test_success_with_noise_allows_three_times_the_large_sample_level_and_no_more() -> None:
    """One direction of five, energy n Σ‖c_i‖²: level σ √(4/(n Σ‖c_i‖²)); either subspace can fail alone."""
    p = ct.Problem(num_users=4, num_samples=25, dim_in=5, dim_out=5, rank=1, noise_std=0.3)
    truth, _ = draw(p, 2)
    level = 0.3 * math.sqrt(4 / (25 * float((truth.cores**2).sum())))
    u, v = truth.input_subspace, truth.output_subspace

    def tilted(frame: np.ndarray, sine: float) -> np.ndarray:
        outside = np.linalg.svd(frame)[0][:, 1:2]
        return math.sqrt(1 - sine**2) * frame + sine * outside

    for factor, found in ((2.9, 1.0), (3.1, 0.0)):
        for pair in ((tilted(u, factor * level), v), (u, tilted(v, factor * level))):
            fit = Fit(status="converged", dense=truth.changes, input_subspace=pair[0], output_subspace=pair[1])
            assert metrics.success(p, truth, fit) == found
