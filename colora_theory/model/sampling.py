"""Drawing data for a truth: covariates of every law, rows or sufficient statistics, responses with noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError, expect
from colora_theory.model.dataset import Dataset, predict
from colora_theory.model.linalg import Array, bartlett
from colora_theory.model.memory import refuse_too_large
from colora_theory.model.problem import Problem, covariance_factor
from colora_theory.model.truth import Truth


def sample_data(problem: Problem, truth: Truth, rng: np.random.Generator) -> Dataset:
    """Draw covariates and responses for `truth` under `problem`'s design, sampling and noise.

    Raises InputError for a truth of another problem's shape, and for other things than these three.
    """
    expect("problem", problem, Problem, "build one with ct.Problem(num_users=..., ...)")
    expect("truth", truth, Truth, "draw one with ct.sample_truth(problem, rng)")
    expect("rng", rng, np.random.Generator, "use np.random.default_rng(seed)")
    needed, got = (problem.num_users, problem.dim_in, problem.dim_out), truth.weights.shape
    if got != needed:
        raise InputError(f"truth must have weights of shape {needed} like the problem, got {got}.")
    refuse_too_large(problem)
    counts = np.array(problem.counts, dtype=np.int64)
    draw = _sufficient if problem.sampling == "sufficient" else _rows
    covariates, responses = draw(problem, truth, counts, rng)
    return Dataset(
        covariates=covariates,
        responses=responses,
        counts=counts,
        pretrained=truth.pretrained,
        sufficient=problem.sampling == "sufficient",
        newcomer=None if truth.newcomer is None else _newcomer(problem, truth.newcomer, rng),
    )


def _newcomer(problem: Problem, weight: Array, rng: np.random.Generator) -> Dataset:
    """The new user's own samples, drawn after everybody else's."""
    x = np.empty((1, problem.new_user_samples, problem.dim_in))
    problem.covariate_law.fill(rng, x, problem.covariate_parameter or 0.0)
    _colour(x, covariance_factor(problem))
    y = x @ weight
    if problem.noise_std:
        y += problem.noise_std * rng.standard_normal(y.shape)
    return Dataset(covariates=x, responses=y, counts=np.array([problem.new_user_samples]))


def _shape(problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Trailing shapes of one covariate and of one response."""
    d, p = problem.dim_in, problem.dim_out
    return ((d,), (p,)) if problem.design == "regression" else ((d, p), ())


def _colour(covariates: Array, factor: Array | None) -> None:
    """Turn isotropic covariates into correlated ones, user by user in place."""
    if factor is None:
        return
    for block in covariates:
        block[...] = block @ factor if block.ndim == 2 else factor.T @ block


def _scale_outliers(problem: Problem, truth: Truth, covariates: Array) -> None:
    """Make the covariates of outlier users larger, in place."""
    if truth.outliers is not None and problem.outlier_covariate_scale != 1.0:
        covariates[truth.outliers] *= problem.outlier_covariate_scale


def _rows(
    problem: Problem, truth: Truth, counts: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Array, Array]:
    (one_x, one_y), k, m = _shape(problem), problem.num_users, int(counts.max())
    x = np.empty((k, m, *one_x))
    problem.covariate_law.fill(rng, x, problem.covariate_parameter or 0.0)
    _colour(x, covariance_factor(problem))
    _scale_outliers(problem, truth, x)
    y = predict(x, truth.weights)
    if truth.intercepts is not None:
        y += truth.intercepts[:, None, :]
    if problem.noise_std:
        y += problem.noise_std * rng.standard_normal((k, m, *one_y))
    for i in np.flatnonzero(counts < m):
        x[i, counts[i] :] = 0.0
        y[i, counts[i] :] = 0.0
    return x, y


def _sufficient(
    problem: Problem, truth: Truth, counts: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Effective rows [R; 0] and [R W + σG; σE]: R and E are the triangular factors of the covariates and of the
    residuals, so that XᵀX, XᵀY and YᵀY have their exact joint law.
    """
    (one_x, one_y), k, q = _shape(problem), problem.num_users, problem.num_features
    outputs = math.prod(one_y)
    x = np.zeros((k, q + outputs, *one_x))
    x[:, :q] = bartlett(rng, counts, q).reshape(k, q, *one_x)
    _colour(x, covariance_factor(problem))
    _scale_outliers(problem, truth, x)
    y = predict(x, truth.weights)
    if problem.noise_std:
        noise = np.concatenate([rng.standard_normal((k, q, outputs)), bartlett(rng, counts - q, outputs)], axis=1)
        y += problem.noise_std * noise.reshape(y.shape)
    return x, y
