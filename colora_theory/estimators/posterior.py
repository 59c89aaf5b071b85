"""What a prior says about users: posterior means and variances, scores, and what the data tell about subspaces."""

from __future__ import annotations

import numpy as np

from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows, Seen, Users, users_at
from colora_theory.model.linalg import Array


def posterior_mean(rows: RotatedRows, hyper: Hyper) -> tuple[Array, Array]:
    """Posterior means of the weights, shape (k, d, p), and of the cores, shape (k, r1, r2)."""
    return mixed_mean(rows, hyper, np.ones(1), np.ones((len(rows.x), 1)))


def posterior_variance(rows: RotatedRows, hyper: Hyper) -> Array:
    """Posterior variances of the weights' entries, shape (k, d, p)."""
    return mixed_variance(rows, hyper, np.ones(1), np.ones((len(rows.x), 1)))


def likelihoods(rows: RotatedRows, hyper: Hyper, factors: Array) -> Array:
    """Log marginal likelihood of every user under τ² times each factor, shape (k, factors)."""
    out = np.empty((len(rows.x), len(factors)))
    for block in rows.blocks:
        seen = Seen(rows, hyper, block)
        for j, factor in enumerate(factors):
            out[block, j] = Users(seen, factor * hyper.tau2 * hyper.stretch[block]).value
    return out


def mixed_mean(rows: RotatedRows, hyper: Hyper, factors: Array, shares: Array) -> tuple[Array, Array]:
    """Posterior means of weights and cores; user i's τ² is multiplied by factor j with chance shares[i, j]."""
    weights = np.empty((len(rows.x), rows.d, rows.p))
    cores = np.zeros((len(rows.x), *hyper.rank))
    for block in rows.blocks:
        seen = Seen(rows, hyper, block)
        shared, pull = np.zeros((len(seen.x), *seen.loads.shape[:2])), np.zeros_like(seen.e)
        for j in np.flatnonzero(shares[block].max(0) > 1e-12):
            users = Users(seen, factors[j] * hyper.tau2 * hyper.stretch[block])
            share = shares[block, j][:, None, None]
            shared += share * users.cores
            pull += (share * users.tau2[:, :, None]) * users.residual()
        own = seen.x.swapaxes(1, 2) @ pull
        weights[block] = (seen.u @ shared) @ seen.v.T + hyper.mean + own.reshape(-1, rows.d, rows.p)
        cores[block] = shared[:, : cores.shape[1], : cores.shape[2]]
    return weights, cores


def mixed_variance(rows: RotatedRows, hyper: Hyper, factors: Array, shares: Array) -> Array:
    """Posterior variances of the weights' entries under such a mixture, shape (k, d, p)."""
    out = np.zeros((len(rows.x), rows.d, rows.p))
    for block in rows.blocks:
        seen = Seen(rows, hyper, block)
        mean = np.zeros_like(out[block])
        for j in np.flatnonzero(shares[block].max(0) > 1e-12):
            users = Users(seen, factors[j] * hyper.tau2 * hyper.stretch[block])
            share, weights = shares[block, j][:, None, None], users.weights(hyper.mean)
            out[block] += share * (users.variances() + weights**2)
            mean += share * weights
        out[block] -= mean**2
    return np.maximum(out, 0.0)


def scores(rows: RotatedRows, hyper: Hyper) -> tuple[Array, Array]:
    """Score of every user's weight at the prior's mean, and its mean variance per entry were nothing shared.

    X_iᵀ M_i⁻¹ (y_i − 𝒜_i(μ)), shape (k, d, p), M_i the marginal covariance; and the mean eigenvalue of
    X_iᵀ N_i⁻¹ X_i, N_i the covariance of deviations and noise alone, shape (k,).
    """
    out, variances = np.empty((len(rows.x), rows.d, rows.p)), np.empty(len(rows.x))
    for block in rows.blocks:
        users = users_at(rows, hyper, block)
        out[block] = (users.x.swapaxes(1, 2) @ users.residual()).reshape(-1, rows.d, rows.p)
        variances[block] = (users.squares * users.w).sum(1) / rows.x.shape[2]
    return out, variances


def information(rows: RotatedRows, hyper: Hyper) -> tuple[Array, Array]:
    """What the data tell about U and V per direction, were the cores known: shapes (r1, r1) and (r2, r2).

    Σ_i t_i E[C_i VᵀV C_iᵀ | y_i] and Σ_i t_i E[C_iᵀ UᵀU C_i | y_i], t_i the mean eigenvalue of X_iᵀ N_i⁻¹ X_i,
    N_i the covariance of deviations and noise.
    """
    r1, r2 = hyper.rank
    total = np.zeros((r1, r2, r1, r2))
    for block in rows.blocks:
        users = users_at(rows, hyper, block)
        per_direction = (users.squares * users.w).sum(1) / rows.x.shape[2]
        second = users.z[:, :, None] * users.z[:, None, :] + users.inverse
        mean = users.flat @ np.tensordot(per_direction, second, axes=1) @ users.flat.T
        shape = users.loads.shape[:2]
        total += mean.reshape(*shape, *shape)[:r1, :r2, :r1, :r2]
    a1, a2 = hyper.u.T @ hyper.u, hyper.v.T @ hyper.v
    return np.einsum("ajcl,jl->ac", total, a2), np.einsum("ajcl,ac->jl", total, a1)
