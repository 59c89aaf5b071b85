"""Laws and independence of what is drawn: between users, trials, cells and the streams of a trial.

Seeds are fixed. `LEVEL` is the false-alarm level of every test here, shared out among its comparisons.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import colora_theory as ct
from colora_theory.engine.streams import DATA, ESTIMATOR, TRUTH, stream
from colora_theory.engine.trial import Recipe, draw
from colora_theory.model.dataset import predict
from colora_theory.model.problem import covariance_factor
from colora_theory.studies.study import Study

LEVEL = 1e-6
#: The sampling designs on which raw and sufficient rows are compared, correlated covariates included.
DESIGNS = [
    {"dim_out": 2, "rank": 2},
    {"dim_out": 2, "rank": 2, "covariates": "ar1", "covariate_parameter": 0.8},
    {"dim_out": 2, "rank": 2, "design": "sensing", "covariates": "ar1", "covariate_parameter": -0.6},
    {"dim_out": 2, "rank": 2, "design": "sensing", "covariates": "power_law", "covariate_parameter": 2.0},
    {"dim_out": 1, "rank": 2, "covariates": "power_law"},
]


def small_study(**grid: object) -> Study:
    """Two estimators that differ in a parameter only, on a grid."""
    return Study.from_dict(
        {
            "schema": 1,
            "name": "streams",
            "title": "t",
            "claim": "c",
            "seed": 271828182845904523536,
            "problem": {"dim_in": 6, "rank": 2, "noise_std": 0.1},
            "grid": {"num_users": [5, 6], "num_samples": [20], **grid},
            "estimator": [{"name": "ridge"}, {"name": "ridge", "label": "strong", "params": {"penalty": 9.0}}],
            "metrics": {"use": ["parameter_error"]},
            "run": {"trials": 3},
        }
    )


def quantile(comparisons: int) -> float:
    """Two-sided normal quantile of LEVEL shared out among the comparisons."""
    return float(stats.norm.isf(LEVEL / 2 / comparisons))


def assert_equal_means(first: np.ndarray, second: np.ndarray, share: int = 1) -> None:
    """z-tests (normal for many users) of all columns of two samples of shape (n, q)."""
    error = np.sqrt(first.var(0) / len(first) + second.var(0) / len(second))
    gap = np.abs(first.mean(0) - second.mean(0))
    assert (gap <= quantile(share * gap.size) * error + 1e-12).all()


def sufficient_statistics(p: ct.Problem, truth: ct.Truth, seed: int) -> np.ndarray:
    """Upper triangle of [X Y]ᵀ[X Y] of every user, shape (num_users, q)."""
    data = ct.sample_data(p, truth, np.random.default_rng([seed, 5]))
    k, m = data.covariates.shape[:2]
    rows = np.concatenate([data.covariates.reshape(k, m, -1), data.responses.reshape(k, m, -1)], axis=2)
    gram = rows.swapaxes(1, 2) @ rows
    return gram[:, *np.triu_indices(gram.shape[1])]


@pytest.mark.parametrize("fields", DESIGNS)
@pytest.mark.parametrize("extra", [0, 7])
def test_sufficient_rows_have_the_moments_and_the_law_of_raw_rows(fields: dict[str, object], extra: int) -> None:
    """Means, covariances and (Kolmogorov–Smirnov) single laws of all entries of [X Y]ᵀ[X Y]."""
    p = ct.Problem(**{"num_users": 4000, "num_samples": 99, "dim_in": 3, "noise_std": 0.7, **fields})
    p = p.replace(num_samples=p.num_features + extra)
    one = ct.sample_truth(p, np.random.default_rng(1))
    same = np.repeat(one.cores[:1], p.num_users, axis=0)
    truth = ct.Truth(input_subspace=one.input_subspace, output_subspace=one.output_subspace, cores=same)
    raw = sufficient_statistics(p, truth, 1)
    short = sufficient_statistics(p.replace(sampling="sufficient"), truth, 2)
    assert_equal_means(raw, short, 3)
    centre = raw.mean(0)
    products = [(s - centre)[:, :, None] * (s - centre)[:, None, :] for s in (raw, short)]
    assert_equal_means(*(x.reshape(len(x), -1) for x in products), 3)
    for column in range(raw.shape[1]):
        assert stats.ks_2samp(raw[:, column], short[:, column]).pvalue > LEVEL / 3 / raw.shape[1]


@pytest.mark.parametrize("fields", DESIGNS)
def test_covariates_and_noise_are_independent_between_users_and_rows(fields: dict[str, object]) -> None:
    """Correlations between users, between rows of a user, and between covariates and noise are those of chance."""
    n = 40_000
    p = ct.Problem(**{"num_users": 2, "num_samples": n, "dim_in": 3, "noise_std": 1.0, **fields})
    truth = ct.sample_truth(p, np.random.default_rng(2))
    data = ct.sample_data(p, truth, np.random.default_rng(3))
    factor = covariance_factor(p)
    x = data.covariates.reshape(2, n, p.dim_in, -1)
    white = np.linalg.solve(factor.T, x) if factor is not None else x
    noise = data.responses - predict(data.covariates, truth.weights)
    parts = [*white.reshape(2, n, -1), *noise.reshape(2, n, -1)]
    columns = np.concatenate([*parts, *(np.roll(part, 1, axis=0) for part in parts)], axis=1)
    correlation = np.corrcoef(columns.T)[np.triu_indices(columns.shape[1], 1)]
    assert np.abs(correlation).max() <= quantile(correlation.size) / math.sqrt(n)
    variances = columns.var(0)
    assert np.abs(variances - 1.0).max() <= quantile(variances.size) * math.sqrt(2.0 / n)
    assert np.abs(columns.mean(0)).max() <= quantile(variances.size) / math.sqrt(n)


def test_random_subspaces_are_haar() -> None:
    """‖Uᵀa‖² ~ Beta(r/2, (d − r)/2) for every unit a, for U and V alike, and U and V are independent."""
    p = ct.Problem(num_users=4, num_samples=1, dim_in=6, dim_out=4, rank=(2, 1))
    truths = [ct.sample_truth(p, np.random.default_rng([4, n])) for n in range(4000)]
    u, v = (np.stack([getattr(t, f"{side}_subspace") for t in truths]) for side in ("input", "output"))
    seen = []
    for frame, r, d in ((u, 2, 6), (v, 1, 4)):
        directions = [np.eye(d)[0], np.eye(d)[-1], np.ones(d) / math.sqrt(d)]
        for a in directions:
            share = ((a @ frame) ** 2).sum(1)
            seen.append(share)
            assert stats.kstest(share, stats.beta(r / 2, (d - r) / 2).cdf).pvalue > LEVEL / 6
        signs = (frame[:, :, 0] > 0).mean(0)
        assert np.abs(signs - 0.5).max() <= quantile(2 * d) * 0.5 / math.sqrt(len(truths))
    for one in seen[:3]:
        for other in seen[3:]:
            assert abs(np.corrcoef(one, other)[0, 1]) <= quantile(9) / math.sqrt(len(truths))


@pytest.mark.parametrize(("rank", "dim_out"), [(2, 1), ((3, 2), 4)])
def test_gaussian_cores_and_intercepts_have_the_stated_size(rank: object, dim_out: int) -> None:
    p = ct.Problem(
        num_users=20_000, num_samples=1, dim_in=6, dim_out=dim_out, rank=rank, signal_norm=3.0, intercept_std=0.5
    )
    truth = ct.sample_truth(p, np.random.default_rng(5))
    cores = truth.cores / (3.0 / math.sqrt(p.rank_in * p.rank_out))
    assert stats.kstest(cores.ravel(), stats.norm.cdf).pvalue > LEVEL / 2
    assert stats.kstest(truth.intercepts.ravel() / 0.5, stats.norm.cdf).pvalue > LEVEL / 2


def test_streams_of_a_trial_and_of_neighbouring_trials_are_independent() -> None:
    """Truth, data and estimator of one trial, of the next one, and of another cell: no two correlate."""
    cells = small_study().cells
    keys = [(kind, *cell.words, trial) for kind in (TRUTH, DATA) for cell in cells[:2] for trial in (0, 1)]
    keys += [(ESTIMATOR, *cell.words, *extra, 0) for cell in cells[:2] for extra in ((1, 2), (2, 1))]
    draws = np.stack([stream(7, *key).standard_normal(20_000) for key in keys])
    correlation = np.corrcoef(draws)[np.triu_indices(len(keys), 1)]
    assert np.abs(correlation).max() <= quantile(correlation.size) / math.sqrt(20_000)


def test_truth_and_data_of_a_trial_come_from_streams_of_their_own() -> None:
    study = small_study()
    recipe, cell = Recipe.of(study), study.cells[0]
    truth, data = draw(recipe, cell.words, cell.problem, 3)
    again = ct.sample_truth(cell.problem, stream(study.seed, TRUTH, *cell.words, 3))
    np.testing.assert_array_equal(truth.weights, again.weights)
    rows = ct.sample_data(cell.problem, truth, stream(study.seed, DATA, *cell.words, 3))
    np.testing.assert_array_equal(data.covariates, rows.covariates)
    foreign = ct.sample_data(cell.problem, truth, stream(study.seed, TRUTH, *cell.words, 3))
    assert not np.isin(data.covariates, foreign.covariates).any()


def test_no_stream_is_used_twice_on_a_large_grid() -> None:
    """400 cells × 20 trials × (truth, data, two estimators): 32 000 streams, all with other first numbers."""
    study = small_study(num_users=list(range(5, 25)), num_samples=list(range(20, 40)))
    assert len(study.cells) == 400
    first = []
    for cell in study.cells:
        for trial in range(20):
            keys = [(TRUTH, *cell.words, trial), (DATA, *cell.words, trial)]
            keys += [(ESTIMATOR, *cell.words, *spec.words, trial) for spec in study.estimators]
            first += [stream(study.seed, *key).bit_generator.random_raw() for key in keys]
    assert len(set(first)) == len(first) == 32_000  # 2⁻³⁵ is the chance that two of 64 bits agree
