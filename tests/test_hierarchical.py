"""Empirical Bayes: its likelihood against dense algebra, its limits, its invariances, and its simpler rivals."""

from __future__ import annotations

import dataclasses
import importlib
import warnings

import mpmath
import numpy as np
import pytest
from conftest import draw
from scipy.stats import kstest, multivariate_normal

import colora_theory as ct
from colora_theory.estimators.alignment import alignment_test
from colora_theory.estimators.hyper_parameters import Coordinates, climb, gauged, target
from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows, log_likelihood
from colora_theory.estimators.posterior import posterior_mean, posterior_variance
from colora_theory.estimators.prior_evidence import peak_over_mean
from colora_theory.estimators.prior_starts import alone, unrestricted, widened
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.weak_priors import Rules

CASES = [
    (design, p, columns, counts)
    for design in ("regression", "sensing")
    for p in (1, 3)
    for columns in ((), (1,))
    for counts in ((4, 0, 9, 7), (30, 12))
]


def case(design: str, p: int, columns: tuple[int, ...], counts: tuple[int, ...]) -> tuple[ct.Dataset, Hyper]:
    """A small problem and a prior unrelated to it."""
    rng = np.random.default_rng(0)
    problem = ct.Problem(
        num_users=5, num_samples=counts, dim_in=6, dim_out=p, rank=(3, min(2, p)), noise_std=0.3, design=design
    )
    data = draw(problem, 1)[1]
    r1, r2 = problem.rank_in, problem.rank_out
    return data, Hyper(
        u=rng.standard_normal((6, r1)),
        v=rng.standard_normal((p, r2)) if p > 1 else np.eye(1),
        core=rng.standard_normal((r1 * r2, r1 * r2)),
        own=rng.uniform(0.5, 1.0, len(columns)),
        mean=rng.standard_normal((6, p)),
        tau2=0.3,
        sigma2=rng.uniform(0.1, 1.0, 5),
        stretch=rng.uniform(0.5, 2.0, 5),
        columns=columns,
    )


def rotated(data: ct.Dataset, units: float = 1.0, size: float = 1.0) -> RotatedRows:
    model = SharedModel(data)
    return RotatedRows.of(model, np.full(model.x.shape[2], units), size)


@pytest.mark.parametrize(("design", "p", "columns", "counts"), CASES)
def test_likelihood_and_posterior_are_those_of_dense_algebra(design, p, columns, counts):
    data, hyper = case(design, p, columns, counts)
    rows = rotated(data, 1.3, 1.7)
    u, v, loads = hyper.loadings()
    shared = np.einsum("ia,jb->ijab", u, v).reshape(6 * p, -1) @ loads.reshape(-1, loads.shape[2])
    value, weights, variance = (
        log_likelihood(rows, hyper),
        posterior_mean(rows, hyper)[0],
        posterior_variance(rows, hyper),
    )
    for i, n in enumerate(data.counts):
        prior = shared @ shared.T + hyper.tau2 * hyper.stretch[i] * np.eye(6 * p)
        x = data.covariates[i, :n] / 1.3
        x = (
            np.einsum("nd,pq->npdq", x, np.eye(p)).reshape(-1, 6 * p)
            if design == "regression"
            else x.reshape(n, 6 * p)
        )
        y = data.responses[i, :n].ravel() / 1.7 - x @ hyper.mean.ravel()
        marginal = x @ prior @ x.T + hyper.sigma2[i] * np.eye(len(y))
        gain = prior @ x.T
        if n:
            assert value[i] == pytest.approx(multivariate_normal(np.zeros(len(y)), marginal).logpdf(y), rel=1e-9)
            gain = np.linalg.solve(marginal, gain.T).T
        np.testing.assert_allclose(weights[i], hyper.mean + (gain @ y).reshape(6, p), atol=1e-9)
        np.testing.assert_allclose(variance[i].ravel(), np.diag(prior - gain @ x @ prior), atol=1e-9)
    assert value[data.counts == 0] == pytest.approx(0.0)
    np.testing.assert_allclose(weights[data.counts == 0], np.tile(hyper.mean, ((data.counts == 0).sum(), 1, 1)))


@pytest.mark.parametrize(("design", "p", "columns", "counts"), CASES[::2])
def test_likelihood_where_noise_is_next_to_nothing(design, p, columns, counts):
    """Cores 10¹⁵ times the noise, responses from the model: against the dense formula in 80 digits."""
    data, hyper = case(design, p, columns, counts)
    size, rng = len(hyper.core), np.random.default_rng(15)
    hyper = dataclasses.replace(
        hyper,
        tau2=1e-13,
        sigma2=np.full(5, 1e-15),
        core=hyper.core * np.logspace(0, -6, size),
        own=1e-3 * hyper.own,
    )
    u, v, loads = hyper.loadings()
    base, flat = np.einsum("ia,jb->ijab", u, v).reshape(6 * p, -1), loads.reshape(-1, loads.shape[2])
    weights = hyper.mean + (rng.standard_normal((5, flat.shape[1])) @ (base @ flat).T).reshape(5, 6, p)
    weights += 3e-7 * rng.standard_normal(weights.shape)
    responses = np.zeros_like(data.responses)
    for i, n in enumerate(data.counts):
        x = data.covariates[i, :n]
        responses[i, :n] = np.einsum("ndp,dp->n", x, weights[i]) if design == "sensing" else x @ weights[i]
    rows = rotated(dataclasses.replace(data, responses=responses))
    with mpmath.workdps(80):
        shared = mpmath.matrix(base) * mpmath.matrix(flat)
        for i in np.flatnonzero(data.counts):
            x = data.covariates[i, : data.counts[i]]
            if design == "regression":
                x = np.einsum("nd,pq->npdq", x, np.eye(p))
            x = mpmath.matrix(x.reshape(-1, 6 * p))
            y = mpmath.matrix(responses[i, : data.counts[i]].ravel()) - x * mpmath.matrix(hyper.mean.ravel())
            marginal = x * shared * (x * shared).T + hyper.tau2 * mpmath.mpf(hyper.stretch[i]) * x * x.T
            factor = mpmath.cholesky(marginal + mpmath.mpf(hyper.sigma2[i]) * mpmath.eye(len(y)))
            white = mpmath.lu_solve(factor, y)
            exact = sum(-(white[j] ** 2) / 2 - mpmath.log(factor[j, j]) for j in range(len(y)))
            exact -= len(y) * mpmath.log(2 * mpmath.pi) / 2
            assert log_likelihood(rows, hyper)[i] == pytest.approx(float(exact), rel=2e-9)


@pytest.mark.parametrize("rules", [Rules(free_mean=True, per_user=True), Rules(), Rules(priors=False)])
@pytest.mark.parametrize(("design", "p", "columns", "counts"), CASES[::3])
def test_gradient_of_the_target_by_differences(design, p, columns, counts, rules):
    data, hyper = case(design, p, columns, counts)
    rows = rotated(data)
    assert target(rows, gauged(hyper), rules)[0] == pytest.approx(target(rows, hyper, rules)[0], rel=1e-10)
    frame = Coordinates(rows, hyper, rules)
    here = 0.3 * np.random.default_rng(2).standard_normal(len(frame.scales))

    def value(vector):
        return target(rows, frame.hyper(vector), rules)[0]

    slope = frame.pull(target(rows, frame.hyper(here), rules)[1], frame.hyper(here))
    steps = 1e-5 * np.eye(len(here))
    np.testing.assert_allclose(slope, [(value(here + h) - value(here - h)) / 2e-5 for h in steps], atol=1e-5)


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("decades", [0, 1, 2, 4, 6, 7])
def test_turning_a_prior_changes_nothing(decades, graded):
    """However nearly singular the cores' factor is, within what a search with weak priors reaches."""
    rng = np.random.default_rng([14, decades])
    for trial in range(20):
        data, hyper = case(*CASES[rng.integers(len(CASES))])
        (r1, r2), size = hyper.rank, hyper.rank[0] * hyper.rank[1]
        left, right = np.linalg.qr(rng.standard_normal((2, size, size)))[0]
        spread = 10.0 ** -rng.uniform(0.0, decades, size)
        spread[[0, -1]] = 1.0, 10.0**-decades
        hyper = dataclasses.replace(
            hyper,
            u=rng.standard_normal(hyper.u.shape) * rng.uniform(0.1, 1.0, r1),
            core=left * spread if graded else left * spread @ right,
        )
        for rules in (Rules(True, True), Rules(priors=False)):
            turned = gauged(hyper)
            before, after = (target(rotated(data), each, rules)[0] for each in (hyper, turned))
            assert after == pytest.approx(before, rel=1e-9), trial
            np.testing.assert_allclose(turned.u.T @ turned.u, np.eye(r1), atol=1e-12)
            cores = (turned.core @ turned.core.T).reshape(r1, r2, r1, r2)
            sizes = np.einsum("ajcj->ac", cores)
            np.testing.assert_allclose(sizes, np.diag(np.sort(np.diag(sizes))[::-1]), atol=1e-9 * sizes[0, 0])


def test_the_search_never_falls_and_ends_where_the_derivatives_vanish():
    data = draw(
        ct.Problem(num_users=40, num_samples=15, dim_in=12, rank=2, noise_std=0.3, similarity_angle=0.2), 3
    )[1]
    fit = ct.estimators.get("hierarchical")(rank=2).fit(data)
    assert fit.status == "converged"
    assert (np.diff(fit.history["log_posterior"]) >= 0.0).all()
    assert fit.history["steepness"] <= 1e-6 * data.num_observations
    rows = rotated(data)
    start = climb(rows, case("regression", 1, (), (9,))[1], Rules(), 1e-3, 0).hyper
    assert start.rank == (3, 1)  # no step, no move


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [30.0, 0.0, 0.0, 0.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
def test_peak_over_mean_of_bingham(values):
    """Rank one against the confluent hypergeometric function, others against an average over directions."""
    m = len(values)
    if sum(v > 0 for v in values) <= 1:
        exact = max(values) - float(mpmath.log(mpmath.hyp1f1(0.5, m / 2, max(values))))
    else:
        u = np.random.default_rng(0).standard_normal((400_000, m))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        exact = max(values) - float(np.log(np.exp(u**2 @ np.array(values)).mean()))
    assert peak_over_mean(np.array(values)) == pytest.approx(exact, abs=0.15)


def error(fit: ct.estimators.Fit, truth: ct.Truth) -> float:
    return float(((fit.weights - truth.weights) ** 2).sum())


# --- limits ----------------------------------------------------------------------------------------------


def test_where_the_shared_model_is_exact_and_clear_it_is_that_of_altmin():
    """τ → 0, S ≫ σ²/n: shrinkage vanishes like the noise."""
    problem = ct.Problem(num_users=30, num_samples=40, dim_in=10, rank=2, noise_std=1e-3)
    _, data = draw(problem, 4)
    ours = ct.estimators.get("hierarchical")().fit(data)
    theirs = ct.estimators.get("altmin")(rank=2).fit(data, np.random.default_rng(0))
    assert ours.history["rank"] == (2, 1)
    assert np.abs(ours.weights - theirs.weights).max() <= 3e-5
    assert ct.subspace_distance(ours.input_subspace, theirs.input_subspace) <= 1e-4


def test_where_nothing_is_shared_and_samples_abound_it_is_tuning_alone():
    problem = ct.Problem(
        num_users=30, num_samples=400, dim_in=6, rank=1, noise_std=0.01, deviation="dense", deviation_norm=5.0
    )
    _, data = draw(problem, 5)
    ours, theirs = (ct.estimators.get(name)().fit(data) for name in ("hierarchical", "full_finetuning"))
    assert np.abs(ours.weights - theirs.weights).max() <= 1e-4


def test_where_all_users_are_one_it_is_the_pooled_weight():
    rng = np.random.default_rng(6)
    w = rng.standard_normal((5, 1))
    xs = rng.standard_normal((30, 8, 5))
    data = ct.Dataset.from_arrays(list(xs), list(xs @ w + 0.5 * rng.standard_normal((30, 8, 1))))
    fit = ct.estimators.get("hierarchical")(mean="free").fit(data)
    pooled = np.linalg.lstsq(xs.reshape(-1, 5), data.responses.reshape(-1, 1))[0]
    assert np.abs(fit.weights - pooled).max() <= 0.15 * np.abs(fit.weights).max()
    assert ((fit.weights - w) ** 2).mean() <= 2.0 * ((pooled - w) ** 2).mean()


def test_a_user_without_samples_gets_the_mean():
    rng = np.random.default_rng(7)
    xs = [rng.standard_normal((n, 4)) for n in (0, 20, 20, 20, 20, 20)]
    ys = [x @ (np.arange(4.0) + 0.1 * rng.standard_normal(4)) for x in xs]
    known = ct.Dataset.from_arrays(xs, ys, pretrained=np.arange(4.0))
    np.testing.assert_array_equal(ct.estimators.get("hierarchical")().fit(known).weights[0, :, 0], np.arange(4.0))
    free = ct.estimators.get("hierarchical")(mean="free").fit(ct.Dataset.from_arrays(xs, ys))
    np.testing.assert_allclose(free.weights[0, :, 0], np.arange(4.0), atol=0.3)
    assert (free.standard_errors[0] > 2.0 * free.standard_errors[1:].max(0)).any()


# --- invariances -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["regression", "sensing"])
def test_units_do_not_matter(design):
    problem = ct.Problem(
        num_users=20,
        num_samples=25,
        dim_in=6,
        dim_out=3,
        rank=2,
        noise_std=0.2,
        design=design,
        similarity_angle=0.2,
    )
    _, data = draw(problem, 8)
    units = 10.0 ** np.linspace(-3, 3, 6) if design == "regression" else np.full(6, 1e3)
    scaled = dataclasses.replace(
        data,
        covariates=data.covariates * (units if design == "regression" else units[:, None]),
        responses=1e-2 * data.responses,
    )
    plain, got = (ct.estimators.get("hierarchical")().fit(part) for part in (data, scaled))
    back = 1e2 * units[:, None]
    np.testing.assert_allclose(back * got.weights, plain.weights, atol=1e-6)
    np.testing.assert_allclose(back * got.standard_errors, plain.standard_errors, rtol=1e-4)
    assert got.history["noise_std"] == pytest.approx(1e-2 * plain.history["noise_std"], rel=1e-4)
    extreme = dataclasses.replace(
        data, covariates=data.covariates * 2.0**600, responses=data.responses * 2.0**-300
    )
    far = ct.estimators.get("hierarchical")().fit(extreme)
    np.testing.assert_allclose(far.standard_errors * 2.0**900, plain.standard_errors, rtol=1e-5)


def test_duplicate_columns_share_their_weight():
    rng = np.random.default_rng(9)
    xs = rng.standard_normal((15, 12, 4))
    ys = xs @ rng.standard_normal((15, 4, 1)) + 0.1 * rng.standard_normal((15, 12, 1))
    twice = np.concatenate([xs, xs[:, :, :1]], axis=2)
    fit = ct.estimators.get("hierarchical")().fit(ct.Dataset.from_arrays(list(twice), list(ys)))
    np.testing.assert_allclose(fit.weights[:, 0], fit.weights[:, 4], atol=1e-3)


# --- against a reference ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixed_models_of_statsmodels(seed):
    """Maximum likelihood with a full covariance and a free mean: the same likelihood, the same predictions."""
    lm = importlib.import_module("statsmodels.regression.mixed_linear_model")
    rng = np.random.default_rng(seed)
    k, d = (18, 2) if seed else (30, 3)
    counts = rng.integers(3, 11, k)
    mix = rng.standard_normal((d, d))
    xs = [np.column_stack([np.ones(n), rng.standard_normal((n, d - 1))]) for n in counts]
    ys = [x @ (np.arange(d) + mix @ rng.standard_normal(d)) + 0.5 * rng.standard_normal(len(x)) for x in xs]
    labels = np.repeat(np.arange(k), counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lm.MixedLM(np.concatenate(ys), np.concatenate(xs), labels, exog_re=np.concatenate(xs))
        reference = model.fit(reml=False, method=["bfgs", "lbfgs", "cg"], maxiter=500)
    fit = ct.estimators.get("hierarchical")(rank=d, mean="free", priors="none").fit(ct.Dataset.from_arrays(xs, ys))
    assert fit.history["log_likelihood"] >= reference.llf - 1e-4 * abs(reference.llf)
    assert fit.history["log_likelihood"] == pytest.approx(reference.llf, rel=2e-3)
    predicted = np.array([np.asarray(reference.random_effects[i]) + reference.fe_params for i in range(k)])
    np.testing.assert_allclose(fit.weights[:, :, 0], predicted, atol=0.02 * np.abs(predicted).max())


def test_a_mixed_model_of_a_real_table():
    """Investment by firm, random intercepts and slopes: the maximum of statsmodels, as far as that finds it."""
    lm = importlib.import_module("statsmodels.regression.mixed_linear_model")
    frame = importlib.import_module("statsmodels.datasets.grunfeld").load_pandas().data
    columns = np.log(frame[["invest", "value", "capital"]].to_numpy(float))
    columns = (columns - columns.mean(0)) / columns.std(0)
    y, x = columns[:, 0], np.column_stack([columns[:, 1:], np.ones(len(columns))])
    firms = frame["firm"].to_numpy()
    names = np.unique(firms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lm.MixedLM(y, x, firms, exog_re=x).fit(reml=False)
    data = ct.Dataset.from_arrays([x[firms == name] for name in names], [y[firms == name] for name in names])
    fit = ct.estimators.get("hierarchical")(rank=3, mean="free", priors="none").fit(data)
    assert fit.status == "converged"
    assert fit.history["steepness"] <= 1e-6 * len(y)
    assert (np.diff(fit.history["log_posterior"]) >= 0.0).all()
    assert fit.history["log_likelihood"] == pytest.approx(reference.llf, rel=1e-4)  # S is singular at the maximum
    predicted = np.array([np.asarray(reference.random_effects[name]) + reference.fe_params for name in names])
    np.testing.assert_allclose(fit.weights[:, :, 0], predicted, atol=5e-3 * np.abs(predicted).max())


@pytest.mark.parametrize("rules", [Rules(free_mean=True, per_user=True, priors=False), Rules(priors=False)])
@pytest.mark.parametrize(("design", "p", "columns", "counts"), CASES[::2])
def test_expectation_maximisation_never_lowers_the_likelihood(design, p, columns, counts, rules):
    rows = rotated(case(design, p, columns, counts)[0])
    values = [log_likelihood(rows, unrestricted(rows, rules, steps)).sum() for steps in range(8)]
    assert (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()
    assert values[-1] > values[0]


# --- what it is for --------------------------------------------------------------------------------------

GRID = [
    (40, 60, 10, 0.0),
    (40, 60, 10, 1.0),
    (40, 15, 10, 0.3),
    (40, 4, 10, 0.2),
    (5, 60, 10, 0.0),
    (100, 15, 20, 0.5),
]


@pytest.mark.parametrize(("k", "n", "d", "angle"), GRID)
def test_collaboration_never_hurts(k, n, d, angle):
    """Mean errors over the same trials, a tenth allowed: the best simpler method changes from case to case."""
    problem = ct.Problem(
        num_users=k,
        num_samples=n,
        dim_in=d,
        rank=2,
        noise_std=0.3,
        similarity_angle=angle,
        core_distribution="unit",
    )
    errors = np.zeros(5)
    for seed in range(6):
        truth, data = draw(problem, 20 + seed)
        rng = np.random.default_rng(0)
        errors += [
            error(ct.estimators.get("hierarchical")().fit(data), truth),
            error(ct.estimators.get("altmin")(rank=2).fit(data, rng), truth),
            error(ct.estimators.get("full_finetuning")().fit(data), truth),
            error(ct.estimators.get("ridge")().fit(data), truth),
            error(ct.estimators.get("robust_multitask")(rank=2, max_sweeps=60).fit(data, rng), truth),
        ]
    assert errors[0] <= 1.1 * errors[1:].min()


def test_own_columns_find_the_intercepts():
    rng = np.random.default_rng(10)
    xs = np.concatenate([np.ones((40, 8, 1)), rng.standard_normal((40, 8, 5))], axis=2)
    ws = np.concatenate([3.0 * rng.standard_normal((40, 1)), 0.1 * rng.standard_normal((40, 5))], axis=1)
    ys = np.einsum("knd,kd->kn", xs, ws) + 0.5 * rng.standard_normal((40, 8))
    data = ct.Dataset.from_arrays(list(xs), list(ys))
    plain, free = (
        ((ct.estimators.get("hierarchical")(rank=0, own_columns=c).fit(data).weights[:, :, 0] - ws) ** 2).sum()
        for c in ((), (0,))
    )
    assert free <= 0.7 * plain
    with pytest.raises(ct.InputError, match="own_columns must lie between 0 and dim_in - 1 = 5, got 6"):
        ct.estimators.get("hierarchical")(own_columns=(6,)).fit(data)


def test_noise_per_user_finds_the_loud_ones():
    rng = np.random.default_rng(11)
    problem = ct.Problem(num_users=20, num_samples=30, dim_in=5, rank=1)
    truth, data = draw(problem, 12)
    loud = np.where(np.arange(20) < 5, 2.0, 0.1)
    noisy = dataclasses.replace(
        data, responses=data.responses + loud[:, None, None] * rng.standard_normal((20, 30, 1))
    )
    common, own = (ct.estimators.get("hierarchical")(noise=n).fit(noisy) for n in ("common", "per_user"))
    np.testing.assert_allclose(own.history["noise_std"], loud, rtol=0.5)
    quiet = slice(5, 20)
    losses = [((f.weights - truth.weights)[quiet] ** 2).sum() for f in (own, common)]
    assert losses[0] <= 0.3 * losses[1]


def test_further_directions_are_orthogonal_where_nothing_is_left():
    """One user with one row deviates in one direction only: any second one will do, but not the first again."""
    x, y = np.array([[-0.27638792, -0.07130482]]), np.array([[1.0, 0.5, 0.0]])
    rows = rotated(ct.Dataset.from_arrays([x], [y]))
    one = widened(rows, alone(rows), (1, 1))
    two = widened(rows, one, (2, 2))
    for basis in (one.u, one.v, two.u, two.v):
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
    assert np.isfinite(
        ct.estimators.get("hierarchical")().fit(ct.Dataset.from_arrays([x], [1e6 * y])).weights
    ).all()


@pytest.mark.parametrize("seed", [*range(40), 42, 94, 137, 178])
def test_no_data_make_it_fail(seed):
    survive(seed)


@pytest.mark.slow
def test_a_thousand_problems_do_not_make_it_fail():
    for seed in range(1000):
        survive(seed)


def survive(seed):
    """Few users, no samples, huge outliers, duplicate columns, no noise: finite weights and errors, no warning.

    And no accepted step lowers the objective.
    """
    rng = np.random.default_rng([13, seed])
    k, d, p = int(rng.choice([1, 2, 3, 8])), int(rng.choice([1, 2, 5])), int(rng.choice([1, 1, 3]))
    counts = rng.integers(0, int(rng.choice([1, 3, 12])) + 1, k)
    counts[0] = max(counts[0], 1)
    sensing = bool(rng.random() < 0.3)
    xs = [rng.standard_normal((n, d, p) if sensing else (n, d)) for n in counts]
    if d > 1 and rng.random() < 0.5:
        for x in xs:
            x[:, 1] = x[:, 0]
    ws = rng.choice([0.0, 1.0, 1e3]) * rng.standard_normal((k, d, p))
    ys = [np.einsum("ndp,dp->n", x, w) if sensing else x @ w for x, w in zip(xs, ws, strict=True)]
    ys = [y + rng.choice([0.0, 0.1]) * rng.standard_normal(y.shape) for y in ys]
    if seed % 3 == 0:
        ys[0] = 1e6 * ys[0]
    if seed % 3 == 1:
        ys[0].ravel()[0] = 1e6
    options = {"mean": ("zero", "free")[seed % 2], "noise": ("common", "per_user")[seed % 4 // 2]}
    fit = ct.estimators.get("hierarchical")(**options, max_sweeps=60).fit(ct.Dataset.from_arrays(xs, ys))
    assert np.isfinite(fit.weights).all()
    assert fit.standard_errors is None or np.isfinite(fit.standard_errors).all()
    if "log_posterior" in fit.history:
        values = fit.history["log_posterior"]
        assert (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()


# --- standard errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("hierarchical", {}),
        ("hierarchical", {"similarity_angle": 0.3}),
        ("hierarchical", {"dim_out": 3, "dim_in": 5, "design": "sensing"}),
        ("altmin", {}),
        ("altmin", {"dim_out": 3, "rank": (3, 2)}),
        ("full_finetuning", {"similarity_angle": 1.0}),
    ],
)
def test_intervals_cover(name, fields):
    problem = ct.Problem(
        **{"num_users": 40, "num_samples": 40, "dim_in": 10, "rank": 2, "noise_std": 0.3, **fields}
    )
    params = {"rank": problem.rank} if name == "altmin" else {}
    covered = []
    for seed in range(4):
        truth, data = draw(problem, 40 + seed)
        fit = ct.estimators.get(name)(**params).fit(data, np.random.default_rng(0))
        assert fit.standard_errors.shape == truth.weights.shape
        covered.append((np.abs(fit.weights - truth.weights) <= 1.96 * fit.standard_errors).mean())
    assert 0.93 <= np.mean(covered) <= 0.97


def test_who_has_none_says_none():
    _, data = draw(ct.Problem(num_users=4, num_samples=8, dim_in=4, rank=1), 0)
    assert ct.estimators.get("ridge")().fit(data).standard_errors is None


# --- alignment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"num_samples": 15, "dim_in": 25, "num_users": 60}, {"dim_out": 3}])
def test_alignment_holds_its_level_and_finds_who_is_off(fields):
    problem = ct.Problem(
        **{"num_users": 40, "num_samples": 60, "dim_in": 20, "rank": 2, "noise_std": 0.3, **fields},
        core_distribution="unit",
    )
    inside, found, false = [], [], []
    off = np.arange(problem.num_users) < 4
    for seed in range(4):
        _, data = draw(problem, 60 + seed)
        inside.append(alignment_test(data, problem.rank, rng=np.random.default_rng(0)).p_values)
        _, away = draw(problem.replace(similarity_angle=1.0), 60 + seed)
        covariates, responses = data.covariates.copy(), data.responses.copy()
        covariates[off], responses[off] = away.covariates[off], away.responses[off]
        mixed = ct.Dataset(covariates=covariates, responses=responses, counts=data.counts)
        flagged = alignment_test(mixed, problem.rank, rng=np.random.default_rng(0)).flagged
        found.append(flagged[off].mean())
        false.append(flagged[~off].mean())
    assert kstest(np.concatenate(inside), "uniform").pvalue >= 1e-6
    assert np.mean(found) >= 0.9
    assert np.mean(false) <= 0.05
