"""Generalised restricted isometry (GRIP): our reconstruction of a condition the CoLoRA paper names.

The paper (Magakyan et al. 2026, arXiv 2602.07218) states its guarantee under a "GRIP" whose definition was not
available to us. What stands here is our reconstruction: the definition, the constants and the proofs are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from scipy.sparse.linalg import LinearOperator, eigsh

from colora_theory.guarantees.base import Guarantee, Hypothesis, least, register
from colora_theory.guarantees.concentration import chi_mean
from colora_theory.guarantees.hypotheses import (
    at_least,
    equal_counts,
    homogeneous,
    isotropic_gaussian,
    vector_model,
)
from colora_theory.guarantees.tangent import (
    TangentSystem,
    complement,
    cramer_rao_level,
    inverse_root,
    tangent_system,
)
from colora_theory.model.dataset import Dataset, adjoint, predict
from colora_theory.model.linalg import Array, as_rows, haar
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.truth import Truth

#: μ of the class where the problem does not set one.
CLASS_INCOHERENCE = 2.0


def class_incoherence(problem: Problem) -> float:
    """μ of the class over which the isometry is asked for."""
    return min(problem.incoherence or CLASS_INCOHERENCE, float(problem.num_users))


def class_ranks(problem: Problem) -> tuple[int, int]:
    """Multilinear ranks of differences of two points of the model: (2r1, 2r2), at most the dimensions."""
    return min(2 * problem.rank_in, problem.dim_in), min(2 * problem.rank_out, problem.dim_out)


def net_constant(problem: Problem, failure: float) -> float:
    """δ of `grip_net`; infinite when no ε works."""
    (q1, q2), d, p, k = class_ranks(problem), problem.dim_in, problem.dim_out, problem.num_users
    with_in, with_out = q1 < d, q2 < p
    factors = 1 + with_in + with_out
    dimension = q1 * q2 * k + (q1 * d if with_in else 0) + (q2 * p if with_out else 0)
    weight = class_incoherence(problem) / (problem.counts[0] * k) if problem.counts[0] else math.inf

    def delta(epsilon: float) -> float:
        x = dimension * math.log(1.0 + 2.0 / epsilon) + math.log(2.0 / failure)
        a = x * weight
        high, low = 1.0 + 2.0 * math.sqrt(a) + 2.0 * a, 1.0 - 2.0 * math.sqrt(a)
        top = math.sqrt(high) / (1.0 - factors * epsilon)
        bottom = math.sqrt(low) - factors * epsilon * top if low > 0 else -1.0
        return max(top * top - 1.0, 1.0 - bottom * bottom) if bottom > 0 else math.inf

    # the finite ones lie in a window that moves towards 0: scan it, then refine
    grid = np.exp(np.linspace(math.log(1e-6), math.log(0.999 / factors), 60))
    values = [delta(float(e)) for e in grid]
    best = int(np.argmin(values))
    if not math.isfinite(values[best]):
        return math.inf
    bounds = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 59)]))
    return min(values[best], float(scipy.optimize.minimize_scalar(delta, bounds=bounds, method="bounded").fun))


def gordon_sides(problem: Problem, failure: float) -> tuple[float, float]:
    """Lower and upper bound on Q(Δ) of `grip_gordon`, each with probability ≥ 1 − failure/2."""
    n, d, k, mu = problem.counts[0], problem.dim_in, problem.num_users, class_incoherence(problem)
    if n == 0:
        return 0.0, math.inf
    rank, tail = class_ranks(problem)[0], math.log(2.0 / failure) / k
    mean, cross = chi_mean(n), math.sqrt(rank * mu) * (1.0 + math.sqrt(d / k))

    def bottom(epsilon: float) -> float:
        net = math.sqrt(2.0 * mu * (math.log(1.0 + 2.0 / epsilon) + tail))
        return mean * (1.0 - epsilon**2 / 2.0) - math.sqrt(mu / 8.0) - cross - net

    found = scipy.optimize.minimize_scalar(lambda e: -bottom(float(e)), bounds=(1e-6, 1.0), method="bounded")
    top = mean + math.sqrt(mu / 2.0) + cross + math.sqrt(2.0 * mu * tail)
    return max(0.0, -float(found.fun)) ** 2 / n, top * top / n


class _Grip(Guarantee):
    """What both constants share: the claim is δ, the observation a lower estimate of the realised δ."""

    kind = "bound"
    side = "upper"
    metric = "grip_constant"
    expectation = False
    failure_probability = 0.01
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [isotropic_gaussian(problem), equal_counts(problem), at_least(problem, 1, "1")]

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        """Largest |Q(Δ) − 1| that a search over the class finds: a lower estimate of the realised constant."""
        # against a claim that says nothing a few directions suffice
        effort = {"starts": 1, "steps": 5} if not self.formula(problem) < 1.0 else {}
        low, high = realised_constant(problem, data, **effort)
        return max(high - 1.0, 1.0 - low)

    def trivial(self, problem: Problem) -> float:
        return 1.0  # δ ≥ 1 leaves Q(Δ) = 0 possible

    def min_samples(self, problem: Problem, target: float) -> int:
        """Least num_samples for which δ ≤ `target`."""
        return least(lambda n: self.value(problem.replace(num_samples=n)) <= target, 1, 10**15)


@register
class GripNet(_Grip):
    """GRIP by an ε-net (our reconstruction of a condition the CoLoRA paper names).

    Claim: with probability ≥ 1 − η, for all Δ of multilinear rank (2r1, 2r2) whose cores are μ-incoherent
    (k max‖Δ_i‖² ≤ μ Σ‖Δ_i‖²; without this, one user alone would have to be sensed),

        (1 − δ) ‖Δ‖² ≤ Q‖Δ‖² := Σ_i ‖𝒜_i(Δ_i)‖²/n ≤ (1 + δ) ‖Δ‖².

    With m factors to cover (m = 3; one less for every side on which the rank is not a restriction), D their
    dimension (2r1 d + 2r2 p + 4 r1 r2 k for m = 3), any ε ∈ (0, 1/m), x = D ln(1+2/ε) + ln(2/η), a = xμ/(nk):
    S² = (1+2√a+2a)/(1−mε)², low = √(1−2√a) − mεS > 0, δ = max(S² − 1, 1 − low²), minimised over ε.
    So nk ≳ μ((d+p)r + k r²). Value: δ, with μ = the problem's incoherence, or 2.
    Hypotheses: covariates N(0, I), equal counts. Both designs.
    Kind: bound with probability 1 − η (η = 0.01). Source: docs/theory.md, "GRIP".
    """

    name = "grip_net"
    source = "our reconstruction of a condition named in arXiv 2602.07218; docs/theory.md#grip"
    tag = "V summary only"
    conservative = "an ε-net: asks for tens of times more samples than the constant that a search finds"

    def formula(self, problem: Problem) -> float:
        return net_constant(problem, self.failure_probability)


@register
class GripGordon(_Grip):
    """GRIP by Gordon's min–max theorem, vector model (our reconstruction of a condition the CoLoRA paper names).

    The same claim as `grip_net` with δ = max(1 − low, high − 1), where, R = 2r, a_n = E‖N(0, I_n)‖, ε ∈ (0, 1],

        √(n low)  = a_n(1−ε²/2) − √(μ/8) − √(Rμ)(1+√(d/k)) − √(2μ(ln(1+2/ε) + ln(2/η)/k)),
        √(n high) = a_n + √(μ/2) + √(Rμ)(1+√(d/k)) + √(2μ ln(2/η)/k).

    Only the k block norms are covered by a net, not the dk + dr coordinates.
    Hypotheses: vector model, covariates N(0, I), equal counts.
    Kind: bound with probability 1 − η (η = 0.01). Source: Gordon 1985 applied block by block, ours;
    docs/theory.md, "GRIP".
    """

    name = "grip_gordon"
    source = "Gordon 1985; our reconstruction of a condition named in arXiv 2602.07218; docs/theory.md#grip"
    tag = "V summary only"
    conservative = "about four times fewer samples than grip_net, still several times more than needed"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [vector_model(problem), *super().conditions(problem)]

    def formula(self, problem: Problem) -> float:
        low, high = gordon_sides(problem, self.failure_probability)
        return max(1.0 - low, high - 1.0)


@register
class TangentConditioning(Guarantee):
    """The Cramér–Rao level lies between the large-sample level divided by the extreme tangent quotients.

    Let λ_min, λ_max be the extreme values of Σ_i‖𝒜_i(Δ_i)‖²/(n‖Δ‖²) over the tangent space at the truth (exact,
    by Lanczos on the Schur complement: the tangent part of GRIP, our reconstruction of a condition the CoLoRA
    paper names). Then, in every trial, for equal counts,

        σ² dof/(n λ_max) ≤ L1 ≤ σ² dof/(n λ_min),    L1 the level of `cramer_rao`.

    Observed: L1; claimed: the right-hand side (a relative 1e-6 allowed: both come from systems whose rounding
    error grows with λ_max/λ_min; NaN where that exceeds 1e9). Hypotheses: inside the shared model, equal counts.
    Kind: certificate. Source: tr(JᵀJ)⁻¹ ≤ dof/σ_min in isometric coordinates; docs/theory.md, "Tangent space".
    """

    name = "tangent_conditioning"
    kind = "certificate"
    side = "upper"
    metric = "cramer_rao_level"
    source = "docs/theory.md#tangent-space"
    conservative = "replaces every eigenvalue by the smallest one"
    expectation = False
    per_trial = True
    tolerance = 1e-6

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), equal_counts(problem), at_least(problem, 1, "1")]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        low, high = tangent_extremes(truth, data)
        if not low > 1e-9 * high:
            return float("nan")
        level = problem.noise_std**2 * problem.degrees_of_freedom / problem.counts[0]
        return level / low

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        """The Cramér–Rao level L1."""
        return cramer_rao_level(problem, truth, data)


def tangent_extremes(truth: Truth, data: Dataset) -> tuple[float, float]:
    """Exact extreme values of Σ‖𝒜_i(Δ_i)‖²/(n‖Δ‖²) over the tangent space at the truth; n the mean count.

    The smallest through the inverse, (JᵀJ)⁻¹ being one Schur solve; (0, largest) where J is rank deficient.
    """
    system = tangent_system(truth, data)
    if system is None:
        return 0.0, float("nan")
    n = float(data.counts.mean())
    forward = _TangentMap(truth, data, system)
    size = forward.size
    start = np.random.default_rng(0).standard_normal(size)
    if size <= 60:
        gram = np.array([forward.normal(row) for row in np.eye(size)])
        values = np.linalg.eigvalsh(0.5 * (gram + gram.T))
        return max(0.0, float(values[0])) / n, float(values[-1]) / n
    operator = LinearOperator((size, size), matvec=forward.normal, dtype=float)
    high = float(eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False, tol=1e-8)[0])
    if not system.identifiable:
        return 0.0, high / n
    inverse = LinearOperator((size, size), matvec=forward.solve, dtype=float)
    low = 1.0 / float(eigsh(inverse, k=1, which="LA", v0=start, return_eigenvectors=False, tol=1e-8)[0])
    return low / n, high / n


class _TangentMap:
    """JᵀJ and its inverse in isometric coordinates (A′, B′, Γ), as operators on flat vectors."""

    def __init__(self, truth: Truth, data: Dataset, system: TangentSystem) -> None:
        self.data, self.system = data, system
        self.u, self.v, self.cores = truth.input_subspace, truth.output_subspace, truth.cores
        self.u_out, self.v_out = complement(self.u), complement(self.v)
        root_out = inverse_root(self.cores.swapaxes(1, 2))
        assert root_out is not None
        self.white_in, self.white_out = system.root_in @ self.cores, self.cores @ root_out
        self.shared, self.split = len(system.schur), system.split
        self.size = self.shared + self.cores.size
        x = data.covariates
        inner = x @ self.u if data.design == "regression" else self.u.T @ x @ self.v
        features = as_rows(inner)
        self.core_inverse = np.linalg.pinv(features.swapaxes(1, 2) @ features)

    def weights(self, flat: Array) -> Array:
        """Change of all weights, shape (k, d, p)."""
        a = flat[: self.split].reshape(self.u_out.shape[1], self.u.shape[1])
        b = flat[self.split : self.shared].reshape(self.v_out.shape[1], self.v.shape[1])
        gamma = flat[self.shared :].reshape(self.cores.shape)
        first = np.matmul(self.u_out @ a @ self.white_in + self.u @ gamma, self.v.T)
        return first + np.matmul(self.u @ self.white_out, (self.v_out @ b).T)

    def pull(self, moments: Array) -> Array:
        """Adjoint of `weights`."""
        inner = moments @ self.v
        a = np.tensordot(self.u_out.T @ inner, self.white_in, axes=([0, 2], [0, 2]))
        b = np.tensordot(moments @ self.v_out, self.u @ self.white_out, axes=([0, 1], [0, 1]))
        return np.concatenate([a.reshape(-1), b.reshape(-1), (self.u.T @ inner).reshape(-1)])

    def normal(self, flat: Array) -> Array:
        """JᵀJ applied."""
        return self.pull(adjoint(self.data, predict(self.data.covariates, self.weights(flat))))

    def _core_solve(self, gamma: Array) -> Array:
        k, r1, r2 = self.cores.shape
        shape = (k, r1, r2) if self.data.design == "regression" else (k, r1 * r2, 1)
        return np.asarray(self.core_inverse @ gamma.reshape(shape)).reshape(-1)

    def solve(self, flat: Array) -> Array:
        """(JᵀJ)⁻¹ applied, the cores eliminated."""
        right, gamma = flat[: self.shared], flat[self.shared :]
        alone = self._core_solve(gamma)
        zeros = np.zeros(self.shared)
        right = right - self.normal(np.concatenate([zeros, alone]))[: self.shared]
        shared = np.linalg.solve(self.system.schur, right) if self.shared else right
        pulled = self.normal(np.concatenate([shared, np.zeros(len(gamma))]))[self.shared :]
        return np.concatenate([shared, alone - self._core_solve(pulled)])


def realised_constant(problem: Problem, data: Dataset, *, starts: int = 4, steps: int = 60) -> tuple[float, float]:
    """Smallest and largest Q(Δ) that projected power iterations find over the μ-incoherent class of rank 2r.

    Every visited point lies in the class, so the true extremes are at least as far apart.
    """
    rng = np.random.default_rng(0)
    ranks, mu, n = class_ranks(problem), class_incoherence(problem), float(data.counts.mean())
    shape = (problem.num_users, problem.dim_in, problem.dim_out)
    low, high = math.inf, 0.0
    for _ in range(starts):
        u, v = haar(rng, shape[1], ranks[0]), haar(rng, shape[2], ranks[1])
        point = into_class(np.matmul(u @ rng.standard_normal((shape[0], *ranks)), v.T), ranks, mu)
        ends = {1: point, -1: point}
        for _ in range(steps):
            for sign in (1, -1):
                image = adjoint(data, predict(data.covariates, ends[sign])) / n
                quotient = float(np.vdot(image, ends[sign]))
                low, high = min(low, quotient), max(high, quotient)
                step = image if sign > 0 else high * ends[sign] - image
                if step.any():  # else the quotient is the same everywhere
                    ends[sign] = into_class(step, ranks, mu)
    return low, high


def into_class(weights: Array, ranks: tuple[int, int], mu: float) -> Array:
    """A point of norm one, multilinear rank ≤ `ranks` and incoherence ≤ μ near `weights`, shape (k, d, p)."""
    k = len(weights)
    u = np.linalg.eigh(np.einsum("kab,kcb->ac", weights, weights))[1][:, -ranks[0] :]
    v = np.linalg.eigh(np.einsum("kab,kac->bc", weights, weights))[1][:, -ranks[1] :]
    cores = u.T @ weights @ v
    energy = np.einsum("kab,kab->k", cores, cores)
    capped = capped_shares(energy / energy.sum(), mu / k)
    scale = np.sqrt(np.divide(capped, energy, out=np.zeros(k), where=energy > 0))
    cores *= scale[:, None, None]
    cores /= np.linalg.norm(cores)
    return np.matmul(u @ cores, v.T)


def capped_shares(shares: Array, cap: float) -> Array:
    """Scale the shares by a common factor, capping each at `cap`, so that they sum to one again."""
    order = np.sort(shares)[::-1]
    tail = np.cumsum(order[::-1])[::-1]
    for number in range(len(shares)):
        if tail[number] <= 0:
            break
        factor = (1.0 - number * cap) / tail[number]
        if factor * order[number] <= cap * (1 + 1e-12):
            return np.minimum(shares * factor, cap)
    return np.full(len(shares), 1.0 / len(shares))
