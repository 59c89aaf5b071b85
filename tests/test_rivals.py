"""Rivals against independent references: scikit-learn, CVXPY, brute force, identities."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import pytest
from conftest import draw
from reference import user_system
from sklearn.linear_model import Lasso
from sklearn.linear_model import Ridge as SklearnRidge

import colora_theory as ct
from colora_theory.estimators.personal_parts import remaining
from colora_theory.estimators.proximal import NuclearNorm, Sparse
from colora_theory.estimators.rank_selection import choose_rank
from colora_theory.estimators.robust_multitask import group_shrink
from colora_theory.estimators.starts import distinct_pairs
from colora_theory.estimators.tuning import Tuned, choose, folds

get = ct.estimators.get


@pytest.mark.parametrize("design", ["regression", "sensing"])
def test_ridge_is_scikit_learns(design: str) -> None:
    p = ct.Problem(num_users=5, num_samples=9, dim_in=6, dim_out=3, rank=2, noise_std=0.3, design=design)
    _, data = draw(p, 0)
    got = get("ridge")(penalty=2.5).fit(data).weights
    for i in range(5):
        matrices, answers = user_system(data, i)
        reference = SklearnRidge(alpha=2.5, fit_intercept=False).fit(matrices.reshape(len(matrices), -1), answers)
        np.testing.assert_allclose(got[i].ravel(), reference.coef_, atol=1e-10)


def test_the_cross_validated_penalty_is_the_best_of_its_grid() -> None:
    p = ct.Problem(num_users=30, num_samples=15, dim_in=12, rank=12, noise_std=0.5)
    truth, data = draw(p, 1)
    fit = get("ridge")().fit(data)
    chosen = fit.history["penalty"]
    scores = {}
    for penalty in (chosen / 30, chosen, chosen * 30):
        score = 0.0
        for x, y in zip(data.covariates, data.responses, strict=True):
            hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(12), x.T)
            score += 15 * float(((y - hat @ y) ** 2).sum()) / (15 - np.trace(hat)) ** 2
        scores[penalty] = score
    assert min(scores, key=lambda key: scores[key]) == chosen
    # Cross-validation pays: better than least squares in the mean.
    plain = get("full_finetuning")().fit(data)
    assert ct.metrics.parameter_error(p, truth, fit) < 0.8 * ct.metrics.parameter_error(p, truth, plain)


def test_lora_is_the_best_low_rank_fit() -> None:
    """Against brute force: alternating least squares from many starts, user by user."""
    p = ct.Problem(num_users=4, num_samples=12, dim_in=4, dim_out=4, rank=2, noise_std=1.0)
    _, data = draw(p, 2)
    got = get("lora")(rank=1).fit(data).weights
    rng = np.random.default_rng(0)
    for i in range(4):
        x, y = data.covariates[i], data.responses[i]
        best = np.inf
        for _ in range(10):
            v = rng.standard_normal((4, 1))
            for _ in range(300):
                u = np.linalg.lstsq(x, y @ v / (v.T @ v), rcond=None)[0]
                v = y.T @ (x @ u) / float(((x @ u) ** 2).sum())
            best = min(best, float(((y - x @ u @ v.T) ** 2).sum()))
        assert ((y - x @ got[i]) ** 2).sum() <= best * (1 + 1e-8)
        assert np.linalg.matrix_rank(got[i], tol=1e-9) == 1


def test_lora_in_the_sensing_design_reaches_the_brute_force_minimum() -> None:
    p = ct.Problem(num_users=3, num_samples=40, dim_in=4, dim_out=3, rank=1, noise_std=0.3, design="sensing")
    _, data = draw(p, 3)
    got = get("lora")(rank=1).fit(data).weights
    rng = np.random.default_rng(0)
    for i in range(3):
        a, y = user_system(data, i)
        best = np.inf
        for _ in range(10):
            v = rng.standard_normal(3)
            for _ in range(200):
                u = np.linalg.lstsq(a @ v, y, rcond=None)[0]
                v = np.linalg.lstsq(np.swapaxes(a, 1, 2) @ u, y, rcond=None)[0]
            best = min(best, float(((y - np.einsum("nab,a,b->n", a, u, v)) ** 2).sum()))
        value = float(((y - np.einsum("nab,ab->n", a, got[i])) ** 2).sum())
        assert value <= best * (1 + 1e-8)


def test_lora_with_one_output_is_full_fine_tuning() -> None:
    _, data = draw(ct.Problem(num_users=6, num_samples=20, dim_in=5, rank=2, noise_std=1.0), 4)
    lora, full = get("lora")(rank=2).fit(data).weights, get("full_finetuning")().fit(data).weights
    np.testing.assert_allclose(lora, full, atol=1e-10)


def test_the_adapter_sees_only_the_frozen_layers_outputs() -> None:
    """Brute force with p = 2: ΔW = W_0 M, M of rank one parametrised by an angle and a vector."""
    p = ct.Problem(num_users=2, num_samples=30, dim_in=5, dim_out=2, rank=1, noise_std=0.5, pretrained_norm=2.0)
    _, data = draw(p, 5)
    got = get("adapter")(rank=1).fit(data)
    assert data.pretrained is not None
    for i in range(2):
        h, y = data.covariates[i] @ data.pretrained, data.residual_responses()[i]
        best = np.inf
        for angle in np.linspace(0, np.pi, 4001):
            q = np.array([np.cos(angle), np.sin(angle)])
            column = np.linalg.lstsq(h, y @ q, rcond=None)[0]
            best = min(best, float(((y - np.outer(h @ column, q)) ** 2).sum()))
        value = float(((y - data.covariates[i] @ (got.weights[i] - data.pretrained)) ** 2).sum())
        assert value == pytest.approx(best, rel=1e-5)
    with pytest.raises(ct.InputError, match="adapter is not defined without a pretrained weight"):
        get("adapter")(rank=1).fit(draw(p.replace(pretrained_norm=0.0), 5)[1])


def test_bitfit_finds_the_intercepts() -> None:
    p = ct.Problem(num_users=4, num_samples=5000, dim_in=2, rank=1, intercept_std=3.0, signal_norm=0.1)
    truth, data = draw(p, 6)
    fit = get("bitfit")().fit(data)
    assert fit.intercepts is not None
    np.testing.assert_allclose(fit.intercepts, truth.intercepts, atol=0.02)
    np.testing.assert_allclose(fit.intercepts, data.responses.mean(1))


@pytest.mark.parametrize("design", ["regression", "sensing"])
def test_lasso_is_scikit_learns(design: str) -> None:
    p = ct.Problem(num_users=3, num_samples=20, dim_in=6, dim_out=2, rank=1, noise_std=0.3, design=design)
    _, data = draw(p, 7)
    fit = Sparse(penalty=4.0, tol=1e-12).fit(data)
    assert fit.status == "converged"
    for i in range(3):
        matrices, answers = user_system(data, i)
        n = len(answers)
        reference = Lasso(alpha=4.0 / n, fit_intercept=False, tol=1e-10, max_iter=10**5)
        reference.fit(matrices.reshape(n, -1), answers)
        np.testing.assert_allclose(fit.weights[i].ravel(), reference.coef_, atol=1e-5)


def test_hard_thresholding_finds_the_best_support() -> None:
    """Brute force over all supports of size two, on well-conditioned designs."""
    rng = np.random.default_rng(8)
    xs = [rng.standard_normal((60, 6)) for _ in range(4)]
    ys = [x[:, [i, i + 2]] @ np.array([1.0, -2.0]) + 0.1 * rng.standard_normal(60) for i, x in enumerate(xs)]
    fit = Sparse(method="iht", sparsity=2).fit(ct.Dataset.from_arrays(xs, ys))
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        values = {
            s: float(np.linalg.lstsq(x[:, s], y, rcond=None)[1][0]) for s in itertools.combinations(range(6), 2)
        }
        best = min(values, key=lambda s: values[s])
        assert tuple(np.flatnonzero(fit.weights[i, :, 0])) == best
        reference = np.linalg.lstsq(x[:, best], y, rcond=None)[0]
        np.testing.assert_allclose(fit.weights[i, best, 0], reference, atol=1e-9)
    with pytest.raises(ct.InputError, match="sparsity must be given"):
        Sparse(method="iht")
    with pytest.raises(ct.InputError, match="method must be one of l1, iht"):
        Sparse(method="l0")


def test_the_scaled_lasso_estimates_the_noise_and_the_support() -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((400, 30))
    y = x[:, :2] @ np.array([3.0, -3.0]) + 0.5 * rng.standard_normal(400)
    fit = Sparse().fit(ct.Dataset.from_arrays([x], [y]))
    assert set(np.flatnonzero(fit.weights[0, :, 0])) == {0, 1}
    np.testing.assert_allclose(fit.weights[0, :2, 0], [3.0, -3.0], atol=0.2)


@pytest.mark.parametrize("design", ["regression", "sensing"])
@pytest.mark.parametrize("seed", range(3))
def test_nuclear_norm_reaches_cvxpys_objective(design: str, seed: int) -> None:
    p = ct.Problem(num_users=3, num_samples=7, dim_in=5, dim_out=2, rank=2, noise_std=0.3, design=design)
    _, data = draw(p, 10 + seed)
    fit = NuclearNorm(penalty=2.0, tol=1e-10, max_sweeps=50_000).fit(data)
    assert fit.status == "converged"
    unknown = [cp.Variable((5, 2)) for _ in range(3)]
    misfit = 0.0
    for i in range(3):
        matrices, answers = user_system(data, i)
        flat = matrices.reshape(len(matrices), -1)
        misfit += 0.5 * cp.sum_squares(flat @ cp.vec(unknown[i], order="C") - answers)
    program = cp.Problem(cp.Minimize(misfit + 2.0 * cp.normNuc(cp.hstack(unknown))))
    program.solve(solver=cp.CLARABEL)
    value = 0.0
    for i in range(3):
        matrices, answers = user_system(data, i)
        value += 0.5 * float(((matrices.reshape(len(matrices), -1) @ fit.weights[i].ravel() - answers) ** 2).sum())
    value += 2.0 * float(np.linalg.norm(np.hstack(list(fit.weights)), "nuc"))
    assert value == pytest.approx(program.value, rel=1e-5)


def test_group_shrinkage_is_the_minimiser() -> None:
    rng = np.random.default_rng(11)
    x, r = rng.standard_normal((4, 9, 5)), rng.standard_normal((4, 9, 2))
    level = np.array([0.5, 3.0, 8.0, 1e3])
    left, values, right = np.linalg.svd(x, full_matrices=False)
    got, tau = group_shrink(values, left.swapaxes(1, 2) @ r, right, level)
    for i in range(4):
        unknown = cp.Variable((5, 2))
        program = cp.Problem(
            cp.Minimize(0.5 * cp.sum_squares(x[i] @ unknown - r[i]) + level[i] * cp.norm(unknown, "fro"))
        )
        program.solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(got[i], unknown.value, atol=1e-4)
    assert not got[3].any()
    assert np.isinf(tau[3])
    np.testing.assert_allclose(tau[:3] * np.linalg.norm(got[:3], axis=(1, 2)), level[:3])


def test_the_robust_method_ends_where_nothing_can_move() -> None:
    """Stationary in D, in the cores and in U: the data's moments are λ_i D_i/‖D_i‖ (at most λ_i where D_i = 0) and
    orthogonal to the tangent space of the centre.
    """
    p = ct.Problem(
        num_users=30, num_samples=40, dim_in=15, rank=2, noise_std=0.1, outlier_fraction=0.2, outlier_norm=3.0
    )
    for seed in range(5):
        _, data = draw(p, seed)
        fit = get("robust_multitask")(rank=2, noise_tol=0.0, tol=1e-10).fit(data, np.random.default_rng(0))
        assert fit.status == "converged"
        assert fit.sweeps < 60
        own, u = fit.history["personal"], fit.input_subspace
        moments = data.covariates.swapaxes(1, 2) @ (data.responses - data.covariates @ fit.weights)
        sizes, size = np.linalg.norm(own, axis=(1, 2)), np.linalg.norm(moments, axis=(1, 2))
        level = size[sizes > 0].mean()  # of all users alike: they have the same number of samples
        np.testing.assert_allclose(size[sizes > 0], level, rtol=1e-6)
        assert (size[sizes == 0] <= level).all()
        aligned = np.einsum("kab,kab->k", moments, own)[sizes > 0]
        np.testing.assert_allclose(aligned, level * sizes[sizes > 0], rtol=1e-6)
        scale = np.abs(data.covariates.swapaxes(1, 2) @ data.responses).max()
        np.testing.assert_allclose(u.T @ moments, 0.0, atol=1e-6 * scale)
        np.testing.assert_allclose(np.einsum("kab,kcb->ac", moments, fit.cores), 0.0, atol=1e-6 * scale)


def test_outliers_do_not_bend_the_robust_method() -> None:
    p = ct.Problem(
        num_users=30, num_samples=40, dim_in=15, rank=2, noise_std=0.1, outlier_fraction=0.1, outlier_norm=8.0
    )
    truth, data = draw(p, 12)
    good = ~truth.outliers
    errors = {
        name: ct.metrics.user_errors(truth, get(name)(rank=2).fit(data, np.random.default_rng(0)))[good].mean()
        for name in ("robust_multitask", "altmin")
    }
    assert errors["robust_multitask"] < 0.2 * errors["altmin"]


def test_sparse_personal_parts_are_found() -> None:
    p = ct.Problem(
        num_users=40,
        num_samples=60,
        dim_in=20,
        rank=2,
        noise_std=0.05,
        deviation="sparse",
        deviation_norm=1.0,
        deviation_level=2,
    )
    truth, data = draw(p, 13)
    fit = get("lowrank_plus_sparse")(rank=2, sparsity=2).fit(data, np.random.default_rng(0))
    assert ct.metrics.relative_error(p, truth, fit) < 0.05
    found = (fit.history["personal"] != 0) == (truth.deviations != 0)
    assert found.mean() > 0.98
    plain = get("altmin")(rank=2).fit(data, np.random.default_rng(0))
    assert ct.metrics.parameter_error(p, truth, fit) < 0.05 * ct.metrics.parameter_error(p, truth, plain)


def test_own_adapters_are_found() -> None:
    p = ct.Problem(
        num_users=30, num_samples=40, dim_in=10, dim_out=6, rank=(2, 2), noise_std=0.05,
        deviation="low_rank", deviation_norm=0.5,
    )  # fmt: skip
    truth, data = draw(p, 14)
    errors = {
        name: ct.metrics.parameter_error(p, truth, get(name)(rank=(2, 2)).fit(data, np.random.default_rng(0)))
        for name in ("shared_plus_personal", "altmin")
    }
    full = ct.metrics.parameter_error(p, truth, get("full_finetuning")().fit(data))
    assert errors["shared_plus_personal"] < min(errors["altmin"], full)


def test_distillation_with_many_covariates_projects_the_teacher() -> None:
    """dim_out = 1: the student tends to the truncated singular value decomposition of the teacher's weights."""
    p = ct.Problem(num_users=12, num_samples=20, dim_in=8, rank=2, noise_std=0.5)
    _, data = draw(p, 15)
    fit = get("distillation")(rank=2, unlabeled=20_000).fit(data, np.random.default_rng(0))
    teacher = fit.history["teacher"][..., 0].T
    left, values, right = np.linalg.svd(teacher, full_matrices=False)
    projected = (left[:, :2] * values[:2]) @ right[:2]
    np.testing.assert_allclose(fit.weights[..., 0].T, projected, atol=0.03 * np.abs(teacher).max())
    pooled = get("distillation")(rank=1, teacher="pooled").fit(data, np.random.default_rng(0))
    np.testing.assert_allclose(pooled.weights, pooled.weights[:1].repeat(12, 0), atol=1e-9)
    with pytest.raises(ct.InputError, match="teacher must be one of"):
        get("distillation")(rank=2, teacher="guru")
    with pytest.raises(ct.InputError, match="pass rng"):
        get("distillation")(rank=2, unlabeled=5).fit(data)


def test_transfer_never_lets_the_new_user_touch_the_subspaces() -> None:
    p = ct.Problem(num_users=20, num_samples=30, dim_in=10, rank=2, noise_std=0.1)
    truth, data = draw(p, 16)
    fit = get("transfer")(rank=2, sources=19).fit(data, np.random.default_rng(0))
    changed = data.responses.copy()
    changed[19] += 5.0
    other = ct.Dataset(covariates=data.covariates, responses=changed, counts=data.counts)
    again = get("transfer")(rank=2, sources=19).fit(other, np.random.default_rng(0))
    np.testing.assert_array_equal(fit.input_subspace, again.input_subspace)
    frozen = get("transfer")(input_subspace=truth.input_subspace).fit(data)
    oracle = get("oracle_subspace")(input_subspace=truth.input_subspace).fit(data)
    np.testing.assert_allclose(frozen.weights, oracle.weights, atol=1e-12)
    with pytest.raises(ct.InputError, match="sources must lie between 1 and"):
        get("transfer")(rank=2, sources=20).fit(data)


@pytest.mark.parametrize("design", ["regression", "sensing"])
def test_distinct_pairs_against_the_double_loop(design: str) -> None:
    p = ct.Problem(num_users=3, num_samples=(6, 4), dim_in=4, dim_out=2, rank=2, noise_std=0.5, design=design)
    _, data = draw(p, 17)
    reference = np.zeros((4, 4))
    for i in range(3):
        n = int(data.counts[i])
        for j, l in itertools.permutations(range(n), 2):
            one, other = (
                np.outer(data.covariates[i, m], data.responses[i, m])
                if design == "regression"
                else data.covariates[i, m] * data.responses[i, m]
                for m in (j, l)
            )
            reference += one @ other.T / (n - 1)
    np.testing.assert_allclose(distinct_pairs(data)[0], reference, atol=1e-10)
    with pytest.raises(ct.InputError, match="need raw rows"):
        distinct_pairs(draw(p.replace(sampling="sufficient", num_samples=50), 0)[1])


@pytest.mark.parametrize(
    "fields",
    [
        dict(num_users=40, num_samples=40, dim_in=20, rank=3, noise_std=0.1),
        dict(num_users=40, num_samples=30, dim_in=30, rank=2, noise_std=0.3, core_distribution="unit"),
        dict(num_users=30, num_samples=30, dim_in=12, rank=3, dim_out=5, noise_std=0.2),
        dict(num_users=30, num_samples=60, dim_in=10, rank=2, dim_out=4, design="sensing", noise_std=0.1),
        dict(num_users=40, num_samples=40, dim_in=20, rank=3),
        dict(num_users=30, num_samples=100, dim_in=10, rank=2, noise_std=0.2, sampling="sufficient"),
    ],
)
def test_the_rank_is_found(fields: dict[str, object]) -> None:
    p = ct.Problem(**fields)
    hits = 0
    for seed in range(8):
        _, data = draw(p, 30 + seed)
        hits += choose_rank(data, np.random.default_rng(seed)) == p.rank_in
    assert hits >= 7
    auto = get("altmin")(rank="auto").fit(data, np.random.default_rng(0))
    assert auto.cores is not None
    assert abs(auto.cores.shape[1] - p.rank_in) <= 1


def test_the_rank_needs_samples() -> None:
    _, data = draw(ct.Problem(num_users=5, num_samples=1, dim_in=4, rank=1), 0)
    with pytest.raises(ct.InputError, match="rank = 'auto' needs at least two samples"):
        choose_rank(data)


def test_a_sweep_that_stands_still_ends_no_geometric_series() -> None:
    """Moves of rounding size may be exactly zero and then not: the rate is unknown, not a division by zero."""
    assert remaining([1.0, 0.0, 1e-16, 0.0, 1e-16, 0.0, 1e-16]) == np.inf
    assert remaining([1.0, 0.1, 1e-2, 1e-3, 1e-4, 0.0]) == 0.0
    assert remaining([1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125]) == pytest.approx(0.03125)


@dataclass(frozen=True, kw_only=True)
class Shrunk(Tuned):
    """Least squares over 1 + strength."""

    name = "fake_shrunk"
    GRID = (0.0, 0.02, 0.05, 0.1, 0.3, 1.0, 4.0)
    strength: float = 0.0

    def fit(self, data: ct.Dataset, rng: np.random.Generator | None = None) -> ct.estimators.Fit:
        found = ct.estimators.get("full_finetuning")().fit(data, rng)
        return ct.estimators.Fit(status="converged", dense=found.weights / (1.0 + self.strength))


def test_one_standard_error_is_the_most_penalised_value_within_it() -> None:
    """Against the rule written out: excess over the best, per user, at most its standard error over users."""
    p = ct.Problem(num_users=12, num_samples=20, dim_in=3, rank=2, noise_std=1.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        data = ct.sample_data(p, ct.sample_truth(p, rng), rng)
        errors = np.zeros((len(Shrunk.GRID), p.num_users))
        for train, test in folds(data):
            for j, strength in enumerate(Shrunk.GRID):
                left = test.responses - test.covariates @ Shrunk(strength=strength).fit(train).weights
                errors[j] += (left**2).sum(axis=(1, 2))
        best = int(errors.sum(1).argmin())
        within = [
            j for j, each in enumerate(errors - errors[best]) if each.sum() / 12 <= np.sqrt(each.var(ddof=1) / 12)
        ]
        assert choose(Shrunk(tune="cv"), data) == Shrunk.GRID[best]
        assert choose(Shrunk(tune="cv_1se"), data) == Shrunk.GRID[within[-1]]
        assert best <= within[-1] < len(Shrunk.GRID) - 1
