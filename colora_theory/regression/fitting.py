"""How a table is fitted: empirical Bayes on standardised columns, or a shared model on centred ones."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError
from colora_theory.estimators.base import get
from colora_theory.estimators.marginal_likelihood import RotatedRows
from colora_theory.estimators.posterior import posterior_mean
from colora_theory.estimators.rank_selection import choose_rank
from colora_theory.estimators.ranks import is_auto, is_zero, resolve_rank
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array
from colora_theory.regression.evidence_ridge import evidence_ridge
from colora_theory.regression.fitted import Fitted
from colora_theory.regression.output_noise import mixed, noise_shape, whitening, without_repeats
from colora_theory.regression.prior import Component, Population, population_of
from colora_theory.regression.units import Units, refuse_beyond_numbers, sufficient_rows

_log = logging.getLogger(__name__)

#: Rows per coefficient from which on the population's mean is estimated together with the variances.
_PLENTY = 10
#: Most fits in outputs whose noise is white by the fit before.
_WHITENED = 3
#: What is kept of the fit's history.
_RECORDED = ("log_likelihood", "rank_probabilities", "exactly_shared", "steepness")


def fit_population(
    x: Array,
    y: Array,
    which: NDArray[np.int64],
    users: list[Any],
    weights: Array | None,
    rank: Any,
    intercept: bool,
    noise: str,
) -> Fitted:
    """Empirical Bayes on a table of standardised columns (see `estimators.hierarchical`).

    Where users turn out to differ in noise rather than in deviations, noise of their own is fitted.
    With few rows per coefficient the population's mean starts from ridge regression of all rows pooled, at the
    strength of maximum likelihood: estimating it freely together with the variances would overfit.
    Several outputs are fitted again in combinations whose noise is white, until it is (see `output_noise`).
    """
    _log.info("%d rows of %d users: reading", len(x), len(users))
    units = Units.of(x, y, weights, intercept)
    data = sufficient_rows(x, y, which, len(users), units, weights)
    if not is_auto(rank) and not is_zero(rank):
        rank = resolve_rank(rank, data)
    data, units = without_repeats(data, units)
    if isinstance(rank, tuple):
        rank = (min(rank[0], len(users) * min(rank[1], data.dim_out)), min(rank[1], data.dim_out))
    found = _fit(users, units, data, rank, noise)
    for _ in range(_WHITENED):
        root = None if found.between is None else whitening(found.between, found.freedom)
        if root is None:
            break
        _log.info("noise is correlated between outputs: again in outputs where it is white")
        data, units = mixed(data, units, root)
        found = _fit(users, units, data, rank, noise)
    return found


def _fit(users: list[Any], units: Units, data: Dataset, rank: Any, noise: str) -> Fitted:
    """Empirical Bayes, noise being taken as white between the outputs of `data`."""
    q, intercept = units.inputs, units.intercept
    own = (q - 1,) if intercept else ()
    if len(users) == 1:
        return _alone(users, units, data)
    start = None
    free = data.counts.sum() >= _PLENTY * q
    if not free:
        start = posterior_mean(*evidence_ridge(_pooled(data), intercept))[0][0]
    settings = {"rank": rank, "own_columns": own, "noise": noise, "mean": "free" if free else "zero"}
    fit = get("hierarchical").from_params(**settings).fit(replace(data, pretrained=start))
    if fit.uncertainty is None:  # constant responses: nothing to learn
        return _constant(users, units)
    _log.info("the population of %d users", len(users))
    population, rows, known = population_of(fit, start, own)
    if known is not None and noise == "common" and len(users) > 2:
        # a common noise has bent the prior to explain the noisiest users
        fit = (
            get("hierarchical")
            .from_params(**settings | {"noise": "per_user"})
            .fit(replace(data, pretrained=start))
        )
        population, rows, known = population_of(fit, start, own)
    history = {name: fit.history[name] for name in _RECORDED if name in fit.history}
    return _assembled(users, units, data, population, rows, known, fit.status, history)


def _assembled(
    users: list[Any],
    units: Units,
    data: Dataset,
    population: Population,
    rows: RotatedRows,
    known: Array | None,
    status: str,
    history: dict[str, Any],
) -> Fitted:
    standard = np.concatenate([population.weights(rows, known), population.mean()[None]])
    coef, intercepts = units.weights(standard)
    leader = population.components[0].hyper
    d = len(units.centre)
    turned = population.back[:d] * leader.u[:d] / units.scale[:, None]
    u = np.linalg.qr(turned)[0]
    v = np.linalg.qr(units.y_scale[:, None] * (units.outputs.T @ leader.v))[0]
    cores = u.T @ (coef[:-1] - coef[-1]) @ v
    spent = float(population.effective(rows, known).sum()) + rows.d * rows.p
    several = len(units.y_scale) > 1
    return Fitted(
        users=users,
        coef=coef,
        intercept=intercepts,
        input_subspace=u,
        output_subspace=v,
        cores=cores,
        rank=leader.rank,
        status=status,
        history=history,
        units=units,
        population=population,
        rows=rows,
        noise=known,
        between=noise_shape(data, standard[:-1], population, rows, known) if several else None,
        freedom=max((float(rows.counts.sum()) * rows.p - spent) / rows.p, 1.0),
    )


def _alone(users: list[Any], units: Units, data: Dataset) -> Fitted:
    """One user shares with nobody: ridge regression at the strength of maximum likelihood."""
    if not data.responses.any():
        return _constant(users, units)
    rows, hyper = evidence_ridge(data, units.intercept)
    one = Component(1.0, hyper, np.ones(1), np.ones(1))
    population = Population((one,), np.ones(units.inputs), 1.0, None)
    return _assembled(users, units, data, population, rows, None, "converged", {})


def fit_shared(
    x: Array,
    y: Array,
    which: NDArray[np.int64],
    users: list[Any],
    weights: Array | None,
    rank: Any,
    intercept: bool,
    name: str,
    rng: np.random.Generator,
) -> Fitted:
    """A shared-subspace estimator on covariates and responses centred user by user."""
    k, root = len(users), np.ones(len(x)) if weights is None else np.sqrt(weights)
    total = np.maximum(np.bincount(which, root**2, k), 1e-300)[:, None]
    means_x, means_y = np.zeros((k, x.shape[1])), np.zeros((k, y.shape[1]))
    if intercept:
        for means, values in ((means_x, x), (means_y, y)):
            for j in range(values.shape[1]):
                means[:, j] = np.bincount(which, root**2 * values[:, j], k)
            means /= total
    order = np.argsort(which, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(which, minlength=k))[:-1])
    data = Dataset.from_arrays(
        [root[r, None] * (x[r] - m) for r, m in zip(rows, means_x, strict=True)],
        [root[r, None] * (y[r] - m) for r, m in zip(rows, means_y, strict=True)],
    )
    if is_auto(rank):
        # users with the fewest rows would bound the rank for all: the better half decides
        least = max(2, int(np.median(data.counts)))
        tall = data.counts >= least
        rank = choose_rank(data.take(tall), rng) if tall.any() else 1
    estimate = get(name).from_params(rank=rank).fit(data, rng)
    if estimate.input_subspace is None or estimate.output_subspace is None or estimate.cores is None:
        raise InputError(f"estimator must be one that learns shared subspaces, such as altmin, got {name!r}.")
    units = Units(np.zeros(x.shape[1]), np.ones(x.shape[1]), np.zeros(y.shape[1]), np.ones(y.shape[1]), intercept)
    r1, r2 = estimate.cores.shape[1:]
    with np.errstate(over="ignore", invalid="ignore"):
        weights_of_users = estimate.weights
        intercepts = means_y - np.einsum("kd,kdp->kp", means_x, weights_of_users)
    refuse_beyond_numbers(weights_of_users, intercepts)
    return Fitted(
        users=users,
        coef=weights_of_users,
        intercept=intercepts,
        input_subspace=estimate.input_subspace,
        output_subspace=estimate.output_subspace,
        cores=estimate.cores,
        rank=(r1, r2),
        status=estimate.status,
        history={},
        units=units,
    )


def _pooled(data: Dataset) -> Dataset:
    """All users' rows as those of one user, in as few rows as say the same."""
    whole = data.pooled()
    table = np.concatenate([whole.covariates[0], whole.responses[0]], axis=1)
    if len(table) > table.shape[1]:
        table = np.asarray(np.linalg.qr(table, mode="r"))
    q = data.dim_in
    return replace(whole, covariates=table[None, :, :q], responses=table[None, :, q:])


def _constant(users: list[Any], units: Units) -> Fitted:
    """Responses that are all the same: no coefficient is needed, and none is learned."""
    k, d, p = len(users), len(units.centre), len(units.y_scale)
    centre = units.y_centre if units.intercept else np.zeros(p)
    return Fitted(
        users=users,
        coef=np.zeros((k, d, p)),
        intercept=np.tile(centre, (k, 1)),
        input_subspace=np.zeros((d, 0)),
        output_subspace=np.zeros((p, 0)),
        cores=np.zeros((k, 0, 0)),
        rank=(0, 0),
        status="converged",
        history={},
        units=units,
    )
