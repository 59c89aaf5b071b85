"""Posterior standard deviations of users' weights, the uncertainty of the subspaces included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from colora_theory.estimators.marginal_likelihood import RotatedRows
from colora_theory.estimators.posterior import information, mixed_mean, mixed_variance
from colora_theory.estimators.prior_evidence import Weighed, typically
from colora_theory.estimators.weak_priors import weights_of_rows
from colora_theory.model.linalg import Array


@dataclass(frozen=True, eq=False)
class Averaged:
    """A posterior: priors and their probabilities, the rows they come from, and the way back to the data's units.

    `back` is the shape-(d, 1) or (d, p) factor that turns internal weights into those of the data.
    """

    rows: RotatedRows
    priors: tuple[tuple[float, Weighed], ...]
    back: Array


def posterior_deviation(averaged: Averaged) -> Array:
    """Posterior standard deviations, shape (k, d, p): within every prior, between priors, and of its subspaces."""
    rows = averaged.rows
    mean, square = np.zeros((2, len(rows.x), rows.d, rows.p))
    for share, prior in averaged.priors:
        found, cores = mixed_mean(rows, prior.hyper, prior.factors, prior.shares)
        spread = mixed_variance(rows, prior.hyper, prior.factors, prior.shares)
        mean += share * found
        square += share * (found**2 + spread + _of_subspaces(rows, prior, cores))
    return averaged.back * np.sqrt(np.maximum(square - mean**2, 0.0))


def _of_subspaces(rows: RotatedRows, prior: Weighed, cores: Array) -> Array:
    """Variance that estimating U and V adds, shape (k, d, p) (Kass & Steffey 1989, to first order).

    A change δU moves the posterior mean by (I − τ²X_iᵀN_i⁻¹X_i) δU C_i Vᵀ: what deviations explain is not moved.
    Per direction outside U, δU has covariance J⁻¹, J the information of `information` plus that of a uniform U.
    """
    hyper = typically(prior.hyper, prior.factors, prior.shares)
    if not hyper.rank[0]:
        return np.zeros((1, 1, 1))
    tau2 = hyper.tau2 * hyper.stretch
    explained = tau2 * (rows.squares * weights_of_rows(rows, hyper)).sum(1) / rows.x.shape[2]
    of_u, of_v = information(rows, hyper)
    total = np.zeros((len(rows.x), rows.d, rows.p))
    if hyper.rank[0] < rows.d:
        outside = 1.0 - (hyper.u**2).sum(1)
        right = cores @ hyper.v.T  # (k, r1, p)
        inverse = np.linalg.inv(of_u + rows.d * np.eye(len(of_u)))
        total += outside[:, None] * np.einsum("kap,ac,kcp->kp", right, inverse, right)[:, None, :]
    if hyper.rank[1] < rows.p:
        outside = 1.0 - (hyper.v**2).sum(1)
        left = hyper.u @ cores  # (k, d, r2)
        inverse = np.linalg.inv(of_v + rows.p * np.eye(len(of_v)))
        total += np.einsum("kdj,jl,kdl->kd", left, inverse, left)[:, :, None] * outside
    return total * ((1.0 - explained) ** 2)[:, None, None]
