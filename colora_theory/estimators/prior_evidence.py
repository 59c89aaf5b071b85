"""How probable a prior is: users' own scales of deviation and the uncertainty of hyper-parameters averaged over.

Deviations of users are rarely of one size. User i has τ_i² = g_i τ² with log g_i spread by s around a common
shift; s and the shift are averaged over on a grid (so the uncertainty of τ² is, too), s = 0 among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.special import logsumexp

from colora_theory.estimators.hyper_parameters import Rules, gauged, penalty, weights_of_rows
from colora_theory.estimators.marginal_likelihood import (
    Gradient,
    Hyper,
    RotatedRows,
    information,
    likelihoods,
)
from colora_theory.linalg import Array

#: Factors of τ², a zero among them; steps of a factor 2 that the common shift may take; spreads of log τ_i².
_FACTORS: Final = np.concatenate([[0.0], 2.0 ** (0.5 * np.arange(-16, 17))])
_SHIFTS: Final = np.arange(-4, 5) * np.log(2.0)
_SPREADS: Final = (0.0, 0.5, 1.0, 2.0)
#: Users, of one more than there are, that may be anywhere on the grid.
_ANYWHERE: Final = 1.0
#: Prior odds that users share something, and prior probability that then nobody strays from it.
_SHARED: Final = 20.0
_EXACT: Final = 0.25


@dataclass(frozen=True, eq=False)
class Weighed:
    """A prior with what it is worth.

    Attributes
    ----------
    hyper : the prior; its τ² is the reference of the factors.
    factors, shares : user i's τ² is factors[j] τ² with posterior probability shares[i, j].
    evidence : log of the probability of the data, subspaces and users' scales averaged over.
    """

    hyper: Hyper
    factors: Array
    shares: Array
    evidence: float


def weighed(rows: RotatedRows, hyper: Hyper, rules: Rules) -> Weighed:
    """Average over users' scales, and over subspaces around the best one.

    A prior without any deviations (`stretch` zero) stays one.
    """
    hyper = gauged(hyper)
    odds = np.log(_SHARED) if rules.priors and hyper.rank[0] else 0.0
    if not hyper.stretch.any():
        one, whole = np.ones(1), np.ones((len(rows.x), 1))
        value = float(likelihoods(rows, hyper, one).sum()) + corrections(rows, hyper, rules, one, whole)
        return Weighed(hyper, one, whole, value + odds + np.log(_EXACT))
    odds += np.log(1.0 - _EXACT) if hyper.rank[0] else 0.0
    reference = replace(hyper, tau2=max(hyper.tau2, visible(rows, hyper)))
    if rules.priors:
        factors = _FACTORS
        table = likelihoods(rows, reference, factors)
        value, shares = mixture(table, float(np.log(hyper.tau2 / reference.tau2)))
    else:
        reference, factors = hyper, np.ones(1)
        value, shares = float(likelihoods(rows, hyper, factors).sum()), np.ones((len(rows.x), 1))
    return Weighed(reference, factors, shares, value + odds + corrections(rows, reference, rules, factors, shares))


def visible(rows: RotatedRows, hyper: Hyper) -> float:
    """Smallest τ² that the data can tell from 0: its standard error there."""
    still = weights_of_rows(rows, replace(hyper, tau2=0.0))
    known = 0.5 * rows.y.shape[2] * float(((rows.squares * still) ** 2).sum())
    return 1.0 / np.sqrt(max(known, 1e-300))


def mixture(table: Array, centre: float) -> tuple[float, Array]:
    """Log probability of the data, and every user's posterior probabilities of the factors.

    Parameters
    ----------
    table : log likelihoods, shape (k, factors).
    centre : log of the best common factor.
    """
    k, count = table.shape
    logs = np.log(np.maximum(_FACTORS, 1e-300))
    logs[0] = logs[1] - 0.5 * np.log(2.0)
    stray = _ANYWHERE / (k + _ANYWHERE)
    centre = float(np.clip(centre, logs[0], logs[-1]))
    priors = []
    for spread in _SPREADS:
        for shift in _SHIFTS:
            distance = np.abs(logs - np.clip(centre + shift, logs[0], logs[-1]))
            if spread == 0.0:
                weight = (np.arange(count) == int(np.argmin(distance))).astype(float)
                priors.append(weight)
            else:
                weight = np.exp(-0.5 * (distance / spread) ** 2)
                weight /= weight.sum()
                priors.append((1.0 - stray) * weight + stray / count)
    top = table.max(1, keepdims=True)
    scaled = np.exp(table - top)
    each = np.log(np.maximum(scaled @ np.array(priors).T, 1e-300)) + top  # (k, priors)
    totals = each.sum(0)
    chance = np.exp(totals - logsumexp(totals))
    shares = np.zeros_like(table)
    for c, prior, own in zip(chance, priors, each.T, strict=True):
        if c > 1e-9:
            shares += c * prior * np.exp(table - own[:, None])
    shares /= shares.sum(1, keepdims=True)
    return float(logsumexp(totals) - np.log(len(priors))), shares


def corrections(rows: RotatedRows, hyper: Hyper, rules: Rules, factors: Array, shares: Array) -> float:
    """What choosing U, V and S costs: the volume of subspaces as good as the best, ½ log k per number in S."""
    r1, r2 = hyper.rank
    size = r1 * r2
    value = -0.25 * size * (size + 1) * float(np.log(len(rows.x)))
    if not rules.priors:
        return value
    value += penalty(rows, hyper, replace(rules, volume=False), Gradient.zeros(hyper))
    if r1:
        for curvature, dim in zip(information(rows, hyper, factors, shares), (rows.d, rows.p), strict=True):
            if len(curvature) < dim:
                for a, c in enumerate(np.linalg.eigvalsh(curvature)[::-1]):
                    value -= volume(float(c), dim - a)
    return value


def volume(curvature: float, dim: int) -> float:
    """−log of the mean over uniform unit vectors u in R^dim of exp(½ c (⟨u, û⟩² − 1)): what it costs to find û.

    ½c − log ₁F₁(½; dim/2; ½c), by the calibrated Laplace approximation of Butler & Wood (Ann. Statist. 30, 2002).
    """
    if dim <= 1:
        return 0.0
    a, b, x = 0.5, 0.5 * dim, 0.5 * curvature
    y = 2.0 * a / (b - x + np.sqrt((x - b) ** 2 + 4.0 * a * x))
    r = y**2 / a + (1.0 - y) ** 2 / (b - a)
    log = (b - 0.5) * np.log(b) - 0.5 * np.log(r) + x * y
    log += a * np.log(y / a) + (b - a) * np.log((1.0 - y) / (b - a))
    return float(x - log)
