"""Noise between outputs: its covariance from a fit, and outputs in which it is white."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from colora_theory.estimators.marginal_likelihood import RotatedRows, Seen, Users
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array
from colora_theory.regression.prior import Population, precisions
from colora_theory.regression.units import Units

#: Variance of a combination of outputs, relative to the largest, below which it is rounding.
_ROUNDING = 1e-20
#: Mean square of residuals, relative to responses, below which there is no noise to be told.
_EXACT = 1e-16
#: Numbers of users' matrices that are held at a time.
_BLOCK = 1 << 22


def without_repeats(data: Dataset, units: Units) -> tuple[Dataset, Units]:
    """The data and units less combinations of outputs that are constant, such as the difference of two equal ones.

    Nothing is left out where there are hardly more rows than outputs: there a combination is constant by chance.
    """
    p = data.dim_out
    if p == 1 or data.counts.sum() <= p + 1:
        return data, units
    table = np.asarray(np.linalg.qr(data.responses.reshape(-1, p), mode="r"))
    _, values, rows = np.linalg.svd(table)
    values = np.append(values, np.zeros(p - len(values)))
    live = values**2 > _ROUNDING * values[0] ** 2
    if live.all() or not live.any():
        return data, units
    kept = rows[live]
    return replace(data, responses=data.responses @ kept.T), replace(units, mixing=kept)


def noise_shape(
    data: Dataset, standard: Array, population: Population, rows: RotatedRows, known: Array | None
) -> Array:
    """Covariance of the noise between outputs, shape (dim_out, dim_out), mean variance 1, from a fit's residuals.

    Parameters
    ----------
    data : the rows that were fitted. standard : weights of their users, shape (k, inputs, dim_out).

    Residuals R of a linear smoother have E RᵀR = σ²(N·I − E) for white noise, E the degrees of freedom spent on
    and between outputs (`spent`); RᵀR is divided by that from both sides, so that outputs which spend more do not
    look less noisy. One output: 1.
    """
    p = data.dim_out
    if p == 1:
        return np.ones((1, 1))
    left = data.responses - data.covariates @ standard
    square = np.einsum("kmp,kmq->pq", left, left)
    values, vectors = np.linalg.eigh(data.counts.sum() * np.eye(p) - spent(population, rows, known))
    root = (vectors / np.sqrt(np.maximum(values, 1.0))) @ vectors.T
    shape = root @ square @ root
    mean = float(np.trace(shape)) / p
    exact = mean <= _EXACT * float(np.square(data.responses).sum()) / max(float(data.counts.sum()) * p, 1.0)
    return np.eye(p) if exact else np.asarray(0.5 * (shape + shape.T) / mean)


def spent(population: Population, rows: RotatedRows, known: Array | None) -> Array:
    """Degrees of freedom spent on and between outputs, shape (dim_out, dim_out): Σ_i tr_d(Γ X_iᵀM_i⁻¹X_i).

    The trace of it is that of `Population.effective` summed over users, plus one per weight of the mean.
    """
    leader = population.components[0]
    hyper, shares = leader.at(rows, known)
    d, p = rows.d, rows.p
    total = d * np.eye(p)
    tau2 = (shares @ leader.factors) * hyper.tau2 * hyper.stretch
    step = max(1, _BLOCK // (d * p) ** 2)
    for first in range(0, len(rows.x), step):
        block = slice(first, first + step)
        users = Users(Seen(rows, hyper, block), tau2[block])
        loads = np.einsum("da,abr,pb->dpr", users.u, users.loads, users.v).reshape(d * p, -1)
        told = precisions(users)
        told = loads @ (loads.T @ told) + tau2[block, None, None] * told
        total += np.einsum("kdpdq->pq", told.reshape(-1, d, p, d, p))
    return np.asarray(0.5 * (total + total.T))


def whitening(shape: Array, freedom: float) -> Array | None:
    """The square root of the noise's covariance, shape (p, p); None where it is white as far as can be told.

    Parameters
    ----------
    shape : of `noise_shape`. freedom : degrees of freedom that it has.

    White: the likelihood ratio of sphericity (Mauchly 1940) is below twice its parameters (Akaike's criterion).
    The covariance is drawn to a multiple of the identity as if p rows more had shown that, so that it is never
    singular, and single steps are bounded.
    """
    p = len(shape)
    if p == 1 or freedom <= 1.0:
        return None
    drawn = (freedom * shape + p * np.eye(p)) / (freedom + p)
    values, vectors = np.linalg.eigh(drawn)
    values = np.maximum(values, 1e-300)
    ratio = freedom * (p * np.log(values.mean()) - np.log(values).sum())
    if ratio < 2.0 * (0.5 * p * (p + 1) - 1.0):
        return None
    return np.asarray((vectors * np.sqrt(values)) @ vectors.T)


def mixed(data: Dataset, units: Units, root: Array) -> tuple[Dataset, Units]:
    """The data and units in outputs that are the present ones times the inverse of `root`."""
    mixing = root if units.mixing is None else root @ units.mixing
    return replace(data, responses=data.responses @ np.linalg.inv(root)), replace(units, mixing=mixing)
