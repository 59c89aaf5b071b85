"""Certificates that need no truth: a zero residual with enough samples, and fresh rows for any fit."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from conftest import draw
from scipy import stats

import colora_theory as ct
from colora_theory.estimators.base import Fit
from colora_theory.guarantees.exact_recovery import recovers, regression_excess, relative_residual, sensing_excess
from colora_theory.guarantees.held_out import noise_floor, total_limit, user_limits

exact = ct.guarantees.get("exact_recovery")


def wrong_interpolants(problem: ct.Problem, sets: int, starts: int) -> tuple[int, int]:
    """Data sets for which Gauss–Newton from random starts finds a wrong exact fit, and exact fits in all."""
    wrong = found = 0
    for seed in range(sets):
        truth, data = draw(problem, seed)
        for start in range(starts):
            rule = ct.estimators.get("gauss_newton")(rank=problem.rank, start="random", restarts=0, max_sweeps=150)
            fit = rule.fit(data, np.random.default_rng([seed, start]))
            if relative_residual(data, fit) < 1e-10:
                found += 1
                if exact.observed(problem, truth, data, fit):
                    wrong += 1
                    break
                assert np.linalg.norm(fit.weights - truth.weights) < 1e-6 * np.linalg.norm(truth.weights)
    return wrong, found


# --- exact recovery --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "short", "enough"),
    [
        ({"num_users": 4, "dim_in": 5, "rank": 2}, (3, 3, 4, 4), (3, 4, 4, 4)),
        ({"num_users": 5, "dim_in": 6, "rank": 2}, (3, 3, 4, 4, 4), (3, 4, 4, 4, 4)),
        ({"num_users": 1, "dim_in": 4, "dim_out": 4, "rank": 1, "design": "sensing"}, 7, 8),
        ({"num_users": 2, "dim_in": 5, "dim_out": 4, "rank": 1, "design": "sensing"}, 4, 5),
        ({"num_users": 2, "dim_in": 4, "dim_out": 3, "rank": (1, 2)}, 2, 3),
    ],
)
def test_one_equation_more_makes_a_zero_residual_a_proof(fields: dict, short: object, enough: object) -> None:
    """As many equations as unknowns, or one less: wrong exact fits. One more: none."""
    below, above = (ct.Problem(num_samples=n, **fields) for n in (short, enough))
    assert not recovers(below)
    assert recovers(above)
    wrong, _ = wrong_interpolants(below, 5, 20)
    assert wrong >= 3
    wrong, found = wrong_interpolants(above, 4, 8)
    assert wrong == 0
    assert found > 5


def closed_form(counts: list[int], d: int, r: int) -> int:
    """Vector model: the largest (r−j)(d−r) − Σ_{i≤k−j}(n_i − r)."""
    spare = np.sort(counts) - r
    return max((r - j) * (d - r) - int(spare[: len(spare) - j].sum()) for j in range(r))


def test_the_vector_model_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        r = int(rng.integers(1, 5))
        d, k = int(rng.integers(r, r + 6)), int(rng.integers(r, r + 5))
        counts = [int(n) for n in rng.integers(r, r + 6, k)]
        assert regression_excess(Counter(counts), d, r, 1) == closed_form(counts, d, r)
        one = sensing_excess(Counter(counts), d, 1, r, 1)  # with one output both designs are the same
        assert (one < 0) == (closed_form(counts, d, r) < 0)


def brute_force(counts: list[int], d: int, r1: int, r2: int) -> float:
    """The maximum over all strata, user by user, without dynamic programming."""
    worst = -math.inf
    for shared in range(r1):
        budget = shared * (r1 - shared)
        generic = max(0, shared + r2 - r1)
        images = range(generic, min(shared, r2) + 1) if r2 <= r1 else [generic]
        own = [(q, kappa) for q in images for kappa in range(q + 1)]
        for choice in itertools.product(own, repeat=len(counts)):
            cost = sum(q * (r1 - r2 - shared + q) if r2 <= r1 else 0 for q, _ in choice)
            if cost > budget or sum(min(kappa, shared) for _, kappa in choice) < shared:
                continue
            gain = sum(
                kappa * (q - kappa) - (n - r1) * (r2 - kappa) for n, (q, kappa) in zip(counts, choice, strict=True)
            )
            worst = max(worst, budget - cost + (r1 - shared) * (d - r1) + gain)
    return worst


@pytest.mark.parametrize(("r1", "r2"), [(2, 2), (3, 2), (2, 3), (1, 3), (3, 1)])
def test_dynamic_programming_finds_the_worst_stratum(r1: int, r2: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        counts = [int(n) for n in rng.integers(r1, r1 + 4, 3)]
        for d in (r1, r1 + 1, r1 + 4):
            assert regression_excess(Counter(counts), d, r1, r2) == brute_force(counts, d, r1, r2)


def test_exact_recovery_lies_one_step_above_counting() -> None:
    counting = ct.guarantees.get("counting")
    for k, d, r in itertools.product((3, 8, 50), (6, 20), (1, 2, 3)):
        problem = ct.Problem(num_users=k, num_samples=1, dim_in=d, rank=r)
        least, enough = counting.value(problem), exact.value(problem)
        assert least <= enough <= max(least + 1, d)
        assert recovers(problem.replace(num_samples=int(enough)))
        assert not recovers(problem.replace(num_samples=int(enough) - 1))
    large = ct.Problem(num_users=2000, num_samples=(30, 50, 90), dim_in=400, dim_out=12, rank=(8, 6))
    assert recovers(large)
    assert math.isnan(exact.value(large.replace(covariates="rademacher")))
    assert math.isnan(exact.value(large.replace(rank=3, core_distribution="equal")))


def test_exact_recovery_judges_exact_fits_of_the_right_ranks() -> None:
    problem = ct.Problem(num_users=4, num_samples=(3, 4, 4, 4), dim_in=5, rank=2)
    truth, data = draw(problem, 0)
    parts = {"output_subspace": truth.output_subspace, "cores": truth.cores}
    right = Fit(status="converged", input_subspace=truth.input_subspace, **parts)
    assert exact.value(problem, truth=truth, data=data, fit=right) == 0.0
    assert exact.observed(problem, truth, data, right) == 0.0
    other = np.linalg.qr(truth.input_subspace + 0.1)[0]
    missed = Fit(status="converged", input_subspace=other, **parts)
    assert math.isnan(exact.value(problem, truth=truth, data=data, fit=missed))  # it does not explain the data
    silent = ct.Dataset(covariates=data.covariates, responses=data.covariates @ missed.weights, counts=data.counts)
    assert exact.observed(problem, truth, silent, missed) == 1.0  # a wrong exact fit would be seen
    assert math.isnan(exact.value(problem.replace(num_samples=3), truth=truth, data=data, fit=right))


# --- held-out rows ---------------------------------------------------------------------------------------

#: Users, rows, outputs, error of every user, noise.
LAWS = [
    (20, 10, 1, np.r_[1.0, np.zeros(19)], 0.1),  # all on one user: the worst case
    (20, 20, 1, np.full(20, 0.05), 0.1),
    (1, 10, 1, np.ones(1), 0.5),
    (5, 12, 3, np.r_[1.0, np.zeros(4)], 0.3),
    (6, np.array([3, 5, 9, 4, 7, 30]), 1, np.r_[0.5, 0.0, 0.2, 0.1, 0.0, 1.0], 0.2),
]


@pytest.mark.parametrize(("users", "rows", "outputs", "errors", "noise"), LAWS)
def test_the_limits_fail_no_more_often_than_they_say(users, rows, outputs, errors, noise) -> None:
    """1 200 draws at η = 0.2, rejected if a true limit would be with probability below 1e-6."""
    rng, eta, trials = np.random.default_rng(0), 0.2, 1200
    counts = np.broadcast_to(np.asarray(rows), users)
    total = own = 0
    for _ in range(trials):
        sums = (errors + noise**2) * rng.chisquare(counts)
        if outputs > 1:
            sums = sums + noise**2 * rng.chisquare(counts * (outputs - 1))
        total += total_limit(sums, counts, outputs, noise**2, eta) < errors.sum()
        own += bool((user_limits(sums, counts, outputs, noise**2, eta / users) < errors - 1e-12).any())
    for failures in (total, own):
        assert stats.binom.sf(failures - 1, trials, eta) > 1e-6
    if users == 1:  # one user, one output: exact
        assert stats.binom.cdf(total, trials, eta) > 1e-6


def test_the_limits_are_sharp() -> None:
    """Prototype without caps: 2.3 times and more; 200 users with equal errors are within 1.5."""
    rng = np.random.default_rng(3)
    for users, rows, factor in ((200, 15, 1.5), (20, 20, 2.0), (50, 100, 1.4)):
        limits = [
            total_limit(0.03 * rng.chisquare(rows, users), np.full(users, rows), 1, 0.01, 0.05) for _ in range(20)
        ]
        assert 0.02 * users < np.median(limits) < factor * 0.02 * users


PROBLEMS = [
    ct.Problem(num_users=12, num_samples=25, dim_in=8, rank=2, noise_std=0.2),
    ct.Problem(num_users=6, num_samples=(20, 40), dim_in=8, dim_out=3, rank=2, noise_std=0.2),
    ct.Problem(num_users=5, num_samples=40, dim_in=5, dim_out=4, rank=2, noise_std=0.2, design="sensing"),
    ct.Problem(
        num_users=12, num_samples=25, dim_in=8, rank=2, noise_std=0.2, deviation="dense", deviation_norm=0.5
    ),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=["vector", "outputs", "sensing", "misspecified"])
@pytest.mark.parametrize("known", [True, False])
def test_certified_fits(problem: ct.Problem, known: bool) -> None:
    """Any estimator, right or wrong model, known and unknown noise: violated no more often than η = 0.1."""
    misses, ratios = 0, []
    for seed in range(60):
        truth, train = draw(problem, seed)
        held_out = ct.sample_data(problem, truth, np.random.default_rng([seed, 9]))
        fit = ct.estimators.get("full_finetuning" if seed % 2 else "altmin")(
            **({} if seed % 2 else {"rank": problem.rank})
        ).fit(train, np.random.default_rng(seed))
        got = ct.certify(fit, held_out, 0.1, problem.noise_std if known else None)
        errors = ((fit.weights - truth.weights) ** 2).sum((1, 2))
        misses += errors.sum() > got.limit or bool((errors > got.user_limits).any())
        ratios.append(got.limit / errors.sum())
        assert got.noise_std <= (0.2 if known else 0.25)
    assert stats.binom.sf(misses - 1, 60, 0.2) > 1e-6  # the sum, or some user: twice η
    assert np.median(ratios) < 12


def test_correlated_covariates_certify_the_prediction_risk() -> None:
    problem = ct.Problem(num_users=10, num_samples=40, dim_in=6, rank=2, noise_std=0.3, covariates="power_law")
    misses = 0
    for seed in range(60):
        truth, train = draw(problem, seed)
        fit = ct.estimators.get("altmin")(rank=2).fit(train, np.random.default_rng(seed))
        held_out = ct.sample_data(problem, truth, np.random.default_rng([seed, 9]))
        limit = ct.certify(fit, held_out, 0.1, 0.3).limit
        misses += ct.metrics.prediction_risk(problem, truth, fit) > limit
    assert stats.binom.sf(misses - 1, 60, 0.1) > 1e-6


def test_cross_fitting_certifies_the_average_of_the_fits() -> None:
    problem = ct.Problem(num_users=12, num_samples=60, dim_in=8, rank=2, noise_std=0.2)
    misses, rule = 0, ct.estimators.get("altmin")(rank=2)
    for seed in range(40):
        truth, data = draw(problem, seed)
        got = ct.cross_certify(rule, data, folds=3, eta=0.1, noise_std=0.2, rng=np.random.default_rng(seed))
        assert got.weights.shape == truth.weights.shape
        misses += ((got.weights - truth.weights) ** 2).sum() > got.limit
    assert stats.binom.sf(misses - 1, 40, 0.1) > 1e-6
    with pytest.raises(ct.InputError, match="folds must be at most"):
        ct.cross_certify(rule, draw(problem.replace(num_samples=4), 0)[1])
    sufficient = problem.replace(sampling="sufficient")
    truth, data = draw(sufficient, 0)
    got = ct.cross_certify(rule, data, folds=2, noise_std=0.2, rng=np.random.default_rng(0))
    assert ((got.weights - truth.weights) ** 2).sum() < got.limit < 10


def test_the_noise_floor_is_a_lower_limit() -> None:
    problem = ct.Problem(num_users=4, num_samples=(12, 5), dim_in=6, rank=2, noise_std=0.7)
    floors = [noise_floor(draw(problem, seed)[1], 0.2) for seed in range(400)]
    above = int((np.array(floors) > 0.7).sum())
    assert stats.binom.sf(above - 1, 400, 0.2) > 1e-6
    assert stats.binom.cdf(above, 400, 0.2) > 1e-6
    assert noise_floor(draw(problem.replace(num_samples=6), 0)[1], 0.2) == 0.0


def test_certificates_say_what_they_cannot() -> None:
    problem = ct.Problem(num_users=3, num_samples=(9, 0, 9), dim_in=4, rank=1, noise_std=0.1)
    truth, data = draw(problem, 0)
    fit = Fit(status="converged", dense=truth.changes)
    got = ct.certify(fit, data, noise_std=0.1)
    assert got.limit == math.inf
    assert got.user_limits[1] == math.inf
    assert np.isfinite(got.user_limits[[0, 2]]).all()
    assert "with probability 0.99" in str(got)
    with pytest.raises(ct.InputError, match="weights of shape"):
        ct.certify(Fit(status="converged", dense=truth.changes[:2]), data)
    for eta in (0.0, 1.0):
        with pytest.raises(ct.InputError, match="eta must lie"):
            ct.certify(fit, data, eta)
    with pytest.raises(ct.InputError, match="Dataset"):
        ct.certify(fit, None)


def test_the_guarantee_in_trials() -> None:
    problem = ct.Problem(num_users=12, num_samples=25, dim_in=8, rank=2, noise_std=0.2)
    verdict = ct.testing.assert_guarantee("held_out_limit", problem, estimator="altmin", trials=600, alpha=1e-6)
    assert verdict.violations <= 600 * 0.01
    assert verdict.tightness < 6
    truth, data = draw(problem, 0)
    assert math.isnan(ct.guarantees.get("held_out_limit").value(problem, truth=truth, data=data))


def test_the_regressor_certifies_its_fit() -> None:
    problem = ct.Problem(num_users=8, num_samples=40, dim_in=6, rank=2, noise_std=0.2)
    misses = 0
    for seed in range(25):
        truth, train = draw(problem, seed)
        held_out = ct.sample_data(problem, truth, np.random.default_rng([seed, 9]))
        users = np.repeat(np.arange(8), 40)
        model = ct.CoLoRARegressor(rank=2)
        model.fit(train.covariates.reshape(-1, 6), train.responses.ravel(), groups=users)
        got = model.certify(
            held_out.covariates.reshape(-1, 6), held_out.responses.ravel(), users, eta=0.1, noise_std=0.2
        )
        misses += ((np.asarray(model.coef_).reshape(8, 6, 1) - truth.weights) ** 2).sum() > got.limit
        assert got.limit < 5
    assert stats.binom.sf(misses - 1, 25, 0.1) > 1e-6
    partial = model.certify(held_out.covariates[0], held_out.responses[0].ravel(), users[:40])
    assert partial.limit == math.inf
    with pytest.raises(ct.InputError, match="y must have"):
        model.certify(held_out.covariates[0], held_out.responses[0].ravel()[:-1], users[:40])
