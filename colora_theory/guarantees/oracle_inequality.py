"""Oracle inequalities: the error of any fit of the model, bounded by how noise looks to the model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.concentration import chi_upper, scaled_norm_upper
from colora_theory.guarantees.hypotheses import homogeneous, isotropic_gaussian, vector_model
from colora_theory.model.dataset import Dataset, adjoint, predict
from colora_theory.model.linalg import Array
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.truth import Truth


def _top(matrix: Array, count: int) -> float:
    """Sum of the `count` largest squared singular values."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return float(np.maximum(np.linalg.eigvalsh(gram)[::-1][:count], 0.0).sum())


def noise_size(noise: Array, rank_in: int, rank_out: int) -> float:
    """S: root of the sum of the `rank_in` (or `rank_out`) largest squared singular values of an unfolding.

    `noise` is [𝒜_i*(ξ_i)]_i, shape (k, d, p); the smaller of the two unfoldings' values.
    """
    k, d, p = noise.shape
    first = _top(noise.transpose(1, 0, 2).reshape(d, k * p), rank_in)
    second = _top(noise.transpose(2, 0, 1).reshape(p, k * d), rank_out)
    return math.sqrt(min(first, second))


def _pieces(truth: Truth, data: Dataset, fit: Any) -> tuple[Array, float, float, float]:
    """Noise moments, Σ‖𝒜_i(Δ_i)‖², ‖Δ‖² and the objective's excess over the truth's."""
    noise = data.responses - predict(data.covariates, truth.weights)
    difference = fit.weights - truth.weights
    image = predict(data.covariates, difference)
    moved = float(np.vdot(image, image))
    excess = moved - 2.0 * float(np.vdot(noise, image))
    return adjoint(data, noise), moved, float(np.vdot(difference, difference)), excess


def _radius(size: float, moved: float, error: float, excess: float) -> float:
    """Largest ‖Δ‖² that κ‖Δ‖² ≤ 2S‖Δ‖ + excess allows, κ = moved/error."""
    if error == 0.0:
        return 0.0
    if moved == 0.0:
        return math.inf
    kappa = moved / error
    return ((size + math.sqrt(size * size + kappa * max(0.0, excess))) / kappa) ** 2


def _in_class(fit: Any) -> bool:
    return fit is not None and fit.input_subspace is not None and fit.output_subspace is not None


@register
class OracleInequality(Guarantee):
    """Oracle inequality: the error of any fit of the model is bounded by the noise that the model can see.

    Let Δ = Ŵ − W for any point Ŵ of the shared model (ranks r̂1, r̂2), f the objective, ε = max(0, f(Ŵ) − f(W)),
    κ = Σ‖𝒜_i(Δ_i)‖²/‖Δ‖², and S² the sum of the r1 + r̂1 largest squared singular values of the unfolding
    [𝒜_i*(ξ_i)]_i ∈ R^{d×pk} (or the r2 + r̂2 largest of the other unfolding, whichever is smaller). Then, in every
    trial,

        ‖Δ‖ ≤ ( S + √(S² + κ ε) ) / κ        (= 2S/κ for a fit no worse than the truth).

    The value bounds ‖Δ‖² (parameter_error). Hypotheses: truth inside the shared model; a fit with subspaces (NaN
    otherwise). Any design, covariates, counts.
    Kind: certificate. Source: basic inequality Σ‖𝒜_i(Δ_i)‖² ≤ 2⟨𝒜*ξ, Δ⟩ + ε and rank Δ ≤ (r1+r̂1, r2+r̂2);
    docs/theory.md, "Oracle inequality".
    """

    name = "oracle_inequality"
    kind = "certificate"
    side = "upper"
    source = "docs/theory.md#oracle-inequality"
    conservative = "Cauchy–Schwarz over the rank: 3–5 times the actual root error"
    expectation = False
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem)]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        if not _in_class(fit):
            return float("nan")
        noise, moved, error, excess = _pieces(truth, data, fit)
        ranks = (
            problem.rank_in + fit.input_subspace.shape[1],
            problem.rank_out + fit.output_subspace.shape[1],
        )
        return _radius(noise_size(noise, *ranks), moved, error, excess)


def noise_level(problem: Problem, failure: float, rank: int) -> float:
    """Level that S exceeds with probability at most `failure` (vector model, covariates N(0, I))."""
    counts, d, k = problem.counts, problem.dim_in, problem.num_users
    each = failure / 3.0
    largest = problem.noise_std * chi_upper(max(counts), each / k)
    total = problem.noise_std * chi_upper(sum(counts), each)
    return math.sqrt(min(rank, d, k)) * scaled_norm_upper(d, largest, min(total, math.sqrt(k) * largest), each)


@register
class NoiseMoment(Guarantee):
    """Size of the noise that a rank-2r model can see.

    In the vector model X_iᵀξ_i = ‖ξ_i‖ g_i with g_i ~ N(0, I_d) independent of ξ. So, with probability ≥ 1 − η,

        S ≤ √(2r) [ a (√d + √(2 ln(3/η))) + b ],   a = σ(√n + √(2 ln(3k/η))),   b = σ(√(Σn_i) + √(2 ln(3/η))),

    a bounding the largest ‖ξ_i‖ and b the norm of all noise. (b replaces the coarser a√k.)
    Hypotheses: vector model, covariates N(0, I). Observed: the realised S, for rank 2r.
    Kind: bound with probability 1 − η (η = 0.01). Source: Chevet's inequality and Gaussian concentration;
    docs/theory.md, "Noise".
    """

    name = "noise_moment"
    kind = "bound"
    side = "upper"
    metric = "noise_size"
    source = "Chevet's inequality; docs/theory.md#noise"
    conservative = "√(2r) times the largest singular value instead of the 2r largest ones"
    expectation = False
    failure_probability = 0.01
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [vector_model(problem), isotropic_gaussian(problem), homogeneous(problem)]

    def formula(self, problem: Problem) -> float:
        return noise_level(problem, self.failure_probability, 2 * problem.rank_in)

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        """S of the realised noise."""
        noise = adjoint(data, data.responses - predict(data.covariates, truth.weights))
        return math.sqrt(_top(noise[:, :, 0].T, 2 * problem.rank_in))


@register
class OracleInequalityInProbability(Guarantee):
    """Oracle inequality with the noise bounded in advance.

    In the vector model, for any fit of rank r̂, with κ and ε as in `oracle_inequality` and S̄ the level of
    `noise_moment` for rank r + r̂, with probability ≥ 1 − η

        ‖Δ‖ ≤ ( S̄ + √(S̄² + κ ε) ) / κ .

    With κ ≥ (1−δ) n (GRIP) and ε = 0, for r ≪ d and large n this is within 2√2 (√d+√k)/√(d+k)/(1−δ) ≤ 4/(1−δ) of
    the Cramér–Rao level, in root mean square: the error of alternating minimisation is sandwiched.
    Hypotheses: vector model, covariates N(0, I), inside the shared model.
    Kind: bound with probability 1 − η (η = 0.01). Source: docs/theory.md, "Oracle inequality".
    """

    name = "oracle_inequality_in_probability"
    kind = "bound"
    side = "upper"
    source = "docs/theory.md#oracle-inequality"
    conservative = "as oracle_inequality, times the slack of noise_moment"
    expectation = False
    failure_probability = 0.01
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [vector_model(problem), isotropic_gaussian(problem), homogeneous(problem)]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        if not _in_class(fit):
            return float("nan")
        _, moved, error, excess = _pieces(truth, data, fit)
        rank = problem.rank_in + fit.input_subspace.shape[1]
        return _radius(noise_level(problem, self.failure_probability, rank), moved, error, excess)
