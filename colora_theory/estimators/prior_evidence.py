"""How probable a prior is: users' own scales of deviation and the uncertainty of hyper-parameters averaged over.

Deviations of users are rarely of one size. User i has τ_i² = g_i τ² with log g_i spread by s around a common
shift; s and the shift are averaged over on a grid (so the uncertainty of τ² is, too), s = 0 among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import scipy
from scipy.special import logsumexp

from colora_theory.estimators.hyper_parameters import gauged
from colora_theory.estimators.marginal_likelihood import Gradient, Hyper, RotatedRows
from colora_theory.estimators.posterior import likelihoods, scores
from colora_theory.estimators.weak_priors import Rules, penalty, weights_of_rows
from colora_theory.model.linalg import Array

#: Factors of τ², a zero among them; steps of a factor 2 that the common shift may take; spreads of log τ_i².
_FACTORS: Final = np.concatenate([[0.0], 2.0 ** (0.5 * np.arange(-16, 17))])
_SHIFTS: Final = np.arange(-4, 5) * np.log(2.0)
_SPREADS: Final = (0.0, 0.5, 1.0, 2.0)
#: Users, of one more than there are, that may be anywhere on the grid.
_ANYWHERE: Final = 1.0
#: Prior odds that users share a direction at all and of every further one, both in favour of sharing, because the
#: costs of directions are upper bounds; and prior probability that nobody strays from what is shared.
_SHARED: Final = 20.0
_FURTHER: Final = 2.0
_EXACT: Final = 0.25


@dataclass(frozen=True, eq=False)
class Weighed:
    """A prior with what it is worth.

    Attributes
    ----------
    hyper : the prior; its τ² is the reference of the factors.
    factors, shares : user i's τ² is factors[j] τ² with posterior probability shares[i, j].
    evidence : log of the probability of the data, subspaces and users' scales averaged over.
    favour : log prior odds in favour of sharing, which `evidence` includes.
    """

    hyper: Hyper
    factors: Array
    shares: Array
    evidence: float
    favour: float = 0.0


def weighed(rows: RotatedRows, hyper: Hyper, rules: Rules) -> Weighed:
    """Average over users' scales, and over subspaces around the best one.

    A prior without any deviations (`stretch` zero) stays one.
    """
    hyper = gauged(hyper)
    shared = rules.priors and hyper.rank[0] > 0
    favour = float(np.log(_SHARED) + (hyper.rank[0] - 1) * np.log(_FURTHER)) if shared else 0.0
    odds = favour
    if not hyper.stretch.any():
        odds += np.log(_EXACT)
    else:
        odds += np.log(1.0 - _EXACT) if hyper.rank[0] else 0.0
    found = scaled(rows, hyper, rules)
    cost = corrections(rows, found.hyper, rules, found.factors, found.shares)
    return replace(found, evidence=found.evidence + odds + cost, favour=favour)


def scaled(rows: RotatedRows, hyper: Hyper, rules: Rules) -> Weighed:
    """Average over users' scales alone; `evidence` is the log likelihood then."""
    if rules.priors and hyper.stretch.any():
        reference = replace(hyper, tau2=max(hyper.tau2, visible(rows, hyper)))
        table = likelihoods(rows, reference, _FACTORS)
        value, shares = mixture(table, float(np.log(hyper.tau2 / reference.tau2)))
        return Weighed(reference, _FACTORS, shares, value)
    one = np.ones(1)
    return Weighed(hyper, one, np.ones((len(rows.x), 1)), float(likelihoods(rows, hyper, one).sum()))


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
    heights, grid = np.exp(table - top), np.array(priors)
    means = heights @ grid.T  # (k, priors): one that underflows is not believed
    with np.errstate(divide="ignore"):
        totals = np.log(means).sum(0) + float(top.sum())
    chance = np.exp(totals - logsumexp(totals))
    chance[chance <= 1e-9] = 0.0
    shares = heights * (
        np.divide(chance, means, out=np.zeros_like(means), where=(means > 0) & (chance > 0)) @ grid
    )
    shares /= shares.sum(1, keepdims=True)
    return float(logsumexp(totals) - np.log(len(priors))), shares


def corrections(rows: RotatedRows, hyper: Hyper, rules: Rules, factors: Array, shares: Array) -> float:
    """What choosing U, V and S costs: the volume of subspaces as good as the best, ½ log k per number in S."""
    r1, r2 = hyper.rank
    size = r1 * r2
    turns = sum(r * (r - 1) // 2 for r, dim in ((r1, rows.d), (r2, rows.p)) if r < dim)  # counted with directions
    value = -0.5 * (size * (size + 1) // 2 - turns) * float(np.log(len(rows.x)))
    if not rules.priors:
        return value
    value += penalty(rows, hyper, replace(rules, volume=False), Gradient.zeros(hyper))
    if not size:
        return value
    typical = typically(hyper, factors, shares)
    s = (hyper.core @ hyper.core.T).reshape(r1, r2, r1, r2)
    for side, (own, dim) in enumerate(((r1, rows.d), (r2, rows.p))):
        for a in range(own if own < dim else 0):
            value -= _direction_cost(rows, typical, s.swapaxes(0, 1).swapaxes(2, 3) if side else s, a, bool(side))
    return value


def typically(hyper: Hyper, factors: Array, shares: Array) -> Hyper:
    """The prior with every user's τ² at the geometric mean of what it may be."""
    logs = shares @ np.log(np.maximum(factors, _FACTORS[1]))
    return replace(hyper, stretch=hyper.stretch * np.exp(logs))


def _direction_cost(rows: RotatedRows, hyper: Hyper, s: Array, a: int, outputs: bool) -> float:
    """−log of the mean over directions u of the likelihood of u over that of the best: what finding it costs.

    The likelihood of column `a` of U (of V for `outputs`) given everything else is taken for exp(uᵀAu), A from the
    scores of the prior without that column: exact for isotropic covariates, and noise alone costs what it gains.
    Directions are orthogonal to those of larger variance: a weak one still has to be told from a strong one.
    """
    r1, r2 = hyper.rank
    core = hyper.core.reshape(r1, r2, -1).copy()
    core[(slice(None), a) if outputs else a] = 0.0
    found, information = scores(rows, replace(hyper, core=core.reshape(r1 * r2, -1)))
    mine, theirs = (hyper.v, hyper.u) if outputs else (hyper.u, hyper.v)
    stack = (found.swapaxes(1, 2) if outputs else found) @ theirs  # (k, dim, other rank)
    others = mine[:, :a]
    stack -= others @ (others.T @ stack)
    variances, axes = np.linalg.eigh(s[a, :, a, :])
    variances = np.maximum(variances, 0.0)
    scale = np.sqrt(0.5 * variances / (1.0 + information[:, None] * variances))  # (k, other rank)
    flat = ((stack @ axes) * scale[:, None, :]).transpose(1, 0, 2).reshape(len(mine), -1)
    dim = len(mine) - others.shape[1]
    gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    values = np.maximum(np.linalg.eigvalsh(gram)[::-1][:dim], 0.0)
    return peak_over_mean(np.concatenate([values, np.zeros(dim - len(values))]))


def peak_over_mean(values: Array) -> float:
    """max(a) − log of the mean over uniform unit vectors of exp(Σ a_j u_j²), for a_j ≥ 0.

    The mean is Bingham's normalising constant, by the saddle point approximation of Kume & Wood (Biometrika 92,
    2005) relative to that of a = 0.
    """
    m, top = len(values), float(values.max(initial=0.0))
    if m <= 1 or top == 0.0:
        return 0.0
    gaps = top - values
    root = scipy.optimize.brentq(
        lambda s: 0.5 * float((1.0 / (s + gaps)).sum()) - 1.0, 0.5 * (1.0 - 1e-12), 0.5 * m * (1.0 + 1e-12)
    )
    log = (
        root - 0.5 * float(np.log(root + gaps).sum()) - 0.5 * np.log(0.5 * float((1.0 / (root + gaps) ** 2).sum()))
    )
    start = 0.5 * m - 0.5 * m * np.log(0.5 * m) - 0.5 * np.log(2.0 / m)
    return float(start - log)
