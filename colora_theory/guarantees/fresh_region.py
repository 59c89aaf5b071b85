"""What data that a subspace has not seen say about the truth: a region for the subspace, a limit for the weights.

Regression design, W_i = U C_i Vᵀ, covariates N(0, I). B̃ is any subspace that is independent of the data judged
here: learned from other users, or from other rows of the same ones. docs/theory.md, section "Split data", has the
proofs; each function below is one of its steps and has a test of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import scipy
from numpy.typing import NDArray

from colora_theory.guarantees.concentration import quadratic_form_upper
from colora_theory.guarantees.held_out import total_limit, user_limits
from colora_theory.guarantees.tangent import complement
from colora_theory.guarantees.tangent_step import TangentStep, tangent_step
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Events that share the failure probability: energies, Σ‖g_i‖², Σ‖Ag_i‖², every ‖Ag_i‖², ‖m‖, E_ξ in two norms.
EVENTS: Final = 7
#: Rounds in which the limits tighten each other.
ROUNDS: Final = 4
#: Shares of the largest admissible λ at which Chernoff's bound is evaluated; any of them is valid.
_SHARES: Final = np.linspace(0.02, 0.98, 33)


@dataclass(frozen=True, eq=False)
class Region:
    """Limits that hold together with the probability asked for.

    Attributes
    ----------
    centre : orthonormal basis of the estimated subspace, shape (dim_in, rank).
    radius : upper limit of its distance (sine of the largest angle) to the truth; 1 says nothing.
    weights : estimates of the users' W_i, shape (num_users, dim_in, dim_out).
    error : upper limit of Σ‖W̄_i − W_i‖_F².
    reason : why there are no limits; empty where there are.
    """

    centre: Array
    radius: float
    weights: Array
    error: float
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Projected:
    """The data seen from B̃.

    Attributes
    ----------
    cores : â_i by least squares on Z_i = X_iB̃, shape (k, r, p).
    energies : R_i, squared norm of what the cores leave of Y_i, shape (k,).
    freedom : n_i − r.
    spread : G_i = (Z_iᵀZ_i)⁻¹, shape (k, r, r).
    root : M^{-1/2}, M = Σ â_iâ_iᵀ, shape (r, r).
    """

    cores: Array
    energies: Array
    freedom: NDArray[np.int64]
    spread: Array
    root: Array

    @property
    def leverage(self) -> Array:
        """M^{-1/2}â_i, shape (k, r, p)."""
        return self.root @ self.cores


def project(basis: Array, data: Dataset) -> Projected | None:
    """Step 1: every user's core by least squares; None where the cores do not span r dimensions."""
    z, y = data.covariates @ basis, data.responses
    try:
        spread = np.asarray(np.linalg.inv(z.swapaxes(1, 2) @ z), dtype=float)
    except np.linalg.LinAlgError:
        return None
    cores = spread @ (z.swapaxes(1, 2) @ y)
    left = y - z @ cores
    values, vectors = np.linalg.eigh(np.einsum("kap,kbp->ab", cores, cores))
    if not values[0] > 1e-12 * values[-1]:
        return None
    root = (vectors / np.sqrt(values)) @ vectors.T
    freedom = data.counts - basis.shape[1]
    return Projected(cores, np.einsum("knp,knp->k", left, left), freedom, spread, root)


@dataclass(frozen=True, eq=False)
class Missed:
    """What is known of the parts b_i = ‖(I − B̃B̃ᵀ)W_i‖_F² = ‖Aa_i‖_F², and of A(â_i − a_i).

    Attributes
    ----------
    total : Σ b_i ≤ total.
    caps : b_i ≤ caps_i, shape (k,).
    leverage : M^{-1/2}â_i, shape (k, r, p).
    size : α = ‖AM^{1/2}‖_F ≤ size.
    share, every : Σ‖A(â_i − a_i)‖² ≤ share·α², and each of them ≤ every_i α², shape (k,).
    """

    total: float
    caps: Array
    leverage: Array
    size: float = math.inf
    share: float = math.inf
    every: Array | None = None

    def most(self, values: Array) -> float:
        """Upper limit of Σ v_i b_i, v ≥ 0: the largest values first, or one A for all users."""
        caps = np.minimum(self.caps, self.total)
        order = np.argsort(values)[::-1]
        used = np.minimum(np.cumsum(caps[order]), self.total)
        filled = float(np.diff(used, prepend=0.0) @ values[order])
        if self.every is None or self.size == math.inf:
            return filled
        weighed = np.einsum("k,kap,kbp->ab", values, self.leverage, self.leverage, optimize=True)
        along = float(np.linalg.eigvalsh(weighed)[-1])
        beside = min(float(values.max()) * self.share, float(values @ self.every))
        return min(filled, self.size**2 * (math.sqrt(max(along, 0.0)) + math.sqrt(beside)) ** 2)


def energy_upper(eigen: Array, variance: float, missed: Missed, x: float) -> float:
    """Step 2: level that Σ_ij (σ² + b_i) e_ij χ²_1 exceeds with probability ≤ e^{−x}, in the worst case of b.

    Chernoff's bound; its exponent is convex in every b_i, so it lies below its chord on [0, caps_i]. `eigen` holds
    e_ij, shape (k, r). Further outputs add Σ_ij σ² e_ij χ²_{p−1}: it is worst when b_i lies in one direction.
    """
    others = missed.leverage.shape[2] - 1
    caps = np.minimum(missed.caps, missed.total)
    top = float(((variance + caps) * eigen.max(1)).max())
    if top == 0.0:
        return 0.0
    best = math.inf
    for share in _SHARES:
        twice = share / top
        start = -0.5 * np.log1p(-twice * variance * eigen).sum(1)
        rise = -0.5 * np.log1p(-twice * (variance + caps)[:, None] * eigen).sum(1) - start
        slopes = np.divide(rise, caps, out=np.zeros(len(caps)), where=caps > 0)
        best = min(best, 2.0 * (x + (1 + others) * float(start.sum()) + missed.most(slopes)) / twice)
    return best


def tilted_errors(white: Array, variance: float, missed: Missed, x: float) -> tuple[float, Array]:
    """Step 3: limits of Σ‖Ag_i‖² and of every ‖Ag_i‖², g_i = â_i − a_i, in units of α².

    `white` holds M^{-1/2}G_iM^{-1/2}, shape (k, r, r). Each of the two fails with probability ≤ e^{−x}.
    """
    outputs = missed.leverage.shape[2]
    tops = np.asarray(np.linalg.eigvalsh(white)[:, -1], dtype=float)
    total = outputs * variance * float(np.linalg.eigvalsh(white.sum(0))[-1]) + missed.most(tops)
    single = (variance + np.minimum(missed.caps, missed.total)) * tops
    share = quadratic_form_upper(total, total * float(single.max()), float(single.max()), x)
    more, whole = x + math.log(len(white)), single + (outputs - 1) * variance * tops
    each = whole + 2.0 * np.sqrt(more * whole * single) + 2.0 * more * single
    return share, np.minimum(each, share)


@dataclass(frozen=True)
class Sizes:
    """Where the rounds end: what is missed; `bias`, so that ‖E_mM^{1/2}‖ ≤ bias·α; `noise`, limit of Σ‖g_i‖²."""

    missed: Missed
    bias: float
    noise: float


def settle(seen: Projected, step: TangentStep | None, low: float, high: float, failure: float) -> Sizes:
    """Steps 2 to 5: the limits of α, of the users' b_i and of the core errors tighten each other on one event."""
    each, k = failure / EVENTS, len(seen.cores)
    x = math.log(1.0 / each)
    outputs = seen.cores.shape[2]
    total = total_limit(seen.energies, seen.freedom, outputs, low**2, each)
    caps = user_limits(seen.energies, seen.freedom, outputs, low**2, each if k == 1 else each / 2 / k)
    missed = Missed(total, caps, seen.leverage)
    white = seen.root @ seen.spread @ seen.root
    lengths, m, bias = np.linalg.norm(seen.leverage, 2, axis=(1, 2)), float(seen.freedom.max()), math.inf
    for _ in range(ROUNDS):
        share, every = tilted_errors(white, high**2, missed, x)
        size = missed.size
        if share < 1.0:
            size = min(size, math.sqrt(missed.total) / (1.0 - math.sqrt(share)))
        if step is not None:
            worst = float(every.max())
            bias = math.sqrt(quadratic_form_upper(m * share, m * share * worst, worst, x) / step.floor)
            if bias < 1.0:
                size = min(size, (step.length + step.energy) / (1.0 - bias))
        if size == math.inf:
            break
        caps = np.minimum(missed.caps, size**2 * (lengths + np.sqrt(every)) ** 2)
        total = min(missed.total, total_limit(seen.energies, seen.freedom, outputs, low**2, each, caps))
        missed = replace(missed, total=total, caps=caps, size=size, share=share, every=every)
    eigen = np.asarray(np.linalg.eigvalsh(seen.spread), dtype=float)
    return Sizes(missed, bias, energy_upper(eigen, high**2, missed, x))


def noise_ceiling(seen: Projected, failure: float) -> float:
    """Upper confidence limit of σ: ΣR_i lies above σ²χ² in law, whatever is missed."""
    freedom = int(seen.freedom.sum()) * seen.cores.shape[2]
    return math.sqrt(float(seen.energies.sum()) / float(scipy.stats.chi2.ppf(failure, freedom)))


def judge(basis: Array, data: Dataset, low: float, high: float | None, failure: float) -> tuple[Region, Region]:
    """Two regions of the truth from data that `basis` has not seen; they fail with probability at most `failure`.

    The first is around `basis`, the second around the end of a step along the tangent space.

    Parameters
    ----------
    basis : orthonormal, shape (dim_in, rank).
    data : regression design, no pretrained weight.
    low, high : limits of the noise's standard deviation, taken to hold. None: found here, at a share of `failure`.
    """
    r, blank = basis.shape[1], np.zeros((data.num_users, data.dim_in, data.dim_out))
    nothing = Region(basis, 1.0, blank, math.inf)
    if data.counts.min() <= r:
        reason = f"a user has only {data.counts.min()} fresh rows, {r + 1} are needed"
        return (replace(nothing, reason=reason),) * 2
    seen = project(basis, data) if data.num_users * data.dim_out >= r else None
    if seen is None:
        return (replace(nothing, reason=f"the cores of {data.num_users} users do not span {r} dimensions"),) * 2
    if high is None:
        failure *= EVENTS / (EVENTS + 1)
        high = max(low, noise_ceiling(seen, failure / EVENTS))
    outside = complement(basis)
    step = tangent_step(basis, outside, data, seen.cores, seen.root, high, failure / EVENTS)
    sizes = settle(seen, step, low, high, failure)
    missed, size = sizes.missed, sizes.missed.size
    plain, flattest = basis @ seen.cores, float(np.linalg.norm(seen.root, 2))
    tilt = size * flattest
    radius = tilt / math.hypot(1.0, tilt) if tilt < math.inf else 1.0
    first = Region(basis, radius, plain, missed.total + sizes.noise)
    if step is None or size == math.inf:
        return first, first
    beside = size * math.sqrt(missed.share) + step.energy + sizes.bias * size
    return first, Region(
        centre=np.linalg.qr(basis + outside @ step.change)[0],
        radius=min(1.0, step.noise + sizes.bias * size * flattest),
        weights=plain + outside @ (step.change @ seen.cores),
        error=sizes.noise + beside**2,
    )
