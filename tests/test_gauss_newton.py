"""Gauss–Newton: the step against a dense Jacobian, quadratic convergence, the same minimum as altmin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import draw

import colora_theory as ct
from colora_theory.estimators.altmin import AltMin
from colora_theory.estimators.gauss_newton import GaussNewton, NewtonSystem
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.linalg import haar


def test_step_equals_the_dense_least_squares_solution(shape: dict[str, object]) -> None:
    """Full Jacobian in (U, C, V); its minimum-residual step moves the subspaces as the eliminated system does."""
    p = ct.Problem(**shape, noise_std=0.3)
    _, data = draw(p, 0)
    model, rng = SharedModel(data), np.random.default_rng(1)
    u = haar(rng, p.dim_in, p.rank_in)
    v = np.eye(p.dim_out) if p.rank_out == p.dim_out else haar(rng, p.dim_out, p.rank_out)
    point = model.evaluate(u, v, keep_features=True)
    system = NewtonSystem(model, point)
    solved = system.solve(0.0)
    assert not solved.singular
    assert not system.flat
    change_u, change_v = system.parts(solved.solution)

    def image(weights: np.ndarray) -> np.ndarray:
        return np.concatenate([model.predictions(b, weights).ravel() for b in model.blocks])

    columns = []
    for shape_of, weights_of in (
        (u.shape, lambda e: np.matmul(e @ point.cores, v.T)),
        (v.shape, lambda e: np.matmul(u @ point.cores, e.T)),
        (point.cores.shape, lambda e: np.matmul(u @ e, v.T)),
    ):
        for index in np.ndindex(*shape_of):
            unit = np.zeros(shape_of)
            unit[index] = 1.0
            columns.append(image(weights_of(unit)))
    residual = model.y.ravel() - image(point.weights)
    dense = np.linalg.lstsq(np.array(columns).T, residual, rcond=None)[0]
    dense_u, dense_v = dense[: u.size].reshape(u.shape), dense[u.size : u.size + v.size].reshape(v.shape)
    outside_u, outside_v = (np.eye(len(b)) - b @ b.T for b in (u, v))
    np.testing.assert_allclose(outside_u @ change_u, outside_u @ dense_u, atol=1e-8)
    if change_v is not None:
        np.testing.assert_allclose(outside_v @ change_v, outside_v @ dense_v, atol=1e-8)


def test_noiseless_errors_square_from_step_to_step(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape)
    for seed in range(3):
        truth, data = draw(p, seed)
        fit = GaussNewton(rank=p.rank, keep_history=True).fit(data, np.random.default_rng(seed))
        errors = [
            max(ct.subspace_distance(u, truth.input_subspace), ct.subspace_distance(v, truth.output_subspace))
            for u, v in zip(fit.history["input_subspaces"], fit.history["output_subspaces"], strict=True)
        ]
        assert errors[-1] <= 1e-12
        small = [(before, after) for before, after in itertools.pairwise(errors) if 1e-7 < before < 0.05]
        assert small
        assert all(after <= 20 * before**2 for before, after in small), errors


@pytest.mark.parametrize("seed", range(200))
def test_same_minimum_as_alternating_minimisation(seed: int) -> None:
    rng = np.random.default_rng([seed, 9])
    p = ct.Problem(
        num_users=int(rng.integers(6, 16)),
        num_samples=int(rng.integers(18, 30)),
        dim_in=int(rng.integers(4, 12)),
        dim_out=int(rng.integers(1, 4)),
        rank=int(rng.integers(1, 3)),
        noise_std=0.05,
        core_distribution="unit",
        design=str(rng.choice(["regression", "sensing"])),
    )
    _, data = draw(p, seed)
    tight = dict(rank=p.rank, noise_tol=0.0, tol=1e-12)
    newton = GaussNewton(**tight).fit(data, np.random.default_rng(seed))
    altmin = AltMin(**tight).fit(data, np.random.default_rng(seed))
    assert newton.status == altmin.status == "converged"
    np.testing.assert_allclose(newton.weights, altmin.weights, atol=1e-8)


def test_objective_never_rises(shape: dict[str, object]) -> None:
    _, data = draw(ct.Problem(**shape, noise_std=0.5), 4)
    rank = ct.Problem(**shape).rank
    fit = GaussNewton(rank=rank, start="random", restarts=0).fit(data, np.random.default_rng(0))
    objective = fit.history["objective"]
    assert (np.diff(objective) <= 1e-12 * objective[0]).all()
