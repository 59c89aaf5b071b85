"""Where searches for a prior begin: nothing shared, the directions of large deviations, or one direction less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from colora_theory.estimators.marginal_likelihood import Hyper, RotatedRows, users_at
from colora_theory.estimators.posterior import posterior_mean
from colora_theory.estimators.weak_priors import Rules, weights_of_rows
from colora_theory.model.linalg import Array

#: Steps of expectation maximisation from which the search over all covariances begins.
_MAXIMISED = 6


def alone(rows: RotatedRows, columns: tuple[int, ...] = ()) -> Hyper:
    """Where a search begins: no shared part, half of the responses' variance in the deviations."""
    energy = float(np.vdot(rows.y, rows.y) + rows.rest.sum()) / max(rows.num_observations, 1.0)
    power = float(rows.squares.sum()) / max(float(rows.counts.sum()), 1.0)
    tau2 = 0.5 * energy / max(power, 1e-300)
    return Hyper(
        u=np.zeros((rows.d, 0)),
        v=np.zeros((rows.p, 0)),
        core=np.zeros((0, 0)),
        own=np.full(len(columns), np.sqrt(tau2)),
        mean=np.zeros((rows.d, rows.p)),
        tau2=tau2,
        sigma2=np.full(len(rows.x), 0.5 * energy),
        stretch=np.ones(len(rows.x)),
        columns=columns,
    )


def unrestricted(rows: RotatedRows, rules: Rules, steps: int = _MAXIMISED) -> Hyper:
    """Where a search over all covariances Γ = S begins: after some steps of expectation maximisation.

    Laird & Ware (Biometrics 38, 1982), with generalised least squares for μ: every step raises the likelihood.
    Beside such an S deviations change nothing: τ = 0.
    """
    hyper, k, size = alone(rows), len(rows.x), rows.d * rows.p
    start = np.sqrt(hyper.tau2) * np.eye(size)
    hyper = replace(hyper, u=np.eye(rows.d), v=np.eye(rows.p), core=start, stretch=np.zeros(k))
    for _ in range(steps):
        if rules.free_mean:  # in units of L the information about μ is I − Cov(z | y), and its score E(z | y)
            pull, covariance, _, _ = _moments(rows, hyper)
            move = hyper.core @ np.linalg.lstsq(k * np.eye(size) - covariance, pull)[0]
            hyper = replace(hyper, mean=hyper.mean + move.reshape(rows.d, rows.p))
        _, covariance, square, noise = _moments(rows, hyper)
        each = noise / np.maximum(rows.counts * rows.y.shape[2], 1)
        sigma2 = each if rules.per_user else np.full(k, noise.sum() / rows.num_observations)
        sigma2 = np.where(sigma2 > 0.0, sigma2, hyper.sigma2)  # a user without rows has none to estimate
        hyper = replace(hyper, core=hyper.core @ _factor((covariance + square) / k), sigma2=sigma2)
    return hyper


def _moments(rows: RotatedRows, hyper: Hyper) -> tuple[Array, Array, Array, Array]:
    """Sums over users of what is known of their z, weights being μ + L z with z ~ N(0, I) and nobody straying.

    Σ E z, Σ Cov z and Σ E z E zᵀ, shapes (R,), (R, R) and (R, R); expected squared length of every user's noise.
    """
    size = rows.d * rows.p
    mean, covariance, square, noise = (
        np.zeros(size),
        np.zeros((size, size)),
        np.zeros((size, size)),
        rows.rest.copy(),
    )
    for block in rows.blocks:
        users = users_at(rows, hyper, block)
        mean += users.z.sum(0)
        covariance += users.inverse.sum(0)
        square += users.z.T @ users.z
        spread = size - np.einsum("krr->k", users.inverse)  # variance of the fitted values / σ²
        noise[block] += ((users.e - users.fitted) ** 2).sum((1, 2)) + users.sigma2 * spread
    return mean, covariance, square, noise


def deviations(rows: RotatedRows, hyper: Hyper) -> Array:
    """Posterior means less the prior's and those of the shared part, shape (k, d, p)."""
    weights, cores = posterior_mean(rows, hyper)
    return weights - hyper.mean - (hyper.u @ cores) @ hyper.v.T


def leading(stack: Array, count: int) -> tuple[Array, Array]:
    """Leading `count` directions of the columns of all matrices, shape (d, count), and their energies."""
    flat = stack.transpose(1, 0, 2).reshape(stack.shape[1], -1)
    if flat.shape[1] < flat.shape[0]:
        left, values, _ = np.linalg.svd(flat, full_matrices=False)
        return left[:, :count], values[:count] ** 2
    values, vectors = np.linalg.eigh(flat @ flat.T)
    return vectors[:, ::-1][:, :count], np.maximum(values[::-1][:count], 0.0)


def widened(rows: RotatedRows, hyper: Hyper, rank: tuple[int, int]) -> Hyper:
    """A start of a larger rank: new directions are those in which the deviations are largest."""
    (r1, r2), (s1, s2), k = hyper.rank, rank, len(rows.x)
    left = deviations(rows, hyper)
    u, v = hyper.u, hyper.v
    if s1 > r1:
        rest = left - u @ (u.T @ left)
        u = _joined(u, leading(rest, s1 - r1)[0])
    if s2 > r2:
        v = np.eye(rows.p) if s2 == rows.p else v
        if s2 < rows.p:
            rest = (left - (left @ v) @ v.T).swapaxes(1, 2)
            v = _joined(v, leading(rest, s2 - r2)[0])
    cores = np.linalg.multi_dot([u.T, left.transpose(1, 0, 2).reshape(rows.d, -1)]).reshape(s1, k, -1) @ v
    variance = (cores**2).mean(1).ravel() + 1e-6 * hyper.tau2
    core = np.zeros((s1, s2, s1, s2))
    old = (hyper.core @ hyper.core.T).reshape(r1, r2, r1, r2)
    if s2 == rows.p and r2 and r2 < s2:
        old = np.einsum("ajcl,oj,pl->aocp", old, hyper.v, hyper.v)
        core[:r1, :, :r1, :] = old
    else:
        core[:r1, :r2, :r1, :r2] = old
    total = core.reshape(s1 * s2, -1) + np.diag(variance)
    return replace(hyper, u=u, v=v, core=_factor(total))


def _joined(old: Array, new: Array) -> Array:
    """Old columns and new ones; where only rounding told the new ones, any others orthogonal to the old."""
    both = np.concatenate([old, new], axis=1)
    if float(np.abs(old.T @ new).max(initial=0.0)) > 1e-8:
        both[:, old.shape[1] :] = np.linalg.qr(both)[0][:, old.shape[1] :]
    return both


def narrowed(hyper: Hyper, rank: tuple[int, int]) -> Hyper:
    """A start of a smaller rank: the weakest directions (the last ones of a gauged prior) join the deviations."""
    (r1, r2), (s1, s2) = hyper.rank, rank
    s = (hyper.core @ hyper.core.T).reshape(r1, r2, r1, r2)
    kept = s[:s1, :s2, :s1, :s2].reshape(s1 * s2, -1)
    lost = float(np.einsum("ajaj->", s)) - float(np.trace(kept))
    tau2 = hyper.tau2 + lost / (len(hyper.u) * len(hyper.v))
    return replace(hyper, u=hyper.u[:, :s1], v=hyper.v[:, :s2], core=_factor(kept), tau2=tau2)


def _factor(covariance: Array) -> Array:
    """L with orthogonal columns and LLᵀ = S; no variance is less than 1e-14 of the largest, L has an inverse."""
    values, vectors = np.linalg.eigh(covariance)
    floor = max(float(values[-1]), 1e-300) * 1e-14
    return np.asarray(vectors * np.sqrt(np.maximum(values, floor)))


def promising(rows: RotatedRows, hyper: Hyper) -> int:
    """A guess at the number of shared directions: those whose energy stands out of the others' median.

    Twice the edge of the Marchenko–Pastur law scaled to that median; at least 1.
    """
    left = deviations(rows, hyper)
    most = min(rows.d, len(rows.x) * rows.p)
    energies = leading(left, most)[1]
    aspect = min(rows.d, len(rows.x) * rows.p) / max(rows.d, len(rows.x) * rows.p)
    level = float(np.median(energies)) * (1.0 + np.sqrt(aspect)) ** 2
    return int(np.clip((energies > 2.0 * level).sum(), 1, max(1, most // 2)))


def visible_directions(rows: RotatedRows, hyper: Hyper) -> int:
    """Shared directions of the inputs that the data see: mean variance of their cores × information > dim_in.

    Below that a direction of the best likelihood is as good as any other (see `weak_priors`).
    """
    r1, r2 = hyper.rank
    variances = np.einsum("ajaj->a", (hyper.core @ hyper.core.T).reshape(r1, r2, r1, r2)) / max(r2, 1)
    information = float(np.vdot(rows.squares, weights_of_rows(rows, hyper))) / rows.x.shape[2]
    return int((variances * information > rows.d).sum())
