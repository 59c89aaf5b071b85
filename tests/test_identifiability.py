"""Data that cannot determine the answer, or barely can: the status says which, and what is determined is right."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import draw
from test_estimators import DEFINED
from test_numerical_edges import DESIGNS, SHARED, objective, problem_of, run

import colora_theory as ct
from colora_theory.estimators.counting import Counting
from colora_theory.estimators.span import missing_directions
from colora_theory.model import metrics
from colora_theory.model.dataset import predict

#: Every user alone, by least squares.
ALONE = ("full_finetuning", "lora")


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", [*ALONE, *SHARED, "transfer", "spectral", "distillation"])
def test_collinear_covariates_are_singular_and_still_fitted(name: str, design: str) -> None:
    """Two equal inputs: weights are not determined, predictions are, and the status says so."""
    p = problem_of(design, noise_std=0.0)
    truth, data = draw(p, 3)
    x = data.covariates.copy()
    x[:, :, 0] = x[:, :, 1]
    collinear = ct.Dataset(
        covariates=x, responses=predict(x, truth.weights), counts=data.counts, pretrained=truth.pretrained
    )
    assert missing_directions(data) == 0
    assert missing_directions(collinear) == 1
    got = run(name, p, truth, collinear)
    assert np.isfinite(got.weights).all()
    if not (name == "lora" and design == "sensing"):
        assert got.status == "singular"
        assert got.message
    if name not in ("spectral", "distillation"):
        start = objective(collinear, np.broadcast_to(truth.pretrained, truth.weights.shape))
        assert objective(collinear, got.weights) <= 1e-14 * start


@pytest.mark.parametrize("condition", [1e6, 1e12])
def test_ill_conditioned_is_not_collinear(condition: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 12, 20)) * np.geomspace(1.0, 1.0 / condition, 20)
    data = ct.Dataset(covariates=x, responses=x[:, :, :1], counts=np.full(10, 12))
    assert missing_directions(data) == 0
    few = ct.Dataset(covariates=x[:1], responses=x[:1, :, :1], counts=np.full(1, 12))
    assert missing_directions(few) == 8


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", SHARED)
def test_as_many_samples_as_core_entries_determine_nothing_shared(name: str, design: str) -> None:
    """n = r: every U interpolates, whatever the number of observations."""
    p = problem_of(design, num_users=30, num_samples=2 if design == "regression" else 4, noise_std=0.0)
    truth, data = draw(p, 2)
    got = run(name, p, truth, data)
    assert got.status == "singular"
    assert "cannot determine" in got.message


@pytest.mark.parametrize("name", SHARED)
def test_just_below_and_just_above_the_degrees_of_freedom(name: str) -> None:
    """Vector model with d = 7, r = 2, k = 5: n k = 20 unknowns are reached at n = 4."""
    below, above = (ct.Problem(num_users=5, num_samples=n, dim_in=7, rank=2, pretrained_norm=1.0) for n in (3, 4))
    assert below.degrees_of_freedom == 20
    truth, data = draw(below, 5)
    got = run(name, below, truth, data)
    assert got.status == "singular"
    assert "15 observations cannot determine 20 degrees of freedom" in got.message
    truth, data = draw(above, 5)
    assert "cannot determine" not in run(name, above, truth, data).message
    # 39 observations of 16 unknowns, but one equation too few for U: two outputs in three speak about V alone
    blind = ct.Problem(num_users=4, num_samples=(3, 3, 3, 4), dim_in=5, dim_out=3, rank=(2, 1))
    assert blind.num_observations == 39
    assert blind.degrees_of_freedom == 16
    truth, data = draw(blind, 5)
    message = run(name, blind, truth, data).message
    assert message == "5 equations beyond the users' cores cannot determine 6 unknowns shared by all."
    truth, data = draw(blind.replace(num_samples=(3, 3, 4, 4)), 5)
    assert "cannot determine" not in run(name, blind, truth, data).message
    uneven = above.replace(num_samples=(2, 2, 2, 2, 12))  # 20 observations, but one user cannot settle U
    truth, data = draw(uneven, 5)
    got = run(name, uneven, truth, data)
    assert data.num_observations == 20
    assert np.isfinite(got.weights).all()


@pytest.mark.parametrize("name", SHARED)
def test_just_below_and_just_above_the_equations_that_the_shared_subspace_sees(name: str) -> None:
    """Rank (2, 1) of four outputs: U's ten unknowns see one output of every sample beyond a core's two."""
    p = ct.Problem(num_users=5, num_samples=(4, 4, 4, 4, 3), dim_in=7, dim_out=4, rank=(2, 1), noise_std=0.1)
    truth, data = draw(p, 5)
    assert "9 equations beyond the users' cores cannot determine 10 unknowns" in run(name, p, truth, data).message
    p = p.replace(num_samples=4)
    truth, data = draw(p, 5)
    assert "cannot determine" not in run(name, p, truth, data).message


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", ["full_finetuning", "altmin", "gauss_newton", "oracle_subspace", "pooled_lora"])
def test_identical_users_are_recovered(name: str, design: str) -> None:
    p = problem_of(design, noise_std=0.0)
    truth, data = draw(p, 3)
    same = ct.Truth(
        input_subspace=truth.input_subspace,
        output_subspace=truth.output_subspace,
        cores=np.repeat(truth.cores[:1], p.num_users, axis=0),
        pretrained=truth.pretrained,
    )
    x = np.repeat(data.covariates[:1], p.num_users, axis=0)
    twins = ct.Dataset(
        covariates=x, responses=predict(x, same.weights), counts=data.counts, pretrained=truth.pretrained
    )
    got = run(name, p, same, twins)
    assert got.status == "converged"
    assert metrics.relative_error(p, same, got) <= 1e-11
    np.testing.assert_allclose(got.weights, got.weights[:1].repeat(p.num_users, 0), atol=1e-11)


@pytest.mark.parametrize(("name", "design"), DEFINED)
def test_a_user_without_rows_keeps_the_pretrained_weight_and_changes_nobody_else(name: str, design: str) -> None:
    p = problem_of(design)
    truth, data = draw(p, 6)
    counts = data.counts.copy()
    counts[2] = 0
    x, y = data.covariates.copy(), data.responses.copy()
    x[2], y[2] = 0.0, 0.0
    data = ct.Dataset(covariates=x, responses=y, counts=counts, pretrained=truth.pretrained)
    got = run(name, p, truth, data)
    assert np.isfinite(got.weights).all()
    if name not in ("pooled_lora", "pooled_ridge", "lora", "adapter") or (
        name == "adapter" and design == "regression"
    ):
        np.testing.assert_allclose(got.weights[2], truth.pretrained, atol=1e-9)
    if name in ("full_finetuning", "lora", *SHARED, "oracle_subspace", "transfer"):
        assert got.status != "converged"
        assert got.message
    if name in ("full_finetuning", "oracle_subspace", "bitfit"):
        others = np.array([0, 1, 3, 4, 5])
        alone = run(name, p, truth, data.take(others))
        np.testing.assert_allclose(got.weights[others], alone.weights, atol=1e-13)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", ["full_finetuning", "lora", "altmin", "gauss_newton", "lowrank_plus_sparse"])
def test_noise_a_million_times_the_signal_is_fitted_as_well_as_the_truth_fits(name: str, design: str) -> None:
    """A least-squares estimate explains the data at least as well as the truth, and stays of the noise's size."""
    p = problem_of(design, noise_std=1e6)
    truth, data = draw(p, 2)
    got = run(name, p, truth, data)
    assert got.status in ("converged", "stopped")
    assert objective(data, got.weights) <= objective(data, truth.weights)
    assert np.abs(got.weights).max() <= 1e8


def test_scarce_samples_by_either_measure() -> None:
    """Few samples per row of a core, or few equations per unknown that all users share."""
    counts = np.array([30, 30])  # d = 20, r = 2: 36 shared unknowns, 2 · 28 = 56 equations beyond the cores
    sizes = Counting(20, 1, 2, 1, counts, True)
    assert sizes.equations() == (36, 56)
    assert not sizes.scarce(3.0, 1.5)
    assert sizes.scarce(3.0, 1.6)
    assert sizes.scarce(15.0, 1.5)
    assert not sizes.scarce(3.0, 0.0)
    sensed = Counting(4, 3, 2, 1, counts, False)
    assert sensed.equations() == (4 + 2, 56)
    assert Counting(20, 3, 2, 2, counts, True).equations() == (36, 112)


def test_users_without_samples_to_spare_take_none_from_others() -> None:
    sizes = Counting(20, 1, 2, 1, np.array([0, 1, 2, 30]), True)
    assert sizes.equations() == (36, 28)
    assert sizes.equations(most=18) == (36, 18)
