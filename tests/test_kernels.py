"""The kernel of the shared-subspace methods against slow references, on random shapes and odd block sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import colora_theory as ct
from colora_theory.estimators import shared_model
from colora_theory.estimators.gauss_newton import NewtonSystem
from colora_theory.estimators.shared_model import SharedModel, sum_products, times_each, weighted_square
from colora_theory.estimators.starts import leading, leading_of_product
from colora_theory.linalg import haar


@pytest.fixture(autouse=True)
def _several_blocks_and_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a user or two and single-precision copies, which only large data would have otherwise."""
    monkeypatch.setattr(shared_model, "CACHE_BYTES", 600)
    monkeypatch.setattr(shared_model, "_ROUND", 3)
    monkeypatch.setattr(shared_model, "_HEAVY", 0)


@st.composite
def cases(draw: st.DrawFn) -> tuple[SharedModel, np.ndarray, np.ndarray, np.random.Generator]:
    """A model on random data and a point (U, V), V = I where it spans the outputs.

    Users without rows, one user, one sample and n > d are among them.
    """
    k, m, d, p = (draw(st.integers(1, most)) for most in (9, 7, 5, 3))
    sensing = draw(st.booleans())
    r2 = draw(st.integers(1, p))
    r1 = draw(st.integers(1, min(d, k * r2)))
    counts = draw(st.lists(st.integers(0, m), min_size=k, max_size=k))
    if max(counts) == 0:
        counts[0] = 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    xs = [rng.standard_normal((n, d, p) if sensing else (n, d)) for n in counts]
    ys = [rng.standard_normal(n if sensing else (n, p)) for n in counts]
    return (
        SharedModel(ct.Dataset.from_arrays(xs, ys)),
        haar(rng, d, r1),
        np.eye(p) if r2 == p else haar(rng, p, r2),
        rng,
    )


def rows_of(model: SharedModel, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Dense matrix from vec(W_i) (row-major) to user i's responses, and these responses, flat."""
    if model.regression:
        return np.kron(model.x[i], np.eye(model.p)), model.y[i].ravel()
    return model.x[i], model.y[i].ravel()


@settings(max_examples=150, deadline=None)
@given(cases())
def test_evaluate_is_every_users_least_squares(case: tuple) -> None:
    model, u, v, _ = case
    point = model.evaluate(u, v, keep_features=True)
    objective = 0.0
    for i in range(model.k):
        a, y = rows_of(model, i)
        features = a @ np.kron(u, v)
        core = np.linalg.lstsq(features, y, rcond=None)[0]
        residual = y - features @ core
        objective += residual @ residual
        np.testing.assert_allclose(point.cores[i].ravel(), core, atol=1e-6 * (1 + np.abs(core).max()))
        np.testing.assert_allclose(point.moments[i].ravel(), a.T @ residual, atol=1e-6 * (1 + np.abs(core).max()))
        rank = np.linalg.matrix_rank(model.x[i] @ u) if model.regression else np.linalg.matrix_rank(features)
        assert point.deficient[i] == (rank < (u.shape[1] if model.regression else u.shape[1] * v.shape[1]))
    assert point.objective == pytest.approx(objective, rel=1e-8, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_products_equal_dense_ones_exactly_and_in_single_precision(case: tuple) -> None:
    model, u, v, rng = case
    point = model.evaluate(u, v, keep_features=True)
    weights = rng.standard_normal((model.k, model.d, model.p))
    dense, projected = np.empty_like(weights), np.empty_like(weights)
    for i in range(model.k):
        a, _ = rows_of(model, i)
        features = a @ np.kron(u, v)
        image = a @ weights[i].ravel()
        dense[i] = (a.T @ image).reshape(model.d, model.p)
        explained = features @ np.linalg.lstsq(features, image, rcond=None)[0]
        projected[i] = (a.T @ (image - explained)).reshape(model.d, model.p)
    size = 1.0 + np.abs(dense).max()
    np.testing.assert_allclose(model.normal(weights), dense, atol=1e-12 * size)
    np.testing.assert_allclose(model.projected_normal(weights, point), projected, atol=1e-6 * size)
    for _ in range(2):  # the first coarse product still reads the exact rows, and copies them
        np.testing.assert_allclose(model.normal(weights, coarse=True), dense, atol=1e-5 * size)
    conditions = [np.linalg.cond(f) for f, _ in point.projections or [] for f in f if np.abs(f).max() > 0]
    if max(conditions, default=1.0) < 1e2:
        coarse = model.projected_normal(weights, point, coarse=True)
        np.testing.assert_allclose(coarse, projected, atol=1e-3 * size)
    moments, objective = model.residual_moments(weights)
    residuals = [rows_of(model, i)[1] - rows_of(model, i)[0] @ weights[i].ravel() for i in range(model.k)]
    assert objective == pytest.approx(sum(float(r @ r) for r in residuals), rel=1e-10)
    for i, residual in enumerate(residuals):
        expected = (rows_of(model, i)[0].T @ residual).reshape(model.d, model.p)
        np.testing.assert_allclose(moments[i], expected, atol=1e-10 * size)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_coarse_and_exact_solves_agree_to_the_coarse_tolerance(case: tuple) -> None:
    """Same system, once on single-precision rows and once exactly: both leave the residual that was asked for."""
    model, u, v, _ = case
    system = NewtonSystem(model, model.evaluate(u, v, keep_features=True))
    if system.flat or not system.right.any():
        return
    solved = system.solve(0.01)
    if solved.singular:
        return
    left = system.right - system._normal(solved.solution, False)
    size = float(np.sqrt(np.vdot(system.right, system._precondition(system.right))))
    norm = float(np.sqrt(max(0.0, np.vdot(left, system._precondition(left)))))
    assert norm <= 0.02 * size + 1e-6 * float(np.abs(model.x).max() ** 2) * float(np.abs(solved.solution).max())


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_values_beyond_single_precision_are_solved_exactly(scale: float) -> None:
    p = ct.Problem(num_users=12, num_samples=20, dim_in=9, rank=2, noise_std=0.1)
    rng = np.random.default_rng(0)
    data = ct.sample_data(p, ct.sample_truth(p, rng), rng)
    scaled = ct.Dataset(covariates=scale * data.covariates, responses=data.responses, counts=data.counts)
    for name in ("altmin", "gauss_newton"):
        plain, other = (ct.estimators.get(name)(rank=2, tol=1e-9, noise_tol=0.0).fit(d) for d in (data, scaled))
        np.testing.assert_allclose(scale * other.weights, plain.weights, atol=1e-8)


def test_single_precision_leaves_the_answer_in_double() -> None:
    """Coarse inner solves change the way, not the end: the gradient vanishes as it does without them."""
    p = ct.Problem(num_users=20, num_samples=30, dim_in=15, dim_out=3, rank=2, noise_std=0.2)
    rng = np.random.default_rng(1)
    data = ct.sample_data(p, ct.sample_truth(p, rng), rng)
    for name in ("altmin", "gauss_newton"):
        fit = ct.estimators.get(name)(rank=2, tol=1e-11, noise_tol=0.0).fit(data, rng)
        assert fit.status == "converged"
        assert fit.input_subspace is not None
        assert fit.output_subspace is not None
        model = SharedModel(data)
        system = NewtonSystem(model, model.evaluate(fit.input_subspace, fit.output_subspace, keep_features=True))
        assert system.expected < 1e-9


@given(
    k=st.integers(1, 6), a=st.integers(1, 5), b=st.integers(1, 5), c=st.integers(1, 4), seed=st.integers(0, 2**32)
)
def test_sums_of_small_products(k: int, a: int, b: int, c: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right, matrix = (rng.standard_normal(s) for s in ((k, a, c), (k, b, c), (b, a)))
    np.testing.assert_allclose(sum_products(left, right), sum(x @ y.T for x, y in zip(left, right, strict=True)))
    np.testing.assert_allclose(times_each(matrix, left), np.array([matrix @ x for x in left]))
    weights = rng.random(k)
    expected = sum(w * x @ x.T for w, x in zip(weights, left, strict=True))
    np.testing.assert_allclose(weighted_square(weights, left), expected, atol=1e-12)


def test_leading_eigenvectors_without_the_matrix() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.standard_normal((40, 200)), rng.standard_normal((40, 200))
    dense = first.T @ second
    plain = leading(dense + dense.T, 4)
    np.testing.assert_allclose(np.abs(plain.T @ leading_of_product(first, second, 4)), np.eye(4), atol=1e-9)
    nothing = leading_of_product(0.0 * first, 0.0 * second, 4)  # Lanczos cannot start: the dense way can
    np.testing.assert_allclose(nothing.T @ nothing, np.eye(4), atol=1e-12)
