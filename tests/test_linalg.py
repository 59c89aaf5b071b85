"""Subspaces, batched least squares, conjugate gradients, Bartlett factors."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from colora_theory.model.linalg import (
    bartlett,
    conjugate_gradients,
    haar,
    least_squares,
    minimum_norm,
    orthonormal,
    pseudo_inverse,
    pseudo_inverses,
    subspace_distance,
    subspace_distance_fro,
    times_few,
)


@pytest.mark.parametrize("angle", [0.0, 1e-14, 1e-9, 1e-4, 0.3, np.pi / 2])
def test_distance_is_the_sine_of_the_angle_down_to_rounding(angle: float) -> None:
    rng = np.random.default_rng(3)
    frame = haar(rng, 9, 3)
    tilted = np.column_stack([frame[:, 0], np.cos(angle) * frame[:, 1] + np.sin(angle) * frame[:, 2]])
    mixed = tilted @ rng.standard_normal((2, 2))
    assert subspace_distance(mixed, frame[:, :2]) == pytest.approx(np.sin(angle), rel=1e-6, abs=2e-15)
    assert subspace_distance_fro(frame[:, :2], mixed) == pytest.approx(np.sin(angle), rel=1e-6, abs=2e-15)


def test_of_several_angles_the_distance_is_the_largest_sine() -> None:
    frame = np.eye(6)
    sines = np.array([0.3, 0.4])
    tilted = np.sqrt(1 - sines**2) * frame[:, :2] + sines * frame[:, 2:4]
    assert subspace_distance(tilted, frame[:, :2]) == pytest.approx(0.4)
    assert subspace_distance_fro(tilted, frame[:, :2]) == pytest.approx(0.5)


def test_distance_does_not_depend_on_basis_scale_or_frame() -> None:
    rng = np.random.default_rng(4)
    a, b, frame = haar(rng, 8, 3), haar(rng, 8, 3), haar(rng, 8, 8)
    value = subspace_distance(a, b)
    assert subspace_distance(frame @ a @ rng.standard_normal((3, 3)), 1e-120 * frame @ b) == pytest.approx(value)
    assert subspace_distance(b, a) == pytest.approx(value)
    assert subspace_distance(np.eye(8)[:, :2], np.eye(8)[:, :3]) == 1.0  # a missed direction
    assert subspace_distance(np.eye(8)[:, :3], np.eye(8)[:, :2]) == 0.0  # nothing missed


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(1, 4), m=st.integers(0, 7), q=st.integers(1, 5), t=st.integers(1, 3), seed=st.integers(0, 10**6)
)
def test_least_squares_is_the_minimum_norm_solution_of_every_problem(
    k: int, m: int, q: int, t: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    features, targets = rng.standard_normal((k, m, q)), rng.standard_normal((k, m, t))
    if q > 1 and seed % 3 == 0:
        features[0, :, 0] = features[0, :, 1]  # one user with collinear features
    solution, deficient = least_squares(features, targets)
    for i in range(k):
        reference, _, rank, _ = np.linalg.lstsq(features[i], targets[i], rcond=None)
        np.testing.assert_allclose(solution[i], reference, atol=1e-7 * (1 + np.abs(reference).max()))
        assert deficient[i] == (rank < q)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e9])
def test_least_squares_against_high_precision(condition: float) -> None:
    rng = np.random.default_rng(5)
    left, right = haar(rng, 12, 3), haar(rng, 3, 3)
    features = (left * np.geomspace(1.0, 1.0 / condition, 3)) @ right.T
    exact = rng.standard_normal((3, 1))
    targets = features @ exact
    with mpmath.workdps(60):
        high = mpmath.matrix(features.tolist())
        reference = mpmath.lu_solve(high.T * high, high.T * mpmath.matrix(targets.tolist()))
        reference_array = np.array([float(x) for x in reference])
    solution, deficient = least_squares(features[None], targets[None])
    assert not deficient[0]
    np.testing.assert_allclose(solution[0, :, 0], reference_array, rtol=50 * condition * np.finfo(float).eps)


def test_minimum_norm_of_no_rows_is_zero() -> None:
    solution, deficient = minimum_norm(np.empty((2, 0, 3)), np.empty((2, 0, 1)))
    assert not solution.any()
    assert deficient.all()


def test_no_rank_deficient_problem_passes_as_determined() -> None:
    """Rounding can make the trace of a singular Gram matrix's inverse cancel, in some 1 of 16 000 problems."""
    rng = np.random.default_rng(0)
    for _ in range(3000):
        q = int(rng.integers(2, 6))
        features = np.zeros((64, 7, q))
        rows = int(rng.integers(1, q))
        features[:, :rows] = rng.standard_normal((64, rows, q))
        assert pseudo_inverses(features)[1].all()


@given(
    k=st.integers(1, 5), m=st.integers(1, 7), d=st.integers(1, 9), q=st.integers(1, 12), seed=st.integers(0, 2**32)
)
def test_products_with_few_columns_equal_plain_ones(k: int, m: int, d: int, q: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stack, matrix = rng.standard_normal((k, m, d)), rng.standard_normal((d, q))
    np.testing.assert_allclose(times_few(stack, matrix), np.einsum("kmd,dq->kmq", stack, matrix), atol=1e-13)


def test_conjugate_gradients_solves_and_reports_singular_systems() -> None:
    rng = np.random.default_rng(6)
    factor = rng.standard_normal((30, 12))
    matrix, right = factor.T @ factor, rng.standard_normal((6, 2))

    def normal(p: np.ndarray) -> np.ndarray:
        return (matrix @ p.ravel()).reshape(6, 2)

    def precondition(p: np.ndarray) -> np.ndarray:
        return p @ np.diag([2.0, 0.5])

    solved = conjugate_gradients(normal, right, precondition, 0.0)
    assert not solved.singular
    np.testing.assert_allclose(solved.solution.ravel(), np.linalg.solve(matrix, right.ravel()), rtol=1e-10)
    root = np.kron(np.eye(6), np.diag(np.sqrt([2.0, 0.5])))
    spectrum = np.linalg.eigvalsh(root @ matrix @ root)
    assert solved.softest == pytest.approx(spectrum[0], rel=1e-6)
    early = conjugate_gradients(normal, right, precondition, 0.0, 3)
    assert spectrum[0] < early.softest < spectrum[-1]
    flat = conjugate_gradients(lambda p: 0.0 * p, right, precondition, 0.0)
    assert flat.singular
    assert flat.softest == 0.0
    assert conjugate_gradients(normal, 0.0 * right, precondition, 0.0).softest == 1.0
    values, vectors = np.linalg.eigh(matrix)
    inverse, singular = pseudo_inverse((vectors[:, 2:] * values[2:]) @ vectors[:, 2:].T)
    assert singular
    np.testing.assert_allclose(inverse, (vectors[:, 2:] / values[2:]) @ vectors[:, 2:].T, atol=1e-12)
    assert not pseudo_inverse(matrix)[1]


def test_haar_columns_are_uniform() -> None:
    """A rotated draw has the same law: first entry squared is Beta(1/2, (d − 1)/2), signs included."""
    rng = np.random.default_rng(7)
    draws = np.array([haar(rng, 5, 2) for _ in range(4000)])
    for entry in (draws[:, 0, 0], draws[:, 4, 1], (draws[:, 0, 0] + draws[:, 1, 0]) / np.sqrt(2)):
        assert stats.kstest(entry**2, stats.beta(0.5, 2.0).cdf).pvalue > 1e-6
        assert abs((entry > 0).mean() - 0.5) < 4.9 * 0.5 / np.sqrt(4000)
    np.testing.assert_allclose(draws[0].T @ draws[0], np.eye(2), atol=1e-14)
    np.testing.assert_allclose(orthonormal(draws[0]) @ orthonormal(draws[0]).T, draws[0] @ draws[0].T, atol=1e-14)


@pytest.mark.parametrize("rows", [2, 3, 7, 10**9])
def test_bartlett_factors_have_the_law_of_qr_factors(rows: int) -> None:
    rng = np.random.default_rng(8)
    factors = bartlett(rng, np.full(3000, rows), 3)
    gram = factors.swapaxes(1, 2) @ factors
    level = 4.9 / np.sqrt(3000)
    assert abs(gram[:, 0, 0].mean() / rows - 1) < level * np.sqrt(2 / rows)
    assert abs(gram[:, 2, 2].mean() / rows - 1) < level * np.sqrt(2 / rows)
    assert abs(gram[:, 0, 2].mean() / np.sqrt(rows)) < level
    assert stats.kstest(gram[:, 2, 2], stats.chi2(rows).cdf).pvalue > 1e-6
    if rows < 3:
        assert not factors[:, rows:].any()
