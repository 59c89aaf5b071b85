"""The split certificate: every step of its proof alone, the whole on many small problems, false claims caught."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog
from test_lemmas import assert_rare

import colora_theory as ct
from colora_theory.guarantees import fresh_region
from colora_theory.guarantees.concentration import quadratic_form_chernoff, quadratic_form_upper
from colora_theory.guarantees.fresh_region import (
    EVENTS,
    Missed,
    Projected,
    energy_upper,
    judge,
    noise_ceiling,
    project,
    settle,
    tilted_errors,
)
from colora_theory.guarantees.held_out import total_limit, user_limits
from colora_theory.guarantees.split_certificate import (
    CertifiedError,
    CertifiedSubspace,
    _error_by_rows,
    _error_by_users,
    angle_sum,
    plan_of,
)
from colora_theory.guarantees.tangent import complement
from colora_theory.guarantees.tangent_step import inverse_and_floor, noise_limits, normal_equations
from colora_theory.model.linalg import haar


def part(rng, k=12, n=9, d=8, r=2, sigma=0.3, tilt=0.2, p=1):
    """B̃, A, the cores a_i, and a part of the data with W_i = (B̃ + B̃_⊥A)a_i."""
    basis = haar(rng, d, r)
    outside = complement(basis)
    change = tilt * rng.standard_normal((d - r, r))
    cores = rng.standard_normal((k, r, p))
    theta = (basis + outside @ change) @ cores
    x = rng.standard_normal((k, n, d))
    y = x @ theta + sigma * rng.standard_normal((k, n, p))
    return basis, change, cores, theta, ct.Dataset.from_arrays(list(x), list(y))


# --- the steps ---------------------------------------------------------------------------------------------


def test_exact_laws_of_energies_and_cores():
    """Step 1: R_i/s_i² is χ²_{n−r}, the whitened core errors are standard normal, and they are independent."""
    rng = np.random.default_rng(0)
    k, n, r, sigma = 4000, 7, 2, 0.3
    basis, change, cores, _, data = part(rng, k, n, sigma=sigma)
    seen = project(basis, data)
    s = np.sqrt(sigma**2 + ((change @ cores) ** 2).sum((1, 2)))
    energies = seen.energies / s**2
    errors = (seen.cores - cores)[:, :, 0]
    white = np.einsum("kab,kb->ka", np.linalg.cholesky(np.linalg.inv(seen.spread)).swapaxes(1, 2), errors)
    white /= s[:, None]
    assert stats.kstest(energies, stats.chi2(n - r).cdf).pvalue > 1e-6
    assert stats.kstest(white.ravel(), stats.norm.cdf).pvalue > 1e-6
    assert abs(stats.spearmanr(energies, (white**2).sum(1)).statistic) < 5 / math.sqrt(k)
    assert stats.kstest(energies, stats.chi2(n).cdf).pvalue < 1e-6, "the test can fail"
    np.testing.assert_allclose(np.einsum("kap,kbp->ab", seen.leverage, seen.leverage), np.eye(r), atol=1e-12)


@pytest.mark.parametrize("x", [0.5, 2.0, 4.0])
def test_quadratic_forms(x):
    rng = np.random.default_rng(1)
    weights = rng.exponential(size=15) ** 2
    values = rng.chisquare(1, (4000, 15)) @ weights
    plain = quadratic_form_upper(weights.sum(), (weights**2).sum(), weights.max(), x)
    sharp = quadratic_form_chernoff(weights, x)
    assert sharp < 1.01 * plain
    for level in (plain, sharp):
        assert_rare(int((values >= level).sum()), 4000, math.exp(-x))
    exact = stats.chi2.isf(math.exp(-x), 30)
    assert exact < quadratic_form_chernoff(np.ones(30), x) < 1.45 * exact
    assert quadratic_form_chernoff(np.zeros(3), x) == 0.0


@pytest.mark.parametrize("p", [1, 3])
def test_the_worst_of_what_may_be_missed(p):
    """Steps 2 and 5: `most` is at least every case it allows, and without one A the linear program's value."""
    rng = np.random.default_rng(2)
    closest = 0.0
    for _ in range(200):
        k, r = 8, 2
        cores, errors = rng.standard_normal((k, r, p)), 0.1 * rng.standard_normal((k, r, p))
        a = rng.standard_normal((5, r)) @ np.diag([1.0, rng.uniform()])
        b = ((a @ (cores - errors)) ** 2).sum((1, 2))
        values, vectors = np.linalg.eigh(np.einsum("kap,kbp->ab", cores, cores))
        root = (vectors / np.sqrt(values)) @ vectors.T
        size = float(np.linalg.norm(a @ np.linalg.inv(root)))
        each = ((a @ errors) ** 2).sum((1, 2)) / size**2
        caps = b * rng.uniform(1.0, 3.0, k)
        v = rng.exponential(size=k) ** 3
        plain = Missed(b.sum(), caps, root @ cores)
        full = dataclasses.replace(plain, size=size, share=each.sum(), every=each)
        best = linprog(-v, A_ub=np.ones((1, k)), b_ub=[b.sum()], bounds=list(zip(np.zeros(k), caps, strict=True)))
        assert plain.most(v) == pytest.approx(-best.fun, rel=1e-9)
        assert v @ b <= full.most(v) * (1 + 1e-12)
        assert full.most(v) <= plain.most(v)
        closest = max(closest, float(v @ b) / full.most(v))
    assert closest > 0.8, "a limit a fifth smaller would be caught here"


def test_caps_that_are_known_anyway():
    rng = np.random.default_rng(3)
    a, counts, sigma2 = rng.exponential(size=15) * 0.2, np.full(15, 12), 0.09
    below, smaller = 0, 0
    for _ in range(400):
        sums = (a + sigma2) * rng.chisquare(12, 15)
        plain = total_limit(sums, counts, 1, sigma2, 0.2)
        capped = total_limit(sums, counts, 1, sigma2, 0.2, 1.5 * a)
        assert total_limit(sums, counts, 1, sigma2, 0.2, np.full(15, np.inf)) == plain
        below, smaller = below + (capped < a.sum()), smaller + (capped < 0.95 * plain)
    assert_rare(below, 400, 0.2)
    assert smaller > 350


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("x", [1.0, 4.0])
def test_energy_of_the_cores(x, outputs):
    rng = np.random.default_rng(4)
    eigen, b = rng.exponential(size=(10, 2)), np.zeros(10)
    b[np.argmax(eigen.max(1))], variance = 0.3, 0.1
    missed = Missed(0.3, np.full(10, 0.3), np.ones((10, 2, outputs)))
    level = energy_upper(eigen, variance, missed, x)
    drawn = (rng.chisquare(1, (4000, 10, 2)) * eigen * (variance + b)[None, :, None]).sum((1, 2))
    if outputs > 1:
        drawn += (rng.chisquare(outputs - 1, (4000, 10, 2)) * eigen * variance).sum((1, 2))
    assert_rare(int((drawn >= level).sum()), 4000, math.exp(-x))
    assert level < 3 * np.quantile(drawn, 1 - math.exp(-x))
    assert energy_upper(eigen, 0.0, Missed(0.0, np.zeros(10), np.ones((10, 2, outputs))), x) == 0.0


@pytest.mark.parametrize("p", [1, 3])
def test_tilted_core_errors(p):
    """Step 3, with M from the very cores whose errors are bounded."""
    rng, x, trials = np.random.default_rng(5), 1.0, 1000
    over, single, ratio = 0, 0, 0.0
    for _ in range(trials):
        basis, change, cores, _, data = part(rng, tilt=0.5, p=p)
        seen = project(basis, data)
        b = ((change @ cores) ** 2).sum((1, 2))
        share, each = tilted_errors(
            seen.root @ seen.spread @ seen.root, 0.09, Missed(b.sum(), b, seen.leverage), x
        )
        size = np.linalg.norm(change @ np.linalg.inv(seen.root)) ** 2
        found = ((change @ (seen.cores - cores)) ** 2).sum((1, 2)) / size
        over += found.sum() > share
        single += (found > each).any()
        ratio = max(ratio, found.sum() / share)
    assert_rare(over, trials, math.exp(-x))
    assert_rare(single, trials, 2 * math.exp(-x))  # it may be the limit of the sum that caps it
    assert ratio > 0.4, "a limit a third as large would be caught"


@pytest.mark.parametrize("p", [1, 2])
def test_tangent_step_against_dense_least_squares(p):
    """Step 4: the equations are those of a dense regression, and its noise has the law that the limits assume."""
    rng, failure, trials, sigma = np.random.default_rng(6), 0.3, 1500, 0.2
    basis, change, cores, theta, data = part(rng, k=10, n=8, d=6, p=p)
    outside = complement(basis)
    values, vectors = np.linalg.eigh(np.einsum("kap,kbp->ab", cores, cores))
    root = (vectors / np.sqrt(values)) @ vectors.T
    rows = []
    for x, a in zip(data.covariates, cores, strict=True):
        z = x @ basis
        left = np.eye(len(x)) - z @ np.linalg.pinv(z)
        rows.append(np.einsum("na,bp->npab", left @ x @ outside, root @ a).reshape(len(x) * p, -1))
    dense = np.concatenate(rows)
    matrix, right = normal_equations(basis, outside, data, root @ cores)
    np.testing.assert_allclose(matrix, dense.T @ dense, atol=1e-10)
    np.testing.assert_allclose(right.ravel(), dense.T @ data.responses.ravel(), atol=1e-10)
    inverse, floor = inverse_and_floor(matrix)
    np.testing.assert_allclose(inverse, np.linalg.inv(dense.T @ dense), rtol=1e-8)
    norm, energy = noise_limits(inverse, floor, root, failure)
    pseudo, clean = np.linalg.pinv(dense), (data.covariates @ theta).ravel()
    lengths, norms = np.empty(trials), np.empty(trials)
    for t in range(trials):
        found = (pseudo @ (clean + sigma * rng.standard_normal(len(clean)))).reshape(-1, 2)
        error = found - change @ np.linalg.inv(root)
        lengths[t], norms[t] = np.linalg.norm(error), np.linalg.norm(error @ root, 2)
    level = sigma**2 * np.trace(inverse)
    assert abs((lengths**2).mean() - level) < 5.5 * (lengths**2).std() / math.sqrt(trials)
    assert_rare(int((lengths > sigma * energy).sum()), trials, failure)
    assert_rare(int((norms > sigma * norm).sum()), trials, failure)
    assert sigma * norm < 3 * np.quantile(norms, 1 - failure)


def test_floors_of_eigenvalues_are_proved():
    rng = np.random.default_rng(7)
    for size in (1, 3, 40):
        g = rng.standard_normal((size + 2, size))
        least = np.linalg.eigvalsh(g.T @ g)[0]
        _, floor = inverse_and_floor(g.T @ g)
        assert 0.5 * least < floor <= least
    start = np.random.default_rng(0).standard_normal(30)  # the smallest eigenvector that the guess cannot see
    hidden = rng.standard_normal(30)
    hidden -= start * (hidden @ start) / (start @ start)
    hidden /= np.linalg.norm(hidden)
    _, floor = inverse_and_floor(np.eye(30) - 0.1 * np.outer(hidden, hidden))
    assert floor <= 0.9
    assert inverse_and_floor(np.ones((4, 4))) is None
    assert inverse_and_floor(-np.eye(3)) is None


def test_angles_add():
    rng = np.random.default_rng(8)
    for _ in range(200):
        base = haar(rng, 6, 2)
        near, far = (np.linalg.qr(base + t * rng.standard_normal((6, 2)))[0] for t in (0.1, rng.uniform(0.05, 1)))
        first, second = ct.subspace_distance(near, base), ct.subspace_distance(base, far)
        assert ct.subspace_distance(near, far) <= angle_sum(first, second) + 1e-12
        total = math.asin(first) + math.asin(second)
        assert angle_sum(first, second) == pytest.approx(math.sin(total) if total < math.pi / 2 else 1.0)
    assert angle_sum(0.8, 0.6) == 1.0


def test_spread_of_the_parts_is_subtracted():
    """‖mean − θ‖² from the parts' errors, when these are stated exactly."""
    rng = np.random.default_rng(9)
    theta, found = rng.standard_normal((5, 4, 1)), rng.standard_normal((3, 5, 4, 1))
    regions = [(judge_like(each, ((each - theta) ** 2).sum()),) for each in found]
    mean = found.mean(0)
    assert _error_by_rows(regions, mean) == pytest.approx(((mean - theta) ** 2).sum())
    assert _error_by_rows(regions, theta) == pytest.approx(4 * ((mean - theta) ** 2).sum())


def test_parts_of_the_users_add_up():
    """(√D + ‖θ̂ − θ̄‖)² of each part's users, by its better region: a truth at the far end is reached."""
    rng = np.random.default_rng(10)
    found, members = rng.standard_normal((5, 4, 1)), [np.arange(5) % 2 == j for j in range(2)]
    regions = [
        (judge_like(found[users], limit), judge_like(found[users] + 100.0, limit))
        for users, limit in zip(members, (0.5, 2.0), strict=True)
    ]
    assert _error_by_users(regions, members, found) == pytest.approx(2.5)
    target = found + 1.0
    sizes = [math.sqrt(4 * users.sum()) for users in members]
    expected = (math.sqrt(0.5) + sizes[0]) ** 2 + (math.sqrt(2.0) + sizes[1]) ** 2
    assert _error_by_users(regions, members, target) == pytest.approx(expected)


def judge_like(weights, error):
    from colora_theory.guarantees.fresh_region import Region

    return Region(np.eye(4, 2), 1.0, weights, error)


def test_core_errors_grow_with_the_upper_limit_of_the_noise(monkeypatch):
    """One round by its own formulas: Σ‖A(â_i − a_i)‖² by the upper limit of σ, what is missed by the lower one."""
    monkeypatch.setattr(fresh_region, "ROUNDS", 1)
    rng = np.random.default_rng(31)
    basis, _, _, _, data = part(rng, k=40, n=30)
    seen = project(basis, data)
    each, x = 0.01 / EVENTS, math.log(EVENTS / 0.01)
    white = seen.root @ seen.spread @ seen.root
    for low, high in ((0.1, 0.3), (0.1, 0.6), (0.3, 0.6)):
        total = total_limit(seen.energies, seen.freedom, 1, low**2, each)
        caps = user_limits(seen.energies, seen.freedom, 1, low**2, each / 2 / 40)
        expected, every = tilted_errors(white, high**2, Missed(total, caps, seen.leverage), x)
        missed = settle(seen, None, low, high, 0.01).missed
        assert missed.share == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(missed.every, every, rtol=1e-12)
        assert missed.size == pytest.approx(math.sqrt(total) / (1.0 - math.sqrt(expected)), rel=1e-12)


def test_an_unknown_noise_takes_its_share_of_the_failures():
    """As with the limit that is found and what is left: EVENTS + 1 events share the probability evenly."""
    rng = np.random.default_rng(32)
    basis, _, _, _, data = part(rng, k=40, n=30)
    left = 0.01 * EVENTS / (EVENTS + 1)
    high = noise_ceiling(project(basis, data), 0.01 / (EVENTS + 1))
    for found, given in zip(judge(basis, data, 0.1, None, 0.01), judge(basis, data, 0.1, high, left), strict=True):
        assert found.radius == pytest.approx(given.radius, rel=1e-12)
        assert found.error == pytest.approx(given.error, rel=1e-12)


def test_what_a_step_may_miss_is_in_its_region(monkeypatch):
    """The radius around its end grows by what the limit of the noise's operator norm grows by."""
    basis, _, _, _, data = part(np.random.default_rng(33), k=200, n=60, sigma=0.1)
    plain, radii = fresh_region.tangent_step, []
    for more in (0.0, 0.01):

        def noisier(*given, more=more):
            step = plain(*given)
            return dataclasses.replace(step, noise=step.noise + more)

        monkeypatch.setattr(fresh_region, "tangent_step", noisier)
        radii.append(judge(basis, data, 0.1, 0.1, 0.01)[1].radius)
    assert radii[1] < 0.5
    assert radii[1] - radii[0] == pytest.approx(0.01, rel=1e-9)


def test_regions_follow_the_units_of_the_responses():
    """Responses and noise times four: the same subspaces, errors sixteen times as large."""
    basis, _, _, _, data = part(np.random.default_rng(34), k=200, n=60, sigma=0.1)
    large = dataclasses.replace(data, responses=4.0 * data.responses)
    for old, new in zip(judge(basis, data, 0.1, 0.12, 0.01), judge(basis, large, 0.4, 0.48, 0.01), strict=True):
        assert 0.0 < old.radius < 1.0
        assert new.radius == pytest.approx(old.radius, rel=1e-9)
        assert new.error == pytest.approx(16.0 * old.error, rel=1e-9)


def test_noise_ceiling():
    rng = np.random.default_rng(10)
    below = 0
    for _ in range(1000):
        basis, _, _, _, data = part(rng, tilt=0.0)
        below += noise_ceiling(project(basis, data), 0.3) < 0.3
    assert_rare(below, 1000, 0.3)
    assert below > 100, "not far above the truth"


# --- the region, the certificate ----------------------------------------------------------------------------


@pytest.mark.parametrize("tilt", [0.02, 0.3, 5.0])
def test_regions_cover_the_truth_whatever_the_subspace(tilt):
    """Also far from the truth, as after a fit that ended in another minimum."""
    rng, failure, trials = np.random.default_rng(11), 0.3, 300
    missed = np.zeros((2, 2), int)
    for _ in range(trials):
        basis, change, _, theta, data = part(rng, k=30, n=25, d=7, tilt=tilt, p=1 + int(rng.integers(2)))
        true = np.linalg.qr(basis + complement(basis) @ change)[0]
        for kind, region in enumerate(judge(basis, data, 0.3, 0.3, failure)):
            missed[kind, 0] += ct.subspace_distance(region.centre, true) > region.radius
            missed[kind, 1] += ((region.weights - theta) ** 2).sum() > region.error
    for count in missed.ravel():
        assert_rare(int(count), trials, failure)


def limits(problem, seed, eta, **options):
    truth = ct.sample_truth(problem, np.random.default_rng([seed, 1]))
    data = ct.sample_data(problem, truth, np.random.default_rng([seed, 2]))
    method = ct.estimators.get("altmin")(rank=problem.rank)
    got = ct.split_certify(method, data, eta=eta, rng=np.random.default_rng([seed, 3]), **options)
    distance = ct.subspace_distance(got.fit.input_subspace, truth.input_subspace)
    error = float(((got.fit.weights - truth.weights) ** 2).sum())
    return got, got.subspace_limit / distance, got.error_limit / error


SMALL = ct.Problem(num_users=30, num_samples=30, dim_in=12, rank=2, noise_std=0.3)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {"noise_std": 0.3}),
        ({}, {"noise_std": 0.3, "by": "rows"}),
        ({}, {"noise_std": (0.2, 0.4), "by": "users"}),
        ({"num_samples": 60}, {"noise_std": None}),
        ({"num_samples": (20, 60), "pretrained_norm": 2.0}, {"noise_std": 0.3, "parts": 3}),
        ({"design": "sensing", "rank": 1}, {"noise_std": 0.3}),
        ({"sampling": "sufficient", "num_samples": 200}, {"noise_std": 0.3}),
        ({"core_distribution": "unit", "incoherence": 8.0}, {"noise_std": 0.3}),
        ({"dim_out": 3, "rank": (2, 2)}, {"noise_std": 0.3}),
        ({"dim_out": 4, "rank": (3, 1), "num_samples": 60, "pretrained_norm": 1.0}, {"noise_std": 0.3}),
    ],
)
def test_coverage_on_small_problems(changes, options):
    """At η = 0.2 not more than a fifth of the limits may fail; and most of them must say something."""
    eta, trials = 0.2, 60
    problem = SMALL.replace(**changes)
    subspace, error = np.array([limits(problem, seed, eta, **options)[1:] for seed in range(trials)]).T
    assert_rare(int(((subspace < 1) | (error < 1)).sum()), trials, eta)
    assert np.median(subspace) < 20
    assert np.median(error) < 40


def test_coverage_over_sizes():
    """Four hundred problems of many sizes, near the threshold too."""
    rng, eta, failed = np.random.default_rng(12), 0.2, 0
    for seed in range(400):
        r = int(rng.integers(1, 4))
        problem = ct.Problem(
            num_users=int(rng.integers(2 * r, 40)),
            num_samples=int(rng.integers(2 * r + 2, 50)),
            dim_in=int(rng.integers(r + 1, 20)),
            rank=r,
            noise_std=float(10 ** rng.uniform(-3, 0.5)),
        )
        _, subspace, error = limits(problem, seed, eta, noise_std=problem.noise_std)
        failed += subspace < 1 or error < 1
    assert_rare(failed, 400, eta)


def test_limits_follow_the_noise_and_the_data():
    quiet, loud = (limits(SMALL.replace(noise_std=s), 0, 0.01, noise_std=s)[0] for s in (0.003, 0.3))
    assert quiet.subspace_limit < 0.02 * loud.subspace_limit
    assert quiet.error_limit < 2e-3 * loud.error_limit
    assert limits(SMALL, 0, 0.2, noise_std=0.3)[0].error_limit < loud.error_limit
    assert limits(SMALL, 0, 0.01, noise_std=(0.2, 0.5))[0].error_limit > loud.error_limit


def test_where_nothing_can_be_said_the_reason_is_given():
    few = SMALL.replace(num_users=3)
    got, _, _ = limits(few, 0, 0.01, noise_std=0.3, by="users", parts=3)
    assert (got.subspace_limit, got.error_limit) == (1.0, math.inf)
    assert "do not span 2 dimensions" in str(got)
    got, _, _ = limits(SMALL.replace(num_samples=5), 0, 0.01, noise_std=0.3, by="rows", parts=4)
    assert "fresh rows" in got.reason
    wide, _, _ = limits(SMALL.replace(noise_std=30.0), 0, 0.01, noise_std=30.0)
    assert wide.subspace_limit == 1.0
    assert "too wide" in wide.reason


def test_plans_depend_on_sizes_alone():
    assert plan_of([100] * 50, 50, 2) == ("rows", 2)
    assert plan_of([20] * 100, 50, 2) == ("users", 2)
    assert plan_of([20] * 100, 200, 2) == ("users", 3)
    assert plan_of([100] * 20, 500, 2) == ("users", 10)
    assert plan_of([500] * 20, 500, 10) == ("rows", 10)
    assert plan_of([5] * 2, 50, 2).parts == 2
    assert plan_of([30], 12, 2, 3) == ("rows", 4)


def test_a_fit_can_be_repeated_on_other_data():
    truth = ct.sample_truth(SMALL, np.random.default_rng(0))
    first, second = (ct.sample_data(SMALL, truth, np.random.default_rng(s)) for s in (1, 2))
    for name, settings in (("altmin", {"rank": 2}), ("full_finetuning", {})):
        method = ct.estimators.get(name)(**settings)
        again = method.fit(first, np.random.default_rng(3)).again(second, np.random.default_rng(3))
        np.testing.assert_array_equal(again.weights, method.fit(second, np.random.default_rng(3)).weights)


@pytest.mark.parametrize("name", ["certified_subspace", "certified_error"])
def test_assertion_of_the_catalogue(name):
    guarantee = ct.guarantees.get(name, failure_probability=0.1)
    verdict = ct.testing.assert_guarantee(guarantee, SMALL, estimator="altmin", trials=200, alpha=1e-6)
    assert verdict.status == "holds", verdict.reason
    truth = ct.sample_truth(SMALL, np.random.default_rng(0))
    data = ct.sample_data(SMALL, truth, np.random.default_rng(1))
    alone = ct.estimators.get("full_finetuning")().fit(data)
    other = ct.estimators.get("altmin")(rank=3).fit(data, np.random.default_rng(2))
    for fit in (None, alone, other):
        assert math.isnan(guarantee.value(SMALL, truth=truth, data=data, fit=fit))
    fit = ct.estimators.get("altmin")(rank=2).fit(data, np.random.default_rng(2))
    value = guarantee.value(SMALL, truth=truth, data=data, fit=fit)
    assert value == guarantee.value(SMALL, truth=truth, data=data, fit=fit), "the same whenever it is asked"


@pytest.mark.parametrize("honest", [CertifiedSubspace, CertifiedError])
def test_a_limit_that_is_too_small_is_caught(honest):
    class TooSmall(honest):  # type: ignore[valid-type, misc]
        def realised(self, problem, truth, data, fit=None):
            return super().realised(problem, truth, data, fit) / 12

    problem = SMALL.replace(num_users=40, num_samples=100, dim_in=20)
    with pytest.raises(AssertionError, match="violated"):
        ct.testing.assert_guarantee(TooSmall(), problem, estimator="altmin", trials=100, alpha=1e-6)


def test_what_is_refused():
    truth = ct.sample_truth(SMALL, np.random.default_rng(0))
    data = ct.sample_data(SMALL, truth, np.random.default_rng(1))
    method = ct.estimators.get("altmin")(rank=2)
    for options, message in (
        ({"eta": 1.0}, "strictly between"),
        ({"by": "columns"}, "users, rows"),
        ({"by": "users", "parts": 31}, "at most 30"),
        ({"noise_std": (0.4, 0.3)}, "low ≤ high"),
        ({"noise_std": (0.1, 0.2, 0.3)}, "pair"),
    ):
        with pytest.raises(ct.InputError, match=message):
            ct.split_certify(method, data, **options)
    with pytest.raises(ct.InputError, match="has none"):
        ct.split_certify(ct.estimators.get("full_finetuning")(), data)
    with pytest.raises(ct.InputError, match=r"fit\(data, rng\)"):
        ct.split_certify("altmin", data)
    wide = SMALL.replace(dim_out=2, design="sensing")
    with pytest.raises(ct.InputError, match="dim_out = 2"):
        ct.split_certify(
            method, ct.sample_data(wide, ct.sample_truth(wide, np.random.default_rng(0)), np.random.default_rng(1))
        )


def test_the_events_are_counted():
    """One for each: energies, Σ‖g‖², Σ‖Ag‖², every ‖Ag_i‖², ‖m‖, and the two norms of the noise of the step."""
    assert EVENTS == 7
    assert {f.name for f in dataclasses.fields(Projected)} == {"cores", "energies", "freedom", "spread", "root"}
