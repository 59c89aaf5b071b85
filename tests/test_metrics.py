"""Metrics against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import draw

import colora_theory as ct
from colora_theory import metrics
from colora_theory.estimators import Fit


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
