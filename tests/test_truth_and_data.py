"""Truths and data sets: exact properties, laws of the draws, a person's own arrays."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import draw
from scipy import stats

import colora_theory as ct
from colora_theory.model.dataset import predict
from colora_theory.model.problem import covariance_factor

#: False-alarm level of every statistical test here: |z| > 4.9 has probability below 1e-6.
Z = 4.9


def problem(**fields: object) -> ct.Problem:
    return ct.Problem(**{"num_users": 12, "num_samples": 30, "dim_in": 9, "rank": 3, **fields})


def test_weights_have_the_stated_structure(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape, pretrained_norm=5.0)
    truth, data = draw(p, 0)
    k, d, q, r1, r2 = p.num_users, p.dim_in, p.dim_out, p.rank_in, p.rank_out
    assert truth.input_subspace.shape == (d, r1)
    assert truth.output_subspace.shape == (q, r2)
    assert truth.cores.shape == (k, r1, r2)
    for i in range(k):
        by_hand = truth.pretrained + truth.input_subspace @ truth.cores[i] @ truth.output_subspace.T
        np.testing.assert_allclose(truth.weights[i], by_hand, atol=1e-13)
    assert np.linalg.norm(truth.pretrained) == pytest.approx(5.0)
    assert (data.num_users, data.dim_in, data.dim_out, data.design) == (k, d, q, p.design)
    assert data.num_observations == p.num_observations
    assert tuple(data.counts) == p.counts


def test_responses_follow_the_model(shape: dict[str, object]) -> None:
    p = ct.Problem(**shape)
    truth, data = draw(p, 1)
    for i in range(p.num_users):
        for j in range(data.covariates.shape[1]):
            x = data.covariates[i, j]
            expected = truth.weights[i].T @ x if p.design == "regression" else np.sum(x * truth.weights[i])
            np.testing.assert_allclose(data.responses[i, j], expected, atol=1e-12)
            assert x.any() == (j < p.counts[i])  # padding is exactly zero


@pytest.mark.parametrize(
    ("rank", "dim_out", "num_users"), [(3, 1, 12), ((3, 2), 4, 5), ((2, 2), 2, 1), ((1, 4), 5, 4)]
)
@pytest.mark.parametrize("condition", [1.0, 7.0, 1e4])
def test_orthogonal_cores_have_exactly_the_condition_number(rank, dim_out, num_users, condition) -> None:
    p = problem(
        rank=rank, dim_out=dim_out, num_users=num_users, core_distribution="orthogonal", condition_number=condition
    )
    cores = ct.sample_truth(p, np.random.default_rng(0)).cores
    for moment in ((cores @ cores.swapaxes(1, 2)).sum(0), (cores.swapaxes(1, 2) @ cores).sum(0)):
        if len(moment) > 1:
            assert np.linalg.cond(moment) == pytest.approx(condition**2, rel=1e-6)
    assert (cores**2).sum() == pytest.approx(num_users)


def test_impossible_condition_numbers_are_refused() -> None:
    p = problem(num_users=2, rank=(4, 2), dim_out=3, core_distribution="orthogonal", condition_number=10.0)
    with pytest.raises(ct.InputError, match="no orthogonal cores with condition number"):
        ct.sample_truth(p, np.random.default_rng(0))


@pytest.mark.parametrize("incoherence", [1.0, 2.5, 12.0])
def test_incoherence_is_exact(incoherence: float) -> None:
    cores = ct.sample_truth(problem(incoherence=incoherence), np.random.default_rng(0)).cores
    energy = (cores**2).sum((1, 2))
    assert len(energy) * energy.max() / energy.sum() == pytest.approx(incoherence)
    assert energy.mean() == pytest.approx(1.0)


def test_unit_cores_have_equal_norms_and_gaussian_cores_the_right_mean_square() -> None:
    same = ct.sample_truth(problem(core_distribution="equal", dim_out=3, rank=2), np.random.default_rng(0))
    np.testing.assert_array_equal(same.weights, same.weights[[0]].repeat(len(same.weights), 0))
    unit = ct.sample_truth(problem(core_distribution="unit", signal_norm=3.0), np.random.default_rng(0)).cores
    np.testing.assert_allclose(np.sqrt((unit**2).sum((1, 2))), 3.0)
    many = ct.sample_truth(problem(num_users=20_000, num_samples=1), np.random.default_rng(0)).cores
    energy = (many**2).sum((1, 2))
    assert abs(energy.mean() - 1.0) < Z * energy.std() / np.sqrt(len(energy))


def test_personal_parts() -> None:
    sparse = ct.sample_truth(
        problem(deviation="sparse", deviation_norm=2.0, deviation_level=4), np.random.default_rng(0)
    )
    assert ((sparse.deviations != 0).sum((1, 2)) == 4).all()
    low = ct.sample_truth(
        problem(dim_out=5, deviation="low_rank", deviation_norm=2.0, deviation_level=2), np.random.default_rng(0)
    )
    assert (np.linalg.matrix_rank(low.deviations) == 2).all()
    dense = ct.sample_truth(problem(deviation="dense", deviation_norm=2.0), np.random.default_rng(0))
    for truth in (sparse, low, dense):
        np.testing.assert_allclose(np.linalg.norm(truth.deviations, axis=(1, 2)), 2.0)


def test_similarity_angle_is_the_angle_between_own_and_shared_subspace() -> None:
    p = problem(rank=3, dim_out=4, similarity_angle=0.4)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    for change in truth.changes:
        own = np.linalg.svd(change)[0][:, :3]
        cosines = np.linalg.svd(own.T @ truth.input_subspace)[1]
        np.testing.assert_allclose(cosines, np.cos(0.4), atol=1e-12)


def test_outliers_replace_the_stated_share_of_users() -> None:
    truth = ct.sample_truth(problem(outlier_fraction=0.25, outlier_norm=7.0), np.random.default_rng(0))
    assert truth.outliers.sum() == 3
    np.testing.assert_allclose(np.linalg.norm(truth.changes[truth.outliers], axis=(1, 2)), 7.0)
    shared = truth.input_subspace @ truth.cores @ truth.output_subspace.T
    np.testing.assert_allclose(truth.changes[~truth.outliers], shared[~truth.outliers])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"covariates": "ar1", "covariate_parameter": 0.7},
        {"covariates": "power_law"},
        {"covariates": "rademacher"},
        {"covariates": "student_t", "covariate_parameter": 9.0},
    ],
)
@pytest.mark.parametrize("design", ["regression", "sensing"])
def test_covariates_have_the_stated_covariance(fields: dict[str, object], design: str) -> None:
    p = problem(num_users=20, num_samples=2000, dim_in=4, dim_out=2, rank=2, design=design, **fields)
    _, data = draw(p, 2)
    rows = data.covariates.reshape(-1, 4) if design == "regression" else data.covariates[..., 0].reshape(-1, 4)
    factor = covariance_factor(p)
    target = np.eye(4) if factor is None else factor.T @ factor
    assert np.trace(target) == pytest.approx(4.0)
    products = rows[:, :, None] * rows[:, None, :]
    error = np.abs(products.mean(0) - target)
    assert (error <= Z * products.std(0) / np.sqrt(len(rows)) + 1e-12).all()
    if fields.get("covariates") == "ar1":
        assert target[0, 2] == pytest.approx(0.49)
    if fields.get("covariates") == "rademacher":
        assert set(np.unique(rows)) == {-1.0, 1.0}


@pytest.mark.parametrize(
    "fields", [{}, {"covariates": "ar1"}, {"dim_out": 2}, {"design": "sensing", "dim_out": 2}]
)
@pytest.mark.parametrize("extra", [0, 1, 20])
def test_sufficient_rows_have_the_law_of_raw_rows(fields: dict[str, object], extra: int) -> None:
    """Kolmogorov–Smirnov on quadratic forms that involve XᵀX, XᵀY and YᵀY, for the whole and for halves."""
    base = problem(num_users=1500, num_samples=50, dim_in=3, rank=2, noise_std=0.5, **fields)
    p = base.replace(num_samples=base.num_features + extra)
    truth = ct.sample_truth(p, np.random.default_rng(0))
    same = np.zeros_like(truth.cores) + truth.cores[0]
    truth = ct.Truth(input_subspace=truth.input_subspace, output_subspace=truth.output_subspace, cores=same)
    samples = []
    for number, sampling in enumerate(("rows", "sufficient")):
        rng = np.random.default_rng([3, number])
        data = ct.sample_data(p.replace(sampling=sampling), truth, rng)
        assert data.covariates.shape[1] <= p.num_features + p.dim_out + max(p.counts) * (number == 0)
        first, second = data.split(2, rng)
        samples.append([_forms(data), _forms(first), _forms(second), _forms(first) * _forms(second)])
    for raw, sufficient in zip(*samples, strict=True):
        for one, other in zip(raw, sufficient, strict=True):
            if np.ptp(one) > 1e-12:
                assert stats.ks_2samp(one, other).pvalue > 1e-6


def _forms(data: ct.Dataset) -> np.ndarray:
    k, m = data.covariates.shape[:2]
    x, y = data.covariates.reshape(k, m, -1), data.responses.reshape(k, m, -1)
    a, b = np.arange(1.0, x.shape[2] + 1), np.arange(1.0, y.shape[2] + 1)
    u, v = x @ a, y @ b
    return np.array([(u * u).sum(1), (u * v).sum(1), (v * v).sum(1), (x[..., 0] * x[..., 1]).sum(1)])


def test_split_parts_add_up(shape: dict[str, object]) -> None:
    for sampling in ("rows", "sufficient"):
        p = ct.Problem(**{**shape, "num_samples": 62}, sampling=sampling, noise_std=0.3)
        _, data = draw(p, 4)
        parts = data.split(3, np.random.default_rng(0))
        assert [part.counts[0] for part in parts] == [21, 21, 20]
        assert sum(part.counts for part in parts).tolist() == data.counts.tolist()
        np.testing.assert_allclose(sum(_forms(part) for part in parts), _forms(data), rtol=1e-9, atol=1e-9)


def test_splitting_sufficient_rows_needs_a_generator() -> None:
    _, data = draw(problem(sampling="sufficient"), 0)
    with pytest.raises(ct.InputError, match="pass rng"):
        data.split(2)


def test_cost_of_sufficient_rows_does_not_depend_on_samples() -> None:
    small, large = (draw(problem(sampling="sufficient", num_samples=n), 0)[1] for n in (10**3, 10**9))
    assert small.covariates.shape == large.covariates.shape
    assert large.num_observations == 12 * 10**9


def test_own_arrays_are_padded_by_zero_rows() -> None:
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((n, 4)) for n in (3, 5, 0)]
    ys = [x @ np.arange(4.0) for x in xs]
    data = ct.Dataset.from_arrays(xs, ys, pretrained=np.arange(4.0))
    assert data.covariates.shape == (3, 5, 4)
    assert data.responses.shape == (3, 5, 1)
    assert data.counts.tolist() == [3, 5, 0]
    np.testing.assert_array_equal(data.covariates[0, :3], xs[0])
    assert not data.covariates[0, 3:].any()
    np.testing.assert_allclose(data.residual_responses(), 0.0, atol=1e-12)
    np.testing.assert_array_equal(data.take([1]).covariates[0], data.covariates[1])
    sensing = ct.Dataset.from_arrays([rng.standard_normal((6, 4, 2))], [np.ones(6)])
    assert (sensing.design, sensing.dim_out) == ("sensing", 2)
    weights = rng.standard_normal((4, 2))
    np.testing.assert_allclose(
        predict(sensing.covariates, weights)[0, 3], np.sum(sensing.covariates[0, 3] * weights)
    )


X, Y = np.ones((3, 2)), np.ones(3)


@pytest.mark.parametrize(
    ("xs", "ys", "words"),
    [
        ([], [], "at least one user"),
        ([X], [Y, Y], "got 1 and 2"),
        ([X, np.ones((3, 3))], [Y, Y], r"covariates of user 1 must have shape \(n, 2\)"),
        ([X], [np.ones(4)], r"responses of user 0 must have shape \(3, 1\)"),
        ([X, X], [Y, np.ones((3, 2))], r"responses of user 1 must have shape \(3, 1\)"),
        ([np.full((3, 2), np.nan)], [Y], "covariates of user 0 must be finite"),
        ([X], [np.array([1.0, np.inf, 0.0])], "responses of user 0 must be finite"),
        ([np.ones(3)], [Y], "must have shape"),
        ([np.ones((3, 0))], [Y], "at least one input"),
        ([X], [np.ones((3, 0))], "at least one output"),
        ([np.empty((0, 2))], [np.empty(0)], "at least one user must have a sample"),
        ([[["a", "b"]]], [Y], "must be an array of numbers"),
        ([X], [3.0], "must be an array, got the single value"),
        ([np.ones((3, 2, 2))], [np.ones((3, 1))], "one number per row"),
    ],
)
def test_bad_own_data_is_refused_naming_the_user(xs: list[object], ys: list[object], words: str) -> None:
    with pytest.raises(ct.InputError, match=words):
        ct.Dataset.from_arrays(xs, ys)


def test_bad_pretrained_weight_is_refused() -> None:
    with pytest.raises(ct.InputError, match=r"pretrained must have shape \(2, 1\), got \(3, 1\)"):
        ct.Dataset.from_arrays([X], [Y], pretrained=np.ones(3))


def test_intercepts_shift_responses() -> None:
    p = problem(intercept_std=2.0)
    truth, data = draw(p, 0)
    shift = data.responses - predict(data.covariates, truth.weights)
    np.testing.assert_allclose(shift, np.broadcast_to(truth.intercepts[:, None, :], shift.shape), atol=1e-12)
