"""Every inequality behind the bounds, alone, by Monte Carlo (false-alarm level 1e-6 or less) or exactly."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from colora_theory.guarantees.concentration import (
    chi_mean,
    chi_upper,
    gaussian_norm_upper,
    scaled_norm_upper,
    smallest_abs_sum,
    weighted_chi2_lower,
    weighted_chi2_upper,
)
from colora_theory.guarantees.one_sweep import (
    EVENTS,
    CoreSizes,
    FittedCores,
    core_step,
    least_singular_value,
    sweep_bound,
    trajectory,
)

TRIALS = 4000


def assert_rare(violations: int, trials: int, probability: float) -> None:
    """The exact binomial test at level 1e-6."""
    assert stats.binom.sf(violations - 1, trials, probability) > 1e-6, (violations, trials, probability)


# --- concentration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 100, 9_999, 10_001, 10**7, 10**15])
def test_mean_norm_in_high_precision(n):
    with mpmath.workdps(60):
        exact = mpmath.sqrt(2) * mpmath.exp(
            mpmath.loggamma((mpmath.mpf(n) + 1) / 2) - mpmath.loggamma(mpmath.mpf(n) / 2)
        )
    assert chi_mean(n) == pytest.approx(float(exact), rel=1e-11)
    assert n / math.sqrt(n + 1) <= chi_mean(n) <= math.sqrt(n)


@pytest.mark.parametrize("n", [1, 5, 60])
def test_norm_of_a_gaussian_vector(n):
    for failure in (0.3, 0.05, 1e-6):
        assert stats.chi2.sf(chi_upper(n, failure) ** 2, n) <= failure


@pytest.mark.parametrize("x", [0.5, 2.0, 4.0])
def test_laurent_massart(x):
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=12) ** 2
    values = rng.chisquare(3, (TRIALS, 12)) @ weights
    high = weighted_chi2_upper(3, weights.sum(), weights.max(), x)
    low = weighted_chi2_lower(3, weights.sum(), weights.max(), x)
    assert_rare(int((values >= high).sum()), TRIALS, math.exp(-x))
    assert_rare(int((values <= low).sum()), TRIALS, math.exp(-x))
    assert (values >= weights.sum() * 3).mean() > 0.2, "the test can fail"


@pytest.mark.parametrize("failure", [0.5, 0.1])
def test_davidson_szarek(failure):
    g = np.random.default_rng(1).standard_normal((TRIALS, 9, 5))
    norms = np.linalg.norm(g, 2, axis=(1, 2))
    assert_rare(int((norms > gaussian_norm_upper(9, 5, failure)).sum()), TRIALS, failure)
    smallest = np.linalg.svd(g, compute_uv=False)[:, -1]
    margin = 3.0 - math.sqrt(5) - math.sqrt(2 * math.log(1 / failure))
    assert_rare(int((smallest < margin).sum()), TRIALS, failure)


@pytest.mark.parametrize("failure", [0.5, 0.1])
def test_chevet_for_scaled_columns(failure):
    rng = np.random.default_rng(2)
    a = rng.exponential(size=15)
    norms = np.linalg.norm(rng.standard_normal((TRIALS, 6, 15)) * a, 2, axis=(1, 2))
    level = scaled_norm_upper(6, a.max(), float(np.linalg.norm(a)), failure)
    assert_rare(int((norms > level).sum()), TRIALS, failure)
    assert level < a.max() * (math.sqrt(6) + math.sqrt(15) + math.sqrt(2 * math.log(1 / failure)))


def test_net_sizes():
    """A maximal ε-separated subset of the unit ball has at most (1 + 2/ε)^dim points and covers the ball."""
    rng = np.random.default_rng(3)
    for dim, epsilon in ((1, 0.3), (2, 0.4), (3, 0.7)):
        points = rng.standard_normal((6000, dim))
        points *= (rng.random((6000, 1)) ** (1 / dim)) / np.linalg.norm(points, axis=1, keepdims=True)
        net: list[np.ndarray] = []
        for point in points:
            if not net or np.linalg.norm(np.array(net) - point, axis=1).min() > epsilon:
                net.append(point)
        assert len(net) <= (1 + 2 / epsilon) ** dim
        assert max(np.linalg.norm(np.array(net) - point, axis=1).min() for point in points[:500]) <= epsilon


def test_products_of_three_near_contractions_are_near():
    """‖ABGᵀ − A′B′G′ᵀ‖ ≤ 3ε in Frobenius norm: the telescoping sum of the GRIP net."""
    rng, epsilon = np.random.default_rng(4), 0.1

    def contraction(*shape):
        raw = rng.standard_normal(shape)
        return raw / np.linalg.norm(raw, 2, axis=(-2, -1), keepdims=True)

    for _ in range(200):
        a, g, b = contraction(6, 2), contraction(5, 3), rng.standard_normal((4, 2, 3))
        b /= np.linalg.norm(b)
        a2, g2 = a + epsilon * contraction(6, 2), g + epsilon * contraction(5, 3)
        step = rng.standard_normal(b.shape)
        b2 = b + epsilon * step / np.linalg.norm(step)
        a2 /= max(1.0, np.linalg.norm(a2, 2))
        g2 /= max(1.0, np.linalg.norm(g2, 2))
        shift = max(np.linalg.norm(a - a2, 2), np.linalg.norm(g - g2, 2), np.linalg.norm(b - b2))
        assert np.linalg.norm(a @ b @ g.T - a2 @ b2 @ g2.T) <= 3 * shift * max(1.0, np.linalg.norm(b2)) + 1e-12


def test_gordon_increments_block_by_block():
    """Var(Y_u,Δ − Y_u′,Δ′) ≥ Var(X − X′) for fixed block norms, with equality when Δ = Δ′."""
    rng = np.random.default_rng(5)
    for _ in range(500):
        t = rng.random(4)
        u, u2 = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in rng.standard_normal((2, 4, 3)))
        x, x2 = rng.standard_normal((2, 4, 5)) * rng.exponential(size=(2, 4, 1))
        for first, second in ((x, x2), (x, x)):
            s, s2 = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
            true = sum(
                t[i] ** 2 * np.linalg.norm(np.outer(u[i], first[i]) - np.outer(u2[i], second[i])) ** 2
                for i in range(4)
            )
            split = sum(
                t[i] ** 2
                * (np.linalg.norm(s[i] * u[i] - s2[i] * u2[i]) ** 2 + np.linalg.norm(first[i] - second[i]) ** 2)
                for i in range(4)
            )
            assert split >= true - 1e-12
            if second is first:
                assert split == pytest.approx(true)


def test_smallest_abs_sum_against_a_fine_search():
    rng = np.random.default_rng(6)
    for r, slack in ((1, 0.0), (2, 1e-3), (3, 0.2), (4, math.inf)):
        for _ in range(5):
            cores = rng.standard_normal((30, r)) * rng.exponential(size=(30, 1))
            v = rng.standard_normal((r, 40_000))
            v /= np.linalg.norm(v, axis=0)
            searched = float(np.abs(cores @ v).sum(0).min())
            bound = smallest_abs_sum(cores)
            assert bound <= searched + 1e-9
            assert bound >= (1 - slack) * searched - 1e-9
    for _ in range(3):  # exact at the kinks: v orthogonal to one core, or to two
        cores = rng.standard_normal((12, 3))
        kinks = [np.cross(cores[i], cores[j]) for i, j in itertools.combinations(range(12), 2)]
        exact = min(float(np.abs(cores @ (v / np.linalg.norm(v))).sum()) for v in kinks)
        assert smallest_abs_sum(cores) <= exact + 1e-9


# --- pooled least squares: the matrix-variate Dirichlet law ------------------------------------------------


def test_dirichlet_second_moments():
    """E[B_i T B_j] = α T + β tr(T) I with the α, β of docs/theory.md, entry by entry."""
    rng, d, n, k = np.random.default_rng(7), 3, 4, 3
    total = n * k
    t = np.diag([1.0, 2.0, -0.5])
    same, cross = [], []
    for _ in range(TRIALS):
        q = np.linalg.qr(rng.standard_normal((total, d)))[0]
        first, second = q[:n].T @ q[:n], q[n : 2 * n].T @ q[n : 2 * n]
        same.append(first @ t @ first)
        cross.append(first @ t @ second)
    scale = (total + 2) * (total - 1)
    beta = n * (total - n) / (total * scale)
    alpha = n / total - n * (total - n) / scale
    for samples, a, b in ((same, alpha, beta), (cross, n * n / scale, -n * n / (total * scale))):
        mean, error = np.mean(samples, axis=0), np.std(samples, axis=0) / math.sqrt(TRIALS)
        assert (np.abs(mean - a * t - b * np.trace(t) * np.eye(d)) <= 5.5 * error + 1e-12).all()


def test_wishart_trace_times_inverse_trace():
    """E[tr S · tr S⁻¹] = d (Nd − 2)/(N − d − 1)."""
    rng, d, n = np.random.default_rng(8), 4, 15
    x = rng.standard_normal((TRIALS, n, d))
    s = x.swapaxes(1, 2) @ x
    values = np.trace(s, axis1=1, axis2=2) * np.trace(np.linalg.inv(s), axis1=1, axis2=2)
    assert abs(values.mean() - d * (n * d - 2) / (n - d - 1)) <= 4.9 * values.std() / math.sqrt(TRIALS)


# --- one sweep: the core step ------------------------------------------------------------------------------


def core_errors(rng, trials, n1, r, tau):
    """f_i = least squares of pure noise of standard deviation τ on N(0, I_r) features."""
    z, w = rng.standard_normal((trials, n1, r)), tau * rng.standard_normal((trials, n1, 1))
    zt = z.swapaxes(1, 2)
    return np.linalg.solve(zt @ z, zt @ w)[:, :, 0]


def test_core_errors_follow_the_f_law():
    """‖f‖² (m/r)/τ² ~ F(r, m), m = n1 − r + 1: Kolmogorov–Smirnov, and mean and variance as used."""
    n1, r, tau = 12, 3, 0.7
    m = n1 - r + 1
    squares = (core_errors(np.random.default_rng(9), 20_000, n1, r, tau) ** 2).sum(1)
    assert stats.kstest(squares * m / (r * tau**2), stats.f(r, m).cdf).pvalue > 1e-6
    ratio = stats.f(r, m)
    assert ratio.mean() * r / m == pytest.approx(r / (m - 2))
    assert ratio.var() * (r / m) ** 2 == pytest.approx(2 * r * (r + m - 2) / ((m - 2) ** 2 * (m - 4)))


def test_fitted_cores_in_a_tilted_subspace():
    """ĉ = Qc + f with the noise τ² = ‖U_⊥ᵀU*c‖² + σ², by full simulation of the core step."""
    rng, d, r, n1, noise = np.random.default_rng(10), 9, 2, 11, 0.3
    true = np.linalg.qr(rng.standard_normal((d, r)))[0]
    u = np.linalg.qr(true + 0.3 * rng.standard_normal((d, r)))[0]
    c = np.array([1.0, -0.5])
    x = rng.standard_normal((TRIALS, n1, d))
    y = x @ (true @ c) + noise * rng.standard_normal((TRIALS, n1))
    z = x @ u
    f = np.linalg.solve(z.swapaxes(1, 2) @ z, z.swapaxes(1, 2) @ y[:, :, None])[:, :, 0] - u.T @ true @ c
    tau2 = float(np.linalg.norm(true @ c - u @ (u.T @ true @ c)) ** 2 + noise**2)
    m = n1 - r + 1
    assert stats.kstest((f**2).sum(1) * m / (r * tau2), stats.f(r, m).cdf).pvalue > 1e-6


@pytest.mark.parametrize(("k", "n1", "each"), [(10, 9, 0.05), (60, 40, 0.05), (200, 150, 0.2)])
def test_core_step_bounds(k, n1, each):
    rng, r, d, noise, trials = np.random.default_rng(11), 2, 8, 0.4, 800
    cores = rng.standard_normal((k, r))
    sizes, distance = CoreSizes.of(cores, d), 0.3
    step = core_step(sizes, distance, n1, noise, each)
    true = np.linalg.qr(rng.standard_normal((d, r)))[0]
    outside = np.linalg.qr(np.column_stack([true, rng.standard_normal((d, r))]))[0][:, r:]
    u = true * math.sqrt(1 - distance**2) + outside * distance
    tau = np.sqrt(np.linalg.norm(cores @ (true - u @ (u.T @ true)).T, axis=1) ** 2 + noise**2)
    f = core_errors(rng, trials * k, n1, r, 1.0).reshape(trials, k, r) * tau[:, None]
    norms = np.linalg.norm(f, axis=2)
    assert_rare(int((norms.max(1) > step.largest).sum()), trials, each)
    assert_rare(int(((norms**2).sum(1) > step.frobenius**2).sum()), trials, 2 * each)
    assert_rare(int((np.linalg.norm(f, 2, axis=(1, 2)) > step.operator).sum()), trials, 3 * each)
    errors = (norms**2).sum(1) + np.linalg.norm(cores @ (true - u @ (u.T @ true)).T) ** 2
    assert_rare(int((errors > step.error).sum()), trials, 2 * each)


def test_fitted_cores_are_bounded_by_weyl():
    """σ_min(QC + F) ≥ qσ_min − ‖F‖, and Σ|vᵀ(Qc_i + f_i)| ≥ q D1 − √k ‖F‖, deterministically."""
    rng = np.random.default_rng(12)
    for _ in range(300):
        r, k = 2, 9
        c, f = rng.standard_normal((k, r)), 0.1 * rng.standard_normal((k, r))
        u, w = (np.linalg.qr(rng.standard_normal((7, r)))[0] for _ in range(2))
        q = u.T @ w
        small = np.linalg.svd(q, compute_uv=False)[-1]
        fitted = c @ q.T + f
        norm = np.linalg.norm(f, 2)
        values = np.linalg.svd(fitted, compute_uv=False)
        assert values[-1] >= small * np.linalg.svd(c, compute_uv=False)[-1] - norm - 1e-12
        assert smallest_abs_sum(fitted) >= small * smallest_abs_sum(c) - math.sqrt(k) * norm - 1e-9


# --- one sweep: the U step ---------------------------------------------------------------------------------


def test_frisch_waugh():
    rng = np.random.default_rng(13)
    for _ in range(50):
        first, second, w = rng.standard_normal((30, 4)), rng.standard_normal((30, 5)), rng.standard_normal(30)
        full = np.linalg.lstsq(np.column_stack([first, second]), w, rcond=None)[0][4:]
        rest = np.eye(30) - first @ np.linalg.pinv(first)
        assert np.allclose(full, np.linalg.lstsq(rest @ second, rest @ w, rcond=None)[0])


def fitted_sizes(cores: np.ndarray) -> FittedCores:
    values = np.linalg.svd(cores, compute_uv=False)
    return FittedCores(
        cores.shape[1], float(np.linalg.norm(cores, axis=1).max()), float(values[-1]), float(values[0]),
        float(np.linalg.norm(cores)), smallest_abs_sum(cores),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("k", "n2", "b", "removed"), [(60, 60, 2, 0), (60, 60, 2, 8), (300, 40, 3, 4), (8, 900, 2, 2)]
)
def test_least_singular_value_of_the_block(k, n2, b, removed):
    rng, r, each, trials = np.random.default_rng(14), 2, 0.2, 60
    cores = rng.standard_normal((k, r))
    cores /= np.linalg.norm(cores, axis=1, keepdims=True)
    bound = least_singular_value(fitted_sizes(cores), k, n2, b, removed, each)
    assert bound > 0, "informative"
    found = []
    for _ in range(trials):
        h = rng.standard_normal((k, n2, b))
        rows = np.einsum("kr,knb->knrb", cores, h).reshape(k * n2, r * b)
        if removed:
            other = rng.standard_normal((k * n2, removed))
            rows = rows - other @ np.linalg.lstsq(other, rows, rcond=None)[0]
        found.append(np.linalg.svd(rows, compute_uv=False)[-1])
    assert_rare(int((np.array(found) < bound).sum()), trials, each)


def test_moment_of_the_orthogonal_block():
    """‖Φ_⊥ᵀ w‖_F ≤ (√(d−r) + √(2 ln 1/e)) ĉ_max ‖w‖ for w independent of the block."""
    rng, k, n2, b, each = np.random.default_rng(15), 12, 6, 5, 0.2
    cores, w = rng.standard_normal((k, 2)), rng.standard_normal((k, n2))
    h = rng.standard_normal((TRIALS, k, n2, b))
    moments = np.einsum("tknb,kn,kr->tbr", h, w, cores, optimize=True)
    level = chi_upper(b, each) * np.linalg.norm(cores, axis=1).max() * np.linalg.norm(w)
    assert_rare(int((np.linalg.norm(moments, axis=(1, 2)) > level).sum()), TRIALS, each)


def test_tilted_columns_have_a_small_angle():
    """With U₊ = U*(Q⁻¹ + E_∥) + U*_⊥E_⊥ and ‖Q‖ ≤ 1: tan θ ≤ ‖E_⊥‖/(1 − ‖E_∥‖)."""
    rng = np.random.default_rng(16)
    for _ in range(300):
        d, r = 8, 3
        full = np.linalg.qr(rng.standard_normal((d, d)))[0]
        true, rest = full[:, :r], full[:, r:]
        q = np.linalg.qr(rng.standard_normal((d, r)))[0].T @ true
        inside, across = 0.2 * rng.standard_normal((r, r)), 0.3 * rng.standard_normal((d - r, r))
        plus = np.linalg.qr(true @ (np.linalg.inv(q) + inside) + rest @ across)[0]
        sine = np.linalg.norm(rest.T @ plus, 2)
        shrink = 1 - np.linalg.norm(inside, 2)
        if shrink > 0:
            assert sine / math.sqrt(max(1e-300, 1 - sine**2)) <= np.linalg.norm(across) / shrink + 1e-9


def simulate_sweep(rng, true, u, cores, n1, n2, noise):
    """One sweep by dense normal equations, independent of the package's estimators."""
    d, r = true.shape
    x = rng.standard_normal((len(cores), n1, d))
    y = np.einsum("knd,dr,kr->kn", x, true, cores) + noise * rng.standard_normal((len(cores), n1))
    z = x @ u
    fitted = np.linalg.solve(z.swapaxes(1, 2) @ z, z.swapaxes(1, 2) @ y[:, :, None])[:, :, 0]
    error = float(((fitted @ u.T - cores @ true.T) ** 2).sum())
    x = rng.standard_normal((len(cores), n2, d))
    y = np.einsum("knd,dr,kr->kn", x, true, cores) + noise * rng.standard_normal((len(cores), n2))
    gram = np.einsum("kab,kr,ks->arbs", x.swapaxes(1, 2) @ x, fitted, fitted, optimize=True).reshape(d * r, d * r)
    right = np.einsum("knd,kn,kr->dr", x, y, fitted, optimize=True).reshape(-1)
    return np.linalg.qr(np.linalg.solve(gram, right).reshape(d, r))[0], error


@pytest.mark.parametrize(("d", "r", "k", "n"), [(12, 1, 250, 60), (10, 2, 300, 150)])
def test_one_sweep_against_a_dense_reference(d, r, k, n):
    rng, noise, trials = np.random.default_rng(17), 0.1, 12
    for _ in range(trials):
        true = np.linalg.qr(rng.standard_normal((d, r)))[0]
        cores = rng.standard_normal((k, r))
        cores /= np.linalg.norm(cores, axis=1, keepdims=True)
        u = np.linalg.qr(true + 0.03 * rng.standard_normal((d, r)))[0]
        distance = float(np.linalg.norm(true - u @ (u.T @ true), 2))
        bound, step = sweep_bound(CoreSizes.of(cores, d), distance, n, n, noise, 1e-6)
        assert bound < 0.5, "informative"
        plus, error = simulate_sweep(rng, true, u, cores, n, n, noise)
        assert np.linalg.norm(true - plus @ (plus.T @ true), 2) <= bound
        assert error <= step.error


def test_trajectories_improve_and_degrade_as_they_should():
    rng = np.random.default_rng(18)
    cores = rng.standard_normal((1000, 2))
    cores /= np.linalg.norm(cores, axis=1, keepdims=True)
    sizes = CoreSizes.of(cores, 50)
    path = trajectory(sizes, 0.3, 100, 0.05, 3, 0.01)
    assert path[0] > path[1] > path[2] >= path[3]
    assert path[3] < 0.007
    assert trajectory(sizes, 0.3, 200, 0.05, 3, 0.01)[-1] < path[-1]
    assert trajectory(sizes, 0.3, 100, 0.2, 3, 0.01)[-1] > path[-1]
    assert trajectory(sizes, 1.0, 100, 0.05, 1, 0.01) == [1.0, 1.0]
    few = CoreSizes.of(cores[:20], 50)
    assert sweep_bound(few, 0.3, 100, 100, 0.05, 0.01)[0] == 1.0
    assert sweep_bound(sizes, 0.3, 4, 100, 0.05, 0.01) == (1.0, None)
    assert EVENTS == 10
