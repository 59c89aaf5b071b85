"""The kernel of the shared-subspace methods against slow references, on random shapes and odd block sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import colora_theory as ct
from colora_theory.estimators import shared_model
from colora_theory.estimators.altmin import AltMin
from colora_theory.estimators.descent import Run
from colora_theory.estimators.gauss_newton import NewtonSystem
from colora_theory.estimators.shared_model import (
    SharedModel,
    degrees_of_freedom,
    statistical_error,
    sum_products,
    times_each,
    weighted_square,
)
from colora_theory.estimators.starts import leading, leading_of_product, start
from colora_theory.model.linalg import haar


@pytest.fixture(autouse=True)
def _several_blocks_and_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a user or two and single-precision copies, which only large data would have otherwise."""
    monkeypatch.setattr(shared_model, "CACHE_BYTES", 600)
    monkeypatch.setattr(shared_model, "_NEAR", 0)
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
    assume(
        not system.flat and np.abs(system.right).max() > 1e-6
    )  # a gradient of rounding has no relative accuracy
    solved = system.solve(0.01)
    assume(not solved.singular)
    left = system.right - system._normal(solved.solution, False)
    size = float(np.sqrt(np.vdot(system.right, system._precondition(system.right))))
    norm = float(np.sqrt(max(0.0, np.vdot(left, system._precondition(left)))))
    assert norm <= 0.02 * size + 1e-6 * float(np.abs(model.x).max() ** 2) * float(np.abs(solved.solution).max())


@pytest.mark.parametrize("scale", [2.0**-200, 2.0**200])
def test_values_beyond_single_precision_are_solved_exactly(scale: float) -> None:
    """The step of U has no units; with covariates that single precision cannot hold it is the exact one."""
    p = ct.Problem(num_users=12, num_samples=20, dim_in=9, rank=2, noise_std=0.1)
    rng = np.random.default_rng(0)
    data = ct.sample_data(p, ct.sample_truth(p, rng), rng)
    u = haar(rng, 9, 2)
    steps = []
    for factor in (1.0, scale):
        model = SharedModel(
            ct.Dataset(covariates=factor * data.covariates, responses=data.responses, counts=data.counts)
        )
        point = model.evaluate(u, np.eye(1), keep_features=True)
        steps.append((NewtonSystem(model, point).solve(0.01), model.solve_input(point, point.moments, 0.01)[0]))
    (newton, block), (far_newton, far_block) = steps
    assert not far_newton.singular
    np.testing.assert_allclose(far_newton.solution, newton.solution, atol=1e-5)
    np.testing.assert_allclose(far_block, block, atol=1e-5)


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


def test_cores_are_refined_where_features_are_badly_conditioned() -> None:
    """Normal equations alone lose the square of the condition number; one step of refinement gets it back."""
    rng = np.random.default_rng(3)
    k, m, d = 4, 12, 3
    x = np.stack([(haar(rng, m, d) * [1.0, 0.02, 2e-3]) @ haar(rng, d, d).T for _ in range(k)])
    cores = rng.standard_normal((k, d, 1))
    model = SharedModel(ct.Dataset(covariates=x, responses=x @ cores, counts=np.full(k, m)))
    got = model.evaluate(np.eye(d), np.eye(1)).cores
    np.testing.assert_allclose(got, cores, rtol=2e-12, atol=2e-12)


def test_degrees_of_freedom_are_those_of_the_problem() -> None:
    p = ct.Problem(num_users=11, num_samples=20, dim_in=9, dim_out=5, rank=(3, 2))
    rng = np.random.default_rng(0)
    model = SharedModel(ct.sample_data(p, ct.sample_truth(p, rng), rng))
    assert degrees_of_freedom(model, np.zeros((11, 3, 2))) == p.degrees_of_freedom == 3 * 6 + 2 * 3 + 11 * 6


def test_moments_of_the_starts_sum_over_pairs_of_samples() -> None:
    """Users of 3 to 6 samples: pairs across the halves, weighted by counts; and all pairs of different samples."""
    rng = np.random.default_rng(4)
    xs = [rng.standard_normal((n, 4)) for n in (3, 6, 4, 5)]
    ys = [rng.standard_normal(n) for n in (3, 6, 4, 5)]
    data = ct.Dataset.from_arrays(xs, ys)
    halves, pairs = np.zeros((4, 4)), np.zeros((4, 4))
    for x, y in zip(xs, ys, strict=True):
        z = x * y[:, None]
        first, second = z[0::2], z[1::2]
        halves += np.outer(first.sum(0), second.sum(0)) / np.sqrt(len(first) * len(second))
        pairs += sum(np.outer(z[j], z[l]) for j in range(len(z)) for l in range(len(z)) if j != l) / (len(z) - 1)
    for kind, moment in (("split_half", halves + halves.T), ("distinct_pairs", pairs)):
        expected = np.linalg.eigh(moment)[1][:, ::-1][:, :2]
        got = start(data, (2, 1), kind, None)[0]
        np.testing.assert_allclose(np.abs(expected.T @ got), np.eye(2), atol=1e-9)


def test_the_slowest_of_the_last_contractions_counts() -> None:
    """Distance left after changes c, c·ρ, …: the last times ρ/(1 − ρ), ρ the largest of three, at least 0.1."""
    p = ct.Problem(num_users=6, num_samples=9, dim_in=5, rank=1, noise_std=0.1)
    rng = np.random.default_rng(0)
    run = Run(
        AltMin(rank=1), SharedModel(ct.sample_data(p, ct.sample_truth(p, rng), rng)), haar(rng, 5, 1), np.eye(1)
    )
    for changes, left in (
        ([1.0, 0.5, 0.25], 0.25),
        ([1.0, 0.8, 0.4, 0.004], 0.004 * 0.8 / 0.2),
        ([7.0, 0.1, 0.04, 0.02, 0.008], 0.008),
        ([1.0, 1e-3], 1e-3),  # one ratio is that of what was fast: at least a half
        ([1.0, 1e-2, 1e-4], 1e-4 / 9.0),
        ([1.0, 0.5, 0.6], np.inf),
        ([1.0], np.inf),
        ([1e-13, 3e-13, 2e-13, 2e-13], 0.0),
    ):
        run.changes = changes
        assert run._remaining() == pytest.approx(left)
    run.changes, run.distance_left = [1.0, 0.5], 0.01
    assert run._remaining() == 0.01


def test_noise_stops_a_run_at_a_share_of_the_statistical_error_and_not_farther_than_a_hundredth() -> None:
    rng = np.random.default_rng(1)
    for noise in (1e-3, 10.0):
        p = ct.Problem(num_users=9, num_samples=40, dim_in=5, rank=1, noise_std=noise)
        data = ct.sample_data(p, ct.sample_truth(p, rng), rng)
        run = Run(AltMin(rank=1), SharedModel(data), haar(rng, 5, 1), np.eye(1))
        run.advance(100)
        error = statistical_error(run.model, run.point)
        assert run.target == pytest.approx(min(0.05 * error, 1e-2), rel=1e-12)
