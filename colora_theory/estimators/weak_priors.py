"""Weak priors on hyper-parameters: what keeps maximum likelihood from believing noise.

Four weak priors replace what maximum likelihood cannot know. None has a scale of its own.

- Subspace: Laplace's approximation to the average over all U (uniform) instead of the best one,
  −½ (d − r1) Σ_a g(S_a t/d), g(x) = log(1 + x) + x/(1 + x), S_a the cores' variances and t the information per
  direction. It turns the likelihood of σ² into a restricted one (r1(d − r1) observations are spent on U), and is
  what a direction has to earn before it counts. Likewise for V.
- Shape of the cores' covariance S: as if one more user had been seen under a multiple of the identity.
- Signal: the share ρ of the responses' variance that weights explain has a density ∝ ρ(1 − ρ) on the logit scale,
  worth two observations, so that neither noise nor weights vanish by chance when there are few data.
- Noise of single users: log σ_i² around a common value with two pseudo-observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from colora_theory.estimators.marginal_likelihood import Gradient, Hyper, RotatedRows
from colora_theory.model.linalg import Array

#: Weight of the prior on the shape of the cores' covariance, in users; of single users' noise, in observations.
_SHAPE, _NOISE = 1.0, 2.0


@dataclass(frozen=True)
class Rules:
    """What is free, and whether the weak priors hold.

    Attributes
    ----------
    free_mean : whether μ is estimated (else it stays as it is).
    per_user : whether every user has a noise variance of its own.
    priors : False: plain maximum likelihood.
    volume : False: without the prior that averages over subspaces.
    """

    free_mean: bool = False
    per_user: bool = False
    priors: bool = True
    volume: bool = True


def weights_of_rows(rows: RotatedRows, hyper: Hyper) -> Array:
    """Inverse variances of the rotated rows without the shared part, shape (k, m)."""
    return 1.0 / (hyper.tau2 * hyper.stretch[:, None] * rows.squares + hyper.sigma2[:, None])


def penalty(rows: RotatedRows, hyper: Hyper, rules: Rules, total: Gradient) -> float:
    """Log of the weak priors; their derivatives are added to `total`."""
    if not rules.priors:
        return 0.0
    value = 0.0
    if rules.per_user:  # the common value of log σ_i² at its best
        level = 1.0 / np.mean(1.0 / hyper.sigma2)
        ratio = level / hyper.sigma2
        value -= 0.5 * _NOISE * float((ratio - 1.0 - np.log(ratio)).sum())
        total.sigma2 -= 0.5 * _NOISE * (1.0 - ratio) / hyper.sigma2
    r1, r2 = hyper.rank
    value += _signal(rows, hyper, total)
    if r1 == 0:
        return value
    a1, a2 = hyper.u.T @ hyper.u, hyper.v.T @ hyper.v
    core = hyper.core
    s = (core @ core.T).reshape(r1, r2, r1, r2)
    size = r1 * r2
    # shape of S: scale-free, R log(tr S/R) − log det S
    s_u, s_v = np.einsum("ajcl,jl->ac", s, a2), np.einsum("ajcl,ac->jl", s, a1)
    trace = float(np.vdot(a1, s_u))
    log_det = np.linalg.slogdet(core)[1] * 2 + r1 * np.linalg.slogdet(a2)[1] + r2 * np.linalg.slogdet(a1)[1]
    value -= 0.5 * _SHAPE * (size * np.log(trace / size) - log_det)
    rate = -0.5 * _SHAPE * size / trace
    total.u += 2.0 * rate * hyper.u @ s_u + _SHAPE * r2 * hyper.u @ np.linalg.inv(a1)
    total.v += 2.0 * rate * hyper.v @ s_v + _SHAPE * r1 * hyper.v @ np.linalg.inv(a2)
    total.core += 2.0 * rate * np.kron(a1, a2) @ core + _SHAPE * np.linalg.inv(core).T
    if not rules.volume:
        return value
    q = rows.x.shape[2]
    w = weights_of_rows(rows, hyper)
    information = float(np.vdot(rows.squares, w)) / q
    slope = rows.squares * w**2 / q
    turned = s.transpose(1, 0, 3, 2)  # the outputs' side of S
    for left, a_own, a_other, tensor, dim, outputs in (
        (True, a1, a2, s, rows.d, False),
        (False, a2, a1, turned, rows.p, True),
    ):
        r = len(a_own)
        if r == dim:
            continue
        scale, s_own = information / dim, s_v if outputs else s_u
        inverse = np.linalg.inv(np.eye(r) + scale * a_own @ s_own)
        value -= 0.5 * (dim - r) * (r - float(np.trace(inverse)) - np.linalg.slogdet(inverse)[1])
        both = inverse + inverse @ inverse
        y, x = s_own @ both, both @ a_own
        y, x = 0.5 * (y + y.T), 0.5 * (x + x.T)
        weight = -0.5 * (dim - r)
        other = np.einsum("ajcl,ac->jl", tensor, x)
        if left:
            total.u += 2.0 * weight * scale * hyper.u @ y
            total.v += 2.0 * weight * scale * hyper.v @ other
            total.core += 2.0 * weight * scale * np.kron(x, a_other) @ core
        else:
            total.v += 2.0 * weight * scale * hyper.v @ y
            total.u += 2.0 * weight * scale * hyper.u @ other
            total.core += 2.0 * weight * scale * np.kron(a_other, x) @ core
        d_information = weight * float(np.vdot(x, s_own)) / dim
        total.tau2 -= d_information * float(np.vdot(slope, rows.squares * hyper.stretch[:, None]))
        total.sigma2 -= d_information * slope.sum(1)
    return value


def _signal(rows: RotatedRows, hyper: Hyper, total: Gradient) -> float:
    """log ρ + log(1 − ρ), ρ = g/(g + σ̄²) with g the prior variance of a response less its mean and noise."""
    outputs = float(rows.p) if rows.regression else 1.0  # which share the cores' variance
    a1, a2 = hyper.u.T @ hyper.u, hyper.v.T @ hyper.v
    turned = np.kron(a1, a2) @ hyper.core
    shared = float(np.vdot(turned, hyper.core)) / outputs
    q, noise = rows.x.shape[2], float(hyper.sigma2.mean())
    stray = q * float(hyper.stretch.mean())
    signal = stray * hyper.tau2 + shared + float((hyper.own**2).sum()) * (1.0 if rows.regression else rows.p)
    if signal == 0.0:
        return 0.0
    whole = signal + noise
    slope = 1.0 / signal - 2.0 / whole
    total.tau2 += slope * stray
    total.own += 2.0 * slope * hyper.own * (1.0 if rows.regression else rows.p)
    total.sigma2 += (1.0 / noise - 2.0 / whole) / len(hyper.sigma2)
    if hyper.rank[0]:
        r1, r2 = hyper.rank
        s = (hyper.core @ hyper.core.T).reshape(r1, r2, r1, r2)
        total.u += 2.0 * slope / outputs * hyper.u @ np.einsum("ajcl,jl->ac", s, a2)
        total.v += 2.0 * slope / outputs * hyper.v @ np.einsum("ajcl,ac->jl", s, a1)
        total.core += 2.0 * slope / outputs * turned
    return float(np.log(signal) + np.log(noise) - 2.0 * np.log(whole))
