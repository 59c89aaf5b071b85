"""What estimators cannot beat: Cramér–Rao levels, and genie-aided Bayes bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, least, register
from colora_theory.guarantees.counting import enough_samples
from colora_theory.guarantees.hypotheses import homogeneous, isotropic
from colora_theory.guarantees.tangent import cramer_rao_level, tangent_system
from colora_theory.model.linalg import subspace_distance_fro
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth

#: Mean squared sine, at the large-sample level, up to which the model is called close to its linearisation.
WITHIN_REACH: Final = 0.25
#: Level of the squared Frobenius distance up to which `cramer_rao_subspace` is claimed: sines have not saturated.
FIRST_ORDER: Final = 0.02


def large_sample_level(problem: Problem) -> float:
    """σ²[(r1(d−r1) + r2(p−r2))/n̄ + r1 r2 Σ 1/n_i], n̄ the mean count: σ² dof/n for equal counts."""
    d, p, r1, r2 = problem.dim_in, problem.dim_out, problem.rank_in, problem.rank_out
    counts = np.asarray(problem.counts, float)
    shared = (r1 * (d - r1) + r2 * (p - r2)) / counts.mean()
    return problem.noise_std**2 * float(shared + r1 * r2 * (1.0 / counts).sum())


def subspace_level(problem: Problem) -> float:
    """σ² (d − r1)/n̄ Σ_j 1/λ_j, λ_j = the eigenvalues of Σ C_iC_iᵀ for orthogonal cores; infinite without data."""
    mean = sum(problem.counts) / problem.num_users
    if not (problem.signal_norm and mean):
        return math.inf if problem.noise_std else 0.0
    rank, kappa = problem.rank_in, problem.condition_number
    spectrum = kappa ** (-2.0 * np.arange(rank) / max(rank - 1, 1))
    values = problem.num_users * problem.signal_norm**2 * spectrum / spectrum.sum()
    return problem.noise_std**2 * (problem.dim_in - rank) / mean * float((1.0 / values).sum())


def small_noise(problem: Problem) -> Hypothesis:
    """The noise leaves the subspace within reach, so that the model is close to its linearisation."""
    level = subspace_level(problem) / problem.rank_in
    return Hypothesis(
        "small noise",
        level <= WITHIN_REACH,
        f"needs a mean squared sine, at its large-sample level, of at most {WITHIN_REACH:g}, got {level:.3g}.",
    )


@register
class CramerRao(Guarantee):
    """Cramér–Rao level of the shared model: the error of least squares as the noise falls.

    For one realised design and truth, J the Jacobian of all responses in (U, C, V), D that of the weights: every
    locally unbiased estimator has

        E Σ_i ‖Ŵ_i − W_i‖_F² ≥ σ² tr(D (JᵀJ)⁺ Dᵀ)                                         (per trial, L1),

    and the ratio of the least-squares error to it tends to 1 as σ → 0, also for n < d: least squares is unbiased
    to first order in σ. Exactly so, with equality, where the model is linear (rank_in = dim_in and rank_out =
    dim_out); elsewhere nothing excludes an error below the level by a share that vanishes with σ. As a function of
    the problem the value is the large-sample closed form

        σ² [ (r1(d−r1) + r2(p−r2))/n̄ + r1 r2 Σ_i 1/n_i ]  =  σ² dof/n for equal counts           (L2),

    which never exceeds E L1 (the inverse is operator convex) and is optimistic at small n.
    Hypotheses: every user inside the shared model; at least as many equations as unknowns, and for L1 a
    full-rank J (else NaN); for L2 isotropic covariates; small noise (mean squared sine at most 1/4).
    Kind: bound on the mean (lower) for unbiased estimators; asymptotic, as σ → 0, for least squares. Source:
    Cramér–Rao; Schur elimination of the cores, docs/theory.md, "Cramér–Rao". Not a bound for biased (shrinking)
    estimators.
    """

    name = "cramer_rao"
    kind = "bound"
    side = "lower"
    estimators = ("altmin", "gauss_newton")
    source = "Cramér–Rao inequality; docs/theory.md#cramér-rao"
    conservative = "L2 is below L1 at small n; L1 is attained by least squares as σ → 0"
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), enough_samples(problem), small_noise(problem)]

    def formula(self, problem: Problem) -> float:
        return large_sample_level(problem) if isotropic(problem) else float("nan")

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return cramer_rao_level(problem, truth, data)

    def min_samples(self, problem: Problem, target: float) -> int:
        """Least common num_samples whose large-sample level is at most `target`."""
        return least(
            lambda n: large_sample_level(problem.replace(num_samples=n)) <= target, problem.core_unknowns, 10**15
        )


@register
class CramerRaoSubspace(Guarantee):
    """Cramér–Rao level of the input subspace.

    To first order dist_F²(Û, U) = ‖(I − ÛÛᵀ)U‖_F² is the squared norm of the U_⊥ part of the error, so every
    locally unbiased estimator has, for one realised design and truth,

        E dist_F²(Û, U) ≥ σ² tr [(JᵀJ)⁻¹]_{AA}                                            (per trial),

    the A block in the gauge-free coordinates of docs/theory.md, "Tangent space". As a function of the problem,
    for orthogonal cores of condition number κ (λ_j the eigenvalues of Σ C_iC_iᵀ, geometric with sum k s²) and
    equal counts: σ² (d − r1)/n · Σ_j 1/λ_j.
    The level is a first-order one, and squared sines saturate at 1: where the realised level exceeds 0.02 nothing
    is claimed about a fit, below it 5 % are allowed for what is left of the second order.
    Hypotheses: as `cramer_rao`; for the function of the problem orthogonal cores, equal counts, isotropic
    covariates. Speaks about the squared Frobenius distance.
    Kind: bound on the mean (lower), in the limit σ → 0. Source: Cramér–Rao; docs/theory.md, "Cramér–Rao".
    """

    name = "cramer_rao_subspace"
    kind = "bound"
    side = "lower"
    metric = "subspace_distance_fro"
    estimators = ("altmin", "gauss_newton")
    source = "Cramér–Rao inequality; docs/theory.md#cramér-rao"
    conservative = "first order in the error: sines saturate at 1, so it speaks about small noise only"
    per_trial = True
    tolerance = 0.05

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), enough_samples(problem), small_noise(problem)]

    def formula(self, problem: Problem) -> float:
        exact = problem.core_distribution == "orthogonal" and isinstance(problem.num_samples, int)
        if not (exact and isotropic(problem)):
            return float("nan")
        return subspace_level(problem)

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        system = tangent_system(truth, data)
        level = float("nan") if system is None else problem.noise_std**2 * system.subspace_trace()
        return float("nan") if fit is not None and level > FIRST_ORDER else level

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Squared Frobenius distance."""
        if fit.input_subspace is None:
            return float("nan")
        return subspace_distance_fro(fit.input_subspace, truth.input_subspace) ** 2
