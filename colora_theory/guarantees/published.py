"""Published rates: exponents whose constants the sources leave open.

`value` is the rate without its constant. A verdict calibrates the constant on one part of a grid and tests on the
rest. `tag` says how well the statement was verified: V against a copy of the source, V2 against another text's
paraphrase, R nn from memory with nn % confidence.
"""

from __future__ import annotations

import math

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import (
    at_least,
    enough_moments,
    equal_counts,
    homogeneous,
    isotropic_gaussian,
    noisy,
    signal,
    vector_model,
)
from colora_theory.model.linalg import Array
from colora_theory.model.problem import Problem


def diversity(problem: Problem) -> Array:
    """Eigenvalues, largest first, of Σ C_iC_iᵀ/k in the population (exact for orthogonal cores)."""
    r = problem.rank_in
    spectrum = problem.condition_number ** (-2.0 * np.arange(r) / max(r - 1, 1))
    return np.asarray(problem.signal_norm**2 * spectrum / spectrum.sum())


class VectorRate(Guarantee):
    """Vector model, covariates N(0, I), equal counts, inside the shared model."""

    kind = "rate"
    side = "upper"
    metric = "subspace_distance"
    conservative = "constant (and logarithms) unspecified"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [vector_model(problem), isotropic_gaussian(problem), equal_counts(problem), homogeneous(problem)]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        if self.metric != "mean_user_error":  # distances are bounded
            return []
        return [enough_moments(problem, problem.rank_in, "rank")]


@register
class MethodOfMomentsRate(VectorRate):
    """Method of moments: distance Õ(√(κ̄ d r/(ν N))).

    The r leading eigenvectors of (1/N)Σ y²xxᵀ have, with high probability, dist ≤ Õ(√(κ̄ d r/(νN))), N = nk,
    ν = λ_r of Σ c_ic_iᵀ/k, κ̄ = tr(Σ c_ic_iᵀ/k)/(rν), energies relative to signal_norm². The source states it
    for unit-energy signals and bounded noise; N ≳ polylog · d r κ̄/ν.
    Hypotheses: vector model, covariates N(0, I), N ≥ d r κ̄/ν, noise_std ≤ signal_norm.
    Kind: rate. Source: Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684.
    """

    name = "method_of_moments_rate"
    estimators = ("spectral",)
    source = "Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684"
    tag = "R 85"

    def _rate(self, problem: Problem) -> float:
        values = diversity(problem) / problem.signal_norm**2
        kappa = float(values.sum() / (problem.rank_in * values[-1]))
        return math.sqrt(kappa * problem.dim_in * problem.rank_in / (float(values[-1]) * sum(problem.counts)))

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        enough = problem.signal_norm > 0 and min(problem.counts) > 0 and self._rate(problem) <= 1.0
        quiet = problem.noise_std <= problem.signal_norm
        return [
            *super().conditions(problem),
            Hypothesis("N ≥ d r κ̄/ν", enough, "needs more samples: the claimed distance must be below 1."),
            Hypothesis("bounded noise", quiet, f"needs noise_std ≤ signal_norm, got {problem.noise_std:g}."),
        ]

    def formula(self, problem: Problem) -> float:
        return self._rate(problem)


@register
class MinimaxSubspaceRate(VectorRate):
    """Minimax lower bound for the subspace: Ω(max(√(1/(νN)), √(d r/N))).

    For any estimator that sees the data alone there are subspaces for which, with probability at least 1/4,
    dist ≥ c σ max(√(1/(νN)), √(d r/N)), ν = λ_r(Σ c_ic_iᵀ/k). (The factor σ is ours; the source fixes σ = 1.)
    Hypotheses: vector model, covariates N(0, I), noise.
    Kind: rate (lower). Source: Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684.
    """

    name = "minimax_subspace_rate"
    side = "lower"
    side_information = ()
    source = "Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684"
    tag = "R 85"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [*super().conditions(problem), noisy(problem), signal(problem), at_least(problem, 1, "1")]

    def formula(self, problem: Problem) -> float:
        total, smallest = sum(problem.counts), float(diversity(problem)[-1])
        worst = max(1.0 / (smallest * total), problem.dim_in * problem.rank_in / total)
        return problem.noise_std * math.sqrt(worst)


@register
class AltMinPredictionRate(VectorRate):
    """Alternating minimisation with fresh samples: prediction error of the shared part ∝ d r²/N.

    With Ω(r²) samples per user, the excess risk of a user is Õ(σ² (d r²/N + r/n)): the shared part as in the
    source (d r²/N), the user's own part that every method pays.
    Hypotheses: vector model, covariates N(0, I), noise, n ≥ r².
    Kind: rate (a factor r above the optimal d r/N). Source: Thekumparampil, Jain, Netrapalli & Oh 2021,
    arXiv 2105.08306.
    """

    name = "altmin_prediction_rate"
    metric = "mean_user_error"
    estimators = ("altmin",)
    source = "Thekumparampil, Jain, Netrapalli & Oh 2021, arXiv 2105.08306"
    tag = "V2"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        enough = min(problem.counts) >= problem.rank_in**2
        return [
            *super().conditions(problem),
            noisy(problem),
            Hypothesis("n ≥ r²", enough, f"needs num_samples ≥ {problem.rank_in**2}, got {problem.num_samples}."),
        ]

    def formula(self, problem: Problem) -> float:
        r, n = problem.rank_in, problem.counts[0]
        return problem.noise_std**2 * (problem.dim_in * r * r / (n * problem.num_users) + r / n)


@register
class OptimalErrorRate(VectorRate):
    """Optimal average error of the shared part: σ² d r/N, plus the user's own r/n.

    Likelihood methods reach d r²/N in general; the optimal average error is σ² d r/N. The user's own part σ² r/n
    is added here, which every method pays.
    Hypotheses: vector model, covariates N(0, I), noise, more equations than unknowns.
    Kind: rate. Source: TPGD, arXiv 2605.00473 (excerpt).
    """

    name = "optimal_error_rate"
    metric = "mean_user_error"
    estimators = ("altmin", "gauss_newton")
    source = "TPGD, arXiv 2605.00473"
    tag = "V"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        enough = problem.num_observations >= 2 * problem.degrees_of_freedom
        return [
            *super().conditions(problem),
            noisy(problem),
            Hypothesis("N ≥ 2 dof", enough, "needs two equations per unknown."),
        ]

    def formula(self, problem: Problem) -> float:
        r, n = problem.rank_in, problem.counts[0]
        return problem.noise_std**2 * (problem.dim_in * r / (n * problem.num_users) + r / n)


@register
class DistinctPairsRate(VectorRate):
    """Spectral estimator on distinct pairs: distance O(log³ · √(d(b⁴ + b²σ² + σ⁴/n)/(N λ_r²))).

    b bounds ‖θ_i‖ (signal_norm here), λ_r = σ_r² the smallest eigenvalue of Σ θ_iθ_iᵀ/k on U.
    Hypotheses: vector model, covariates N(0, I), equal norms (core_distribution "unit" or "orthogonal").
    Kind: rate. Source: Duchi, Feldman, Hu & Talwar 2022.
    """

    name = "distinct_pairs_rate"
    estimators = ("spectral",)
    source = "Duchi, Feldman, Hu & Talwar 2022"
    tag = "V"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        bounded = problem.core_distribution != "gaussian" and problem.signal_norm > 0 and min(problem.counts) > 0
        return [
            *super().conditions(problem),
            Hypothesis("bounded users", bounded, "needs core_distribution 'unit' or 'orthogonal'."),
        ]

    def formula(self, problem: Problem) -> float:
        b2, noise = problem.signal_norm**2, problem.noise_std**2
        spread = b2 * b2 + b2 * noise + noise**2 / problem.counts[0]
        total = sum(problem.counts)
        return math.sqrt(problem.dim_in * spread / total) / float(diversity(problem)[-1])


class _NewTask(VectorRate):
    """Risk of a new task that is fitted in a learned subspace."""

    metric = "mean_user_error"
    estimators = ("transfer",)

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        enough = min(problem.counts) >= 2 * problem.rank_in
        return [
            *super().conditions(problem),
            noisy(problem),
            Hypothesis("n₂ ≳ r", enough, f"needs num_samples ≥ {2 * problem.rank_in} for the new task."),
        ]


@register
class NewTaskRate(_NewTask):
    """A new task after representation learning: risk Õ(d r/N + r/n₂).

    N samples of earlier tasks learn the subspace, n₂ = num_samples of the new task fit its core (noise one in the
    source; σ² here).
    Hypotheses: vector model, covariates N(0, I), noise, n₂ ≳ r.
    Kind: rate. Source: Du, Hu, Kakade, Lee & Lei 2021, arXiv 2002.09434.
    """

    name = "new_task_rate"
    source = "Du, Hu, Kakade, Lee & Lei 2021, arXiv 2002.09434"
    tag = "V"

    def formula(self, problem: Problem) -> float:
        r, n = problem.rank_in, problem.counts[0]
        return problem.noise_std**2 * (problem.dim_in * r / sum(problem.counts) + r / n)


@register
class TransferDistanceRate(_NewTask):
    """Transfer from an estimated subspace: excess risk Õ(δ² + r/n₂) at distance δ.

    The exact form for a fixed subspace is `transfer_risk`; here δ² = σ² d r/N, the optimal rate for the subspace,
    is put in, with energies relative to signal_norm².
    Hypotheses: vector model, covariates N(0, I), noise, n₂ ≳ r log n₂.
    Kind: rate. Source: Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684.
    """

    name = "transfer_distance_rate"
    source = "Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684"
    tag = "R 85"

    def formula(self, problem: Problem) -> float:
        r, n = problem.rank_in, problem.counts[0]
        distance2 = problem.noise_std**2 * problem.dim_in * r / sum(problem.counts)
        return distance2 + problem.noise_std**2 * r / n
