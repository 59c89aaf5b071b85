"""Exact risks, the Cramér–Rao level and counting, each by an independent route."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

import colora_theory as ct
from colora_theory.guarantees.finite_sample_risk import gaussian_risk
from colora_theory.guarantees.tangent import tangent_system
from colora_theory.model.linalg import minimum_norm

#: |z| beyond which a mean is called wrong: false-alarm probability 1e-6, two-sided.
Z = 4.9


def draw(problem: ct.Problem, seed: int):
    rng = np.random.default_rng(seed)
    truth = ct.sample_truth(problem, rng)
    return truth, ct.sample_data(problem, truth, rng)


def weight_error(truth, dense) -> float:
    return float(((dense + (0.0 if truth.pretrained is None else truth.pretrained) - truth.weights) ** 2).sum())


def local_error(problem, seed) -> float:
    """Minimum-norm least squares of every user alone: the route that does not know the formula."""
    truth, data = draw(problem, seed)
    k, m = data.covariates.shape[:2]
    x, y = data.covariates.reshape(k, m, -1), data.residual_responses().reshape(k, m, -1)
    return weight_error(truth, minimum_norm(x, y)[0].reshape(truth.weights.shape))


def oracle_error(problem, seed) -> float:
    truth, data = draw(problem, seed)
    u, v = truth.input_subspace, truth.output_subspace
    error = 0.0
    for x, y, w in zip(data.covariates, data.residual_responses(), truth.changes, strict=True):
        if data.design == "regression":
            core = np.linalg.lstsq(x @ u, y @ v, rcond=None)[0]
        else:
            core = np.linalg.lstsq((u.T @ x @ v).reshape(len(x), -1), y, rcond=None)[0].reshape(u.shape[1], -1)
        error += float(((u @ core @ v.T - w) ** 2).sum())
    return error


def pooled_error(problem, seed) -> float:
    truth, data = draw(problem, seed)
    x, y = data.covariates.reshape(-1, problem.dim_in), data.residual_responses().reshape(-1, 1)
    return weight_error(truth, np.linalg.lstsq(x, y, rcond=None)[0])


def assert_mean(samples, claim: float) -> None:
    samples = np.asarray(samples)
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert abs(samples.mean() - claim) <= Z * error, (samples.mean(), claim, error)
    assert error < 0.1 * claim, "too few trials to say anything"


BASE = dict(num_users=4, dim_in=9, rank=2, noise_std=0.3)
LOCAL = [
    ct.Problem(**BASE, num_samples=16),
    ct.Problem(**BASE, num_samples=(5, 14)),
    ct.Problem(**BASE, num_samples=15, dim_out=3, sampling="sufficient", pretrained_norm=3.0),
    ct.Problem(**BASE, num_samples=4, dim_out=3, similarity_angle=0.7, outlier_fraction=0.3, outlier_norm=2.0),
    ct.Problem(**BASE, num_samples=17, covariates="ar1", covariate_parameter=0.6),
    ct.Problem(**BASE, num_samples=17, covariates="power_law"),
    ct.Problem(**BASE, num_samples=30, dim_out=2, design="sensing"),
    ct.Problem(**BASE, num_samples=30, dim_out=2, design="sensing", covariates="ar1", sampling="sufficient"),
    ct.Problem(**BASE, num_samples=6, dim_out=2, design="sensing", deviation="sparse", deviation_norm=0.8),
]


@pytest.mark.parametrize("problem", LOCAL, ids=range(len(LOCAL)))
def test_local_least_squares_risk_is_the_mean_error(problem):
    claim = ct.guarantees.get("local_least_squares_risk").value(problem)
    assert_mean([local_error(problem, seed) for seed in range(1500)], claim)


ORACLE = [
    ct.Problem(**BASE, num_samples=8),
    ct.Problem(**{**BASE, "rank": (4, 2)}, num_samples=2, dim_out=3),
    ct.Problem(**{**BASE, "rank": (3, 2)}, num_samples=(10, 13), dim_out=4, sampling="rows"),
    ct.Problem(**{**BASE, "rank": (2, 2)}, num_samples=12, dim_out=3, design="sensing"),
]


@pytest.mark.parametrize("problem", ORACLE, ids=range(len(ORACLE)))
def test_oracle_subspace_risk_is_the_mean_error(problem):
    claim = ct.guarantees.get("oracle_subspace_risk").value(problem)
    assert_mean([oracle_error(problem, seed) for seed in range(1500)], claim)


TRANSFER = [
    ct.Problem(**BASE, num_samples=9, similarity_angle=0.5),
    ct.Problem(**BASE, num_samples=9, dim_out=3, deviation="dense", deviation_norm=0.7),
    ct.Problem(**BASE, num_samples=9, dim_out=3, deviation="low_rank", deviation_norm=0.7, outlier_fraction=0.25),
    ct.Problem(**BASE, num_samples=12, dim_out=2, design="sensing", deviation="sparse", deviation_norm=0.9),
]


@pytest.mark.parametrize("problem", TRANSFER, ids=range(len(TRANSFER)))
def test_transfer_risk_is_the_mean_error_outside_the_subspace(problem):
    claim = ct.guarantees.get("transfer_risk").value(problem)
    assert_mean([oracle_error(problem, seed) for seed in range(2000)], claim)
    inside = problem.replace(similarity_angle=0.0, deviation="none", deviation_norm=0.0, outlier_fraction=0.0)
    assert ct.guarantees.get("transfer_risk").value(inside) == pytest.approx(
        ct.guarantees.get("oracle_subspace_risk").value(inside)
    )


@pytest.mark.parametrize("samples", [4, 9, 40])
def test_pooled_least_squares_risk_is_the_mean_error(samples):
    problem = ct.Problem(**BASE, num_samples=samples)
    guarantee = ct.guarantees.get("pooled_least_squares_risk")
    errors = [pooled_error(problem, seed) for seed in range(2000)]
    assert_mean(errors, guarantee.value(problem))
    claims = []
    for seed in range(2000):
        truth, data = draw(problem, seed)
        claims.append(guarantee.value(problem, truth=truth, data=data))
    difference = np.array(errors) - claims
    assert abs(difference.mean()) <= Z * difference.std() / math.sqrt(2000)


def test_pooled_extra_term_agrees_with_its_large_sample_limit():
    problem = ct.Problem(num_users=50, num_samples=10**6, dim_in=30, rank=2, noise_std=0.0, sampling="sufficient")
    spread = 49.0
    excess = ct.guarantees.get("pooled_least_squares_risk").value(problem) / spread - 1
    assert excess == pytest.approx(31 / 5e7, rel=1e-5)


def test_gaussian_risk_is_undefined_around_interpolation():
    assert [math.isnan(gaussian_risk(n, 10, 1, 1.0, 1.0)) for n in (8, 9, 10, 11, 12)] == [0, 1, 1, 1, 0]


# --- Cramér–Rao -----------------------------------------------------------------------------------------


def dense_jacobians(truth, data):
    """Jacobians of all responses and all weights in the raw (U, C, V), column by column."""
    u, v, cores = truth.input_subspace, truth.output_subspace, truth.cores
    directions = []
    for a in np.ndindex(u.shape):
        step = np.zeros(u.shape)
        step[a] = 1
        directions.append((step @ cores) @ v.T)
    for a in np.ndindex(v.shape):
        step = np.zeros(v.shape)
        step[a] = 1
        directions.append((u @ cores) @ step.T)
    for a in np.ndindex(cores.shape):
        step = np.zeros(cores.shape)
        step[a] = 1
        directions.append(u @ step @ v.T)
    weights = np.array(directions)
    if data.design == "regression":
        responses = np.einsum("kmd,qkdp->qkmp", data.covariates, weights)
    else:
        responses = np.einsum("kmdp,qkdp->qkm", data.covariates, weights)
    return responses.reshape(len(weights), -1).T, weights.reshape(len(weights), -1).T


EVERY_SHAPE = [
    ct.Problem(num_users=5, num_samples=7, dim_in=9, rank=2, noise_std=0.5),
    ct.Problem(num_users=4, num_samples=(6, 9, 20), dim_in=8, dim_out=4, rank=(3, 2), noise_std=0.5),
    ct.Problem(num_users=3, num_samples=25, dim_in=6, dim_out=5, rank=(2, 3), noise_std=0.5),
    ct.Problem(num_users=4, num_samples=15, dim_in=6, dim_out=3, rank=2, noise_std=0.5, design="sensing"),
    ct.Problem(
        num_users=3, num_samples=(22, 40), dim_in=5, dim_out=4, rank=(2, 3), noise_std=0.5, design="sensing"
    ),
    ct.Problem(num_users=4, num_samples=30, dim_in=6, dim_out=3, rank=2, noise_std=0.5, sampling="sufficient"),
    ct.Problem(num_users=3, num_samples=9, dim_in=4, rank=1, noise_std=0.5, covariates="student_t"),
    ct.Problem(num_users=3, num_samples=9, dim_in=3, rank=3, noise_std=0.5),
]


@pytest.mark.parametrize("problem", EVERY_SHAPE, ids=range(len(EVERY_SHAPE)))
def test_cramer_rao_agrees_with_dense_jacobians(problem):
    truth, data = draw(problem, 3)
    j, d = dense_jacobians(truth, data)
    assert np.linalg.matrix_rank(j) == problem.degrees_of_freedom
    dense = problem.noise_std**2 * np.trace(d @ np.linalg.pinv(j.T @ j, rcond=1e-10) @ d.T)
    assert ct.guarantees.get("cramer_rao").value(problem, truth=truth, data=data) == pytest.approx(dense, rel=1e-8)
    # U_⊥ part of the error of U: gauge directions have none, so any generalised inverse will do
    u = truth.input_subspace
    outside = np.zeros((u.size, j.shape[1]))
    outside[:, : u.size] = np.kron(np.eye(len(u)) - u @ u.T, np.eye(u.shape[1]))
    level = problem.noise_std**2 * np.trace(outside @ np.linalg.pinv(j.T @ j, rcond=1e-10) @ outside.T)
    got = ct.guarantees.get("cramer_rao_subspace").value(problem, truth=truth, data=data)
    # the pseudo-inverse need not fix the gauge orthogonally to U: compare through the weights' tangent instead
    tangent = np.linalg.lstsq(d, d, rcond=None)[0]
    exact = problem.noise_std**2 * np.trace(
        outside @ tangent @ np.linalg.pinv(j.T @ j, rcond=1e-10) @ tangent.T @ outside.T
    )
    assert got == pytest.approx(exact, rel=1e-7, abs=1e-14)
    assert got <= level * (1 + 1e-7) + 1e-14


def test_cramer_rao_large_sample_form():
    problem = ct.Problem(
        num_users=6, num_samples=10**7, dim_in=8, dim_out=3, rank=2, noise_std=0.2, sampling="sufficient"
    )
    truth, data = draw(problem, 0)
    guarantee = ct.guarantees.get("cramer_rao")
    closed = guarantee.value(problem)
    assert closed == pytest.approx(0.04 * problem.degrees_of_freedom / 1e7, rel=1e-12)
    assert guarantee.value(problem, truth=truth, data=data) == pytest.approx(closed, rel=1e-2)
    unit = problem.replace(core_distribution="orthogonal", condition_number=3.0)
    truth, data = draw(unit, 1)
    subspace = ct.guarantees.get("cramer_rao_subspace")
    moment = np.linalg.inv(np.einsum("kab,kcb->ac", truth.cores, truth.cores))
    assert subspace.value(unit) == pytest.approx(0.04 * 6 / 1e7 * np.trace(moment), rel=1e-9)
    assert subspace.value(unit, truth=truth, data=data) == pytest.approx(subspace.value(unit), rel=1e-2)


def test_large_sample_form_never_exceeds_the_mean_level():
    guarantee = ct.guarantees.get("cramer_rao")
    for problem in EVERY_SHAPE[:5]:
        levels = []
        for seed in range(300):
            truth, data = draw(problem, seed)
            levels.append(guarantee.value(problem, truth=truth, data=data))
        assert np.mean(levels) + Z * np.std(levels) / math.sqrt(300) >= guarantee.value(problem)


def test_cramer_rao_of_noiseless_and_unidentifiable_problems():
    guarantee = ct.guarantees.get("cramer_rao")
    quiet = EVERY_SHAPE[0].replace(noise_std=0.0)
    truth, data = draw(quiet, 0)
    assert guarantee.value(quiet, truth=truth, data=data) == 0.0
    few = EVERY_SHAPE[0].replace(num_samples=3)
    truth, data = draw(few, 0)
    assert math.isnan(guarantee.value(few, truth=truth, data=data))
    assert math.isnan(guarantee.value(few))
    assert math.isnan(guarantee.value(EVERY_SHAPE[0].replace(similarity_angle=0.1)))


def test_cramer_rao_is_attained_by_alternating_minimisation():
    """Mean of (error − level)/level over 200 paired trials at small noise."""
    problem = ct.Problem(num_users=12, num_samples=10, dim_in=14, rank=2, noise_std=1e-3, core_distribution="unit")
    guarantee, ratios = ct.guarantees.get("cramer_rao"), []
    for seed in range(200):
        truth, data = draw(problem, seed)
        fit = ct.estimators.get("altmin")(rank=2).fit(data, np.random.default_rng(seed))
        error = ct.metrics.parameter_error(problem, truth, fit)
        ratios.append(error / guarantee.value(problem, truth=truth, data=data))
    ratios = np.array(ratios)
    assert abs(ratios.mean() - 1) <= Z * ratios.std() / math.sqrt(200) + 1e-3


# --- counting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [p for p in EVERY_SHAPE if isinstance(p.num_samples, int)])
def test_counting_threshold_is_where_the_jacobian_can_have_full_rank(problem):
    guarantee = ct.guarantees.get("counting")
    threshold = int(guarantee.value(problem))
    assert guarantee.value(problem.replace(noise_std=0.0)) == threshold
    ranks = {}
    for n in (threshold - 1, threshold, threshold + 4):
        changed = problem.replace(num_samples=n, sampling="rows")
        if n < 1:
            continue
        truth, data = draw(changed, 5)
        ranks[n] = np.linalg.matrix_rank(dense_jacobians(truth, data)[0])
        system = tangent_system(truth, data)
        assert system is not None
        assert system.identifiable == (ranks[n] == problem.degrees_of_freedom)
        assert ct.guarantees.get("local_identifiability").value(
            changed.replace(noise_std=0.0), truth=truth, data=data
        ) == float(ranks[n] == problem.degrees_of_freedom)
    assert ranks.get(threshold - 1, 0) < problem.degrees_of_freedom
    assert ranks[threshold + 4] == problem.degrees_of_freedom


def test_counting_inverse_round_trip():
    guarantee = ct.guarantees.get("counting")
    for n in range(3, 40):
        problem = ct.Problem(num_users=5, num_samples=n, dim_in=20, dim_out=3, rank=(4, 2))
        if guarantee.value(problem.replace(num_users=10**6)) > n:
            with pytest.raises(ct.InputError, match="no number of users helps"):
                guarantee.min_users(problem)
            continue
        users = guarantee.min_users(problem)
        assert guarantee.value(problem.replace(num_users=users)) <= n
        if users > 2:
            assert guarantee.value(problem.replace(num_users=users - 1)) > n


@pytest.mark.parametrize("counts", [7, (3, 9), (9, 3, 3, 20), (5, 6, 7)])
def test_users_are_counted_by_their_samples(counts):
    """Sums over users are sums over counts: the same, for a million users too."""
    problem = LOCAL[0].replace(num_users=7, num_samples=counts)
    assert Counter(problem.counts) == problem.users_by_count
    assert sum(problem.replace(num_users=10**6).users_by_count.values()) == 10**6
    risk = ct.guarantees.get("local_least_squares_risk").value
    alone = [risk(problem.replace(num_users=4, num_samples=n)) / 4 for n in problem.counts]
    np.testing.assert_allclose(risk(problem), sum(alone), rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["local_least_squares_risk", "oracle_subspace_risk", "cramer_rao", "transfer_risk"]
)
def test_min_samples_round_trip(name):
    guarantee = ct.guarantees.get(name)
    for problem in (LOCAL[0], LOCAL[2].replace(sampling="rows"), LOCAL[6]):
        for target in (1e-1, 1e-4):
            n = guarantee.min_samples(problem, target)
            assert guarantee.value(problem.replace(num_samples=n)) <= target
            below = guarantee.value(problem.replace(num_samples=n - 1))
            assert not below <= target


def test_values_over_arrays_of_fields():
    guarantee = ct.guarantees.get("local_least_squares_risk")
    got = guarantee.value(LOCAL[0], num_samples=np.array([4, 9, 16, 32]))
    assert np.isnan(got[1])
    assert got[2] == pytest.approx(guarantee.value(LOCAL[0]))
    assert ct.guarantees.get("counting").value(LOCAL[0], num_users=np.arange(2, 9)).shape == (7,)
