"""Errors of an estimate against the truth, and on rows held out where there is none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import numpy as np

from colora_theory.errors import InputError, expect
from colora_theory.model.dataset import Dataset, predict
from colora_theory.model.linalg import Array, subspace_distance, subspace_distances
from colora_theory.model.problem import Problem, covariance_factor
from colora_theory.model.truth import Truth

#: Sine of the largest principal angle below which a noiseless recovery counts as a success.
SUCCESS_DISTANCE: Final = 1e-3

#: Equal up to a factor √r: a rate holds for both or for neither.
SUBSPACE_DISTANCES: Final = frozenset({"subspace_distance", "subspace_distance_fro"})

NAN: Final = float("nan")


Measure: TypeAlias = Callable[[Problem, Truth, Any], float]

_METRICS: Final[dict[str, Measure]] = {}
_STACKED: Final[dict[str, Callable[[Problem, Truth, Any], Any]]] = {}


def metric(name: str, *, stacked: bool = False) -> Callable[[Callable[[Problem, Truth, Any], Any]], Measure]:
    """Decorator: make a function of (problem, truth, fit) a metric that studies and figures know by `name`.

    `stacked`: it also takes a truth and a fit of many trials, the first axis, and then returns their numbers.
    """

    def registered(function: Callable[[Problem, Truth, Any], Any]) -> Measure:
        if stacked:
            _STACKED[name] = function

        @functools.wraps(function)
        def measure(problem: Problem, truth: Truth, fit: Any) -> float:
            expect("problem", problem, Problem, "build one with ct.Problem(num_users=..., ...)")
            expect("truth", truth, Truth, "draw one with ct.sample_truth(problem, rng)")
            if not hasattr(fit, "weights") or np.shape(fit.weights) != truth.weights.shape:
                raise InputError(
                    f"fit must have weights of shape {truth.weights.shape}, got {type(fit).__name__}."
                )
            return float(function(problem, truth, fit))

        _METRICS[name] = measure
        return measure

    return registered


def user_errors(truth: Truth, fit: Any) -> Array:
    """Squared Frobenius errors ‖Ŵ_i − W_i‖², shape (…, num_users)."""
    difference = fit.weights - truth.weights
    return np.einsum("...ab,...ab->...", difference, difference)


@metric("parameter_error", stacked=True)
def parameter_error(problem: Problem, truth: Truth, fit: Any) -> Any:
    """Sum over users of the squared Frobenius error."""
    return user_errors(truth, fit).sum(-1)


@metric("mean_user_error", stacked=True)
def mean_user_error(problem: Problem, truth: Truth, fit: Any) -> Any:
    """Mean over users of the squared Frobenius error."""
    return user_errors(truth, fit).mean(-1)


@metric("max_user_error", stacked=True)
def max_user_error(problem: Problem, truth: Truth, fit: Any) -> Any:
    """Largest squared Frobenius error of any user."""
    return user_errors(truth, fit).max(-1)


@metric("max_user_distance", stacked=True)
def max_user_distance(problem: Problem, truth: Truth, fit: Any) -> Any:
    """Largest Frobenius error ‖Ŵ_i − W_i‖ of any user."""
    return np.sqrt(user_errors(truth, fit).max(-1))


@metric("max_inlier_distance")
def max_inlier_distance(problem: Problem, truth: Truth, fit: Any) -> float:
    """Largest Frobenius error ‖Ŵ_i − W_i‖ of any user that is no outlier; NaN when all are."""
    errors = _inlier_errors(truth, fit)
    return float(np.sqrt(errors.max())) if len(errors) else NAN


@metric("mean_inlier_distance")
def mean_inlier_distance(problem: Problem, truth: Truth, fit: Any) -> float:
    """Mean over users that are no outliers of the Frobenius error ‖Ŵ_i − W_i‖; NaN when all are."""
    errors = _inlier_errors(truth, fit)
    return float(np.sqrt(errors).mean()) if len(errors) else NAN


def _inlier_errors(truth: Truth, fit: Any) -> Array:
    errors = user_errors(truth, fit)
    return errors if truth.outliers is None else errors[~truth.outliers]


@metric("weakest_user_distance")
def weakest_user_distance(problem: Problem, truth: Truth, fit: Any) -> float:
    """Frobenius error ‖Ŵ_i − W_i‖ of the user with the smallest change ‖W_i − W_0‖."""
    return float(np.sqrt(user_errors(truth, fit)[np.linalg.norm(truth.changes, axis=(1, 2)).argmin()]))


@metric("strongest_user_distance")
def strongest_user_distance(problem: Problem, truth: Truth, fit: Any) -> float:
    """Frobenius error ‖Ŵ_i − W_i‖ of the user with the largest change ‖W_i − W_0‖."""
    return float(np.sqrt(user_errors(truth, fit)[np.linalg.norm(truth.changes, axis=(1, 2)).argmax()]))


@metric("new_user_distance")
def new_user_distance(problem: Problem, truth: Truth, fit: Any) -> float:
    """Frobenius error ‖Ŵ − W‖ of the new user, who took no part in the fit; NaN without one."""
    if truth.newcomer is None or getattr(fit, "newcomer", None) is None:
        return NAN
    return float(np.linalg.norm(fit.newcomer - truth.newcomer))


@metric("prediction_risk")
def prediction_risk(problem: Problem, truth: Truth, fit: Any) -> float:
    """Excess risk Σ_i E‖(Ŵ_i − W_i)ᵀx‖² (sensing: E⟨A, Ŵ_i − W_i⟩²) of a fresh covariate.

    With intercepts, the squared error of the intercept is part of it (covariates have mean zero).
    """
    difference = fit.weights - truth.weights
    factor = covariance_factor(problem)
    if factor is not None:
        difference = factor @ difference
    risk = float((difference**2).sum())
    if truth.intercepts is not None:
        fitted = 0.0 if fit.intercepts is None else fit.intercepts
        risk += float(((fitted - truth.intercepts) ** 2).sum())
    return risk


@metric("relative_error", stacked=True)
def relative_error(problem: Problem, truth: Truth, fit: Any) -> Any:
    """Root of the summed squared error relative to the norm of what was to be learned, W_i − W_0."""
    scale = (truth.changes**2).sum((-3, -2, -1))
    ratio = user_errors(truth, fit).sum(-1) / np.where(scale > 0, scale, 1.0)
    return np.where(scale > 0, np.sqrt(ratio), NAN)


@metric("subspace_distance", stacked=True)
def input_distance(problem: Problem, truth: Truth, fit: Any) -> Any:
    """Sine of the largest principal angle between estimated and true input subspace; NaN without one."""
    return NAN if fit.input_subspace is None else subspace_distances(fit.input_subspace, truth.input_subspace)


@metric("subspace_distance_fro", stacked=True)
def input_distance_fro(problem: Problem, truth: Truth, fit: Any) -> Any:
    """Frobenius version of the subspace distance; NaN without an estimated subspace."""
    if fit.input_subspace is None:
        return NAN
    return subspace_distances(fit.input_subspace, truth.input_subspace, "fro")


@metric("output_subspace_distance")
def output_distance(problem: Problem, truth: Truth, fit: Any) -> float:
    """Sine of the largest principal angle between estimated and true output subspace; NaN without one."""
    return NAN if fit.output_subspace is None else subspace_distance(fit.output_subspace, truth.output_subspace)


@metric("change_subspace_distance")
def change_distance(problem: Problem, truth: Truth, fit: Any) -> float:
    """Largest sine over users and sides: between leading singular subspaces of estimated and true weight change.

    Leading: of as many dimensions as the shared rank; of Ŵ_i − W_0 and of W_i − W_0; sides: inputs and outputs.
    """
    base = 0.0 if truth.pretrained is None else truth.pretrained
    r = min(problem.rank_in, problem.rank_out)
    pairs = zip(fit.weights - base, truth.changes, strict=True)
    both = [
        (np.linalg.svd(ours, full_matrices=False), np.linalg.svd(true, full_matrices=False))
        for ours, true in pairs
    ]
    sines = [
        (subspace_distance(a.U[:, :r], b.U[:, :r]), subspace_distance(a.Vh[:r].T, b.Vh[:r].T)) for a, b in both
    ]
    return float(np.max(sines))


@metric("coverage")
def coverage(problem: Problem, truth: Truth, fit: Any) -> float:
    """Share of the weights' entries inside their 95 % intervals; NaN for a fit without standard errors."""
    if getattr(fit, "standard_errors", None) is None:
        return NAN
    return float((np.abs(fit.weights - truth.weights) <= 1.959963984540054 * fit.standard_errors).mean())


@metric("success")
def success(problem: Problem, truth: Truth, fit: Any) -> float:
    """1 when both subspaces are recovered, else 0.

    Recovered means a subspace distance of at most SUCCESS_DISTANCE, or with noise at most three times its
    large-sample root mean square (Frobenius) level.
    """
    if fit.input_subspace is None:
        return 0.0
    within = True
    for estimated, true, moment in (
        (fit.input_subspace, truth.input_subspace, truth.cores @ truth.cores.swapaxes(1, 2)),
        (fit.output_subspace, truth.output_subspace, truth.cores.swapaxes(1, 2) @ truth.cores),
    ):
        weighted = np.tensordot(np.asarray(problem.counts, float), moment, axes=1)
        free = true.shape[0] - true.shape[1]
        level = problem.noise_std * np.sqrt(free * np.trace(np.linalg.pinv(weighted)))
        within &= subspace_distance(estimated, true) <= max(SUCCESS_DISTANCE, 3.0 * float(level))
    return float(within)


def held_out_errors(held_out: Dataset, fit: Any) -> Array:
    """Mean squared prediction error of every user on rows held out, shape (num_users,); NaN for one without."""
    residual = held_out.responses - predict(held_out.covariates, fit.weights)
    if getattr(fit, "intercepts", None) is not None:
        residual = residual - fit.intercepts[:, None, :]
    live = np.arange(residual.shape[1]) < held_out.counts[:, None]
    squares = (residual**2).reshape(*live.shape, -1).mean(2)
    sums = np.where(live, squares, 0.0).sum(1)
    return np.divide(sums, held_out.counts, out=np.full(len(sums), NAN), where=held_out.counts > 0)


#: What the run itself measures, with or without a truth.
OF_THE_RUN: Final = {"sweeps": "Sweeps (iterations) taken.", "seconds": "Wall time of the fit in seconds."}
#: Metrics of real data, whose splits hold rows out; sources may have more of their own.
HELD_OUT: Final = {
    "held_out_error": "Mean squared prediction error on rows held out, averaged over their users.",
    "held_out_ratio": "That error relative to the one of tuning alone in the same split.",
    "predicted_error": "The held-out error as a posterior predicts it from the training rows alone.",
}
#: Every metric that a study with a drawn truth may ask for.
NAMES: Final[tuple[str, ...]] = (*_METRICS, *OF_THE_RUN)


def describe(name: str) -> str:
    """One line saying what a metric is."""
    told = {**OF_THE_RUN, **HELD_OUT}
    return told.get(name) or (_METRICS[name].__doc__ or "").strip().partition("\n")[0]


def evaluate_stacked(names: Iterable[str], problem: Problem, truth: Truth, fit: Any) -> dict[str, Array]:
    """Return the named metrics (those that compare with the truth) of many trials' fits, each of shape (t,)."""
    trials = len(fit.weights)
    return {n: np.broadcast_to(_STACKED[n](problem, truth, fit), trials) for n in names if n in _STACKED}


def stackable(names: Iterable[str]) -> bool:
    """Whether all of these metrics can be measured for many trials at once."""
    return all(name in _STACKED or name in OF_THE_RUN for name in names)


def evaluate(names: Iterable[str], problem: Problem, truth: Truth, fit: Any) -> dict[str, float]:
    """Return the named metrics of one fit (those that compare with the truth)."""
    return {name: _METRICS[name](problem, truth, fit) for name in names if name in _METRICS}
