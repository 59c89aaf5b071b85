"""Held-out weights of hierarchical, penalties by cross-validation, and ridge cores: against other routes."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import draw

import colora_theory as ct
from colora_theory.estimators.core_penalty import likeliest, with_core_penalty
from colora_theory.estimators.prior_stacking import combination
from colora_theory.estimators.tuning import choose, folds, squared_errors

get = ct.estimators.get


def error(fit: ct.estimators.Fit, truth: ct.Truth) -> float:
    return float(((fit.weights - truth.weights) ** 2).sum())


def problem(k: int, n: int, d: int, angle: float) -> ct.Problem:
    return ct.Problem(
        num_users=k,
        num_samples=n,
        dim_in=d,
        rank=2,
        noise_std=0.3,
        similarity_angle=angle,
        core_distribution="unit",
    )


@pytest.mark.parametrize(
    ("k", "n", "d", "angle", "limit"),
    [
        (5, 15, 10, 0.4, 1.05),
        pytest.param(5, 60, 40, 0.3, 1.05, marks=pytest.mark.slow),
        pytest.param(5, 4, 10, 0.2, 1.15, marks=pytest.mark.slow),
        pytest.param(40, 15, 40, 0.3, 1.05, marks=pytest.mark.slow),
    ],
)
def test_collaboration_never_hurts_with_few_users(k, n, d, angle, limit):
    """Over the least mean error of four simpler methods, twice the Monte Carlo error of the ratio allowed."""
    table = []
    for seed in range(8):
        truth, data = draw(problem(k, n, d, angle), 700 + seed)
        fits = [
            get(name)(**params).fit(data, np.random.default_rng(0))
            for name, params in (
                ("hierarchical", {}),
                ("altmin", {"rank": 2}),
                ("full_finetuning", {}),
                ("ridge", {}),
                ("robust_multitask", {"rank": 2, "tune": "cv"}),
            )
        ]
        table.append([error(fit, truth) for fit in fits])
        weights = fits[0].history["rank_weights"]
        assert sum(weights.values()) == pytest.approx(1.0)
        assert np.isfinite(fits[0].standard_errors).all()
    errors = np.array(table)
    best = 1 + int(np.argmin(errors.mean(0)[1:]))
    ratio = errors[:, 0].mean() / errors[:, best].mean()
    spread = (errors[:, 0] - ratio * errors[:, best]).std(ddof=1) / np.sqrt(len(errors)) / errors[:, best].mean()
    assert ratio <= limit + 2.0 * spread


def test_where_users_abound_the_evidence_alone_decides():
    _, data = draw(problem(60, 40, 8, 0.2), 3)
    plain, evidence = (get("hierarchical")(average=a).fit(data) for a in ("held_out", "evidence"))
    np.testing.assert_array_equal(plain.weights, evidence.weights)


@pytest.mark.parametrize("seed", range(5))
def test_the_combination_is_the_minimiser(seed):
    """Against a grid over the simplex."""
    rng = np.random.default_rng(seed)
    factor = 10.0 ** rng.uniform(-1, 1) * rng.standard_normal((3, 6))
    products, chances = factor @ factor.T, np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0]][seed % 2])
    got = combination(products, chances)
    assert got.sum() == pytest.approx(1.0)
    steps = np.linspace(0.0, 1.0, 201)
    a, b = (x.ravel() for x in np.meshgrid(steps, steps))
    grid = np.stack([a, b, 1.0 - a - b])[:, a + b <= 1.0 + 1e-12]

    def value(w):
        logs = np.log(np.maximum(w, 1e-300))
        return 0.5 * np.einsum("a...,ab,b...->...", w, products, w) - 4.0 * np.tensordot(chances, logs, 1)

    assert value(got) <= value(np.maximum(grid, 0.0)).min() + 1e-6


@pytest.mark.parametrize("design", ["regression", "sensing"])
def test_folds_hold_out_every_row_once(design):
    p = ct.Problem(num_users=4, num_samples=(3, 11), dim_in=3, dim_out=2, rank=1, noise_std=1.0, design=design)
    data = draw(p, 0)[1]
    held, pairs = np.zeros(4), list(folds(data))
    assert len(pairs) == 5
    for train, test in pairs:
        np.testing.assert_array_equal(train.counts + test.counts, data.counts)
        held += test.counts
        for i, n in enumerate(train.counts):
            assert not train.covariates[i, n:].any()  # padding behind the samples
            rows = {row.tobytes() for row in train.covariates[i, :n]}
            assert rows.isdisjoint(row.tobytes() for row in test.covariates[i, : test.counts[i]])
    np.testing.assert_array_equal(held, data.counts)


def test_the_value_chosen_predicts_best_and_the_cautious_one_is_more_penalised():
    data = draw(problem(8, 15, 10, 0.5), 5)[1]
    rule = get("robust_multitask")(rank=2, tune="cv")
    scores = [
        sum(
            squared_errors(
                test, get("robust_multitask")(rank=2, strength=s, **rule.DRAFT).fit(train).weights
            ).sum()
            for train, test in folds(data)
        )
        for s in rule.GRID
    ]
    assert choose(rule, data) == rule.GRID[int(np.argmin(scores))]
    assert choose(get("robust_multitask")(rank=2, tune="cv_1se"), data) >= choose(rule, data)


# --- ridge on the cores ----------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["regression", "sensing"])
def test_penalised_cores_are_ridge_regression_in_the_subspaces(design):
    """Given U and V every core is (ZᵀZ + λI)⁻¹Zᵀy, Z its features; λ in samples of average covariates."""
    p = ct.Problem(num_users=6, num_samples=7, dim_in=5, dim_out=3, rank=(2, 2), noise_std=0.5, design=design)
    truth, data = draw(p, 2)
    u, v = truth.input_subspace, truth.output_subspace
    fit = get("transfer")(input_subspace=u, output_subspace=v, core_penalty=3.0).fit(data)
    penalty = 3.0 * float((data.covariates**2).mean())
    for i in range(6):
        if design == "regression":
            z, y = data.covariates[i] @ u, data.responses[i] @ v
        else:
            z = np.einsum("ndp,da,pb->nab", data.covariates[i], u, v).reshape(7, 4)
            y = data.responses[i][:, None]
        core = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ y).reshape(2, 2)
        np.testing.assert_allclose(fit.weights[i], u @ core @ v.T, atol=1e-9)


def test_the_penalised_fit_is_stationary_for_its_own_objective():
    """Derivatives of Σ‖y − XW‖² + λ Σ‖C‖² by differences along random turns of U, cores at their best."""
    data = draw(problem(20, 8, 6, 0.2), 3)[1]
    fit = get("gauss_newton")(rank=2, core_penalty=2.0, noise_tol=0.0).fit(data)
    rows = with_core_penalty(data, 2.0)

    def objective(u):
        got = get("oracle_subspace")(input_subspace=u).fit(rows)
        return float(squared_errors(rows, got.weights).sum())

    turn = np.random.default_rng(0).standard_normal(fit.input_subspace.shape)
    up, down = (objective(fit.input_subspace + h * turn) for h in (1e-4, -1e-4))
    assert abs(up - down) / 2e-4 <= 1e-4 * objective(fit.input_subspace)


def test_the_likeliest_penalty_is_the_ratio_of_variances():
    """λ = σ²/s² for cores of variance s² in known subspaces."""
    rng = np.random.default_rng(4)
    u = np.eye(8)[:, :3]
    xs = rng.standard_normal((400, 12, 8))
    ys = np.einsum("knd,kd->kn", xs, 0.5 * rng.standard_normal((400, 3)) @ u.T) + rng.standard_normal((400, 12))
    found = likeliest(ct.Dataset.from_arrays(list(xs), list(ys)), u, np.eye(1), learned=False)
    assert 3.0 <= found <= 5.3  # 4, one step of the grid and its standard error of 7 % each way


def test_few_samples_do_not_make_ridge_cores_explode():
    """Four samples for a core of three unknowns: least squares has no finite mean, the posterior is tame."""
    losses = np.zeros(2)
    for seed in range(6):
        truth, data = draw(ct.Problem(num_users=40, num_samples=5, dim_in=8, rank=3, noise_std=0.5), 20 + seed)
        for j, penalty in enumerate((0.0, "auto")):
            losses[j] += error(
                get("altmin")(rank=3, core_penalty=penalty).fit(data, np.random.default_rng(0)), truth
            )
    assert losses[1] <= 0.5 * losses[0]
    with pytest.raises(ct.InputError, match="core_penalty must"):
        get("altmin")(rank=1, core_penalty=-1.0)
    with pytest.raises(ct.InputError, match="tune must be"):
        get("nuclear_norm")(tune="best")
