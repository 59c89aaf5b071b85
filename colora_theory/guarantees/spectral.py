"""Davis–Kahan certificates for spectral starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import at_least, homogeneous, raw_rows, regression
from colora_theory.guarantees.moments import distinct_pair_moment, split_half_moment, squared_response_moment
from colora_theory.model.linalg import Array, subspace_distance
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


def leading(moment: Array, rank: int) -> Array:
    """Eigenvectors of the `rank` largest eigenvalues of a symmetric matrix."""
    return np.linalg.eigh(moment)[1][:, ::-1][:, :rank]


def davis_kahan(estimate: Array, target: Array, rank: int) -> float:
    """2‖P̂ − P‖/(λ_r(P) − λ_{r+1}(P)), capped at 1: bounds the distance of the leading subspaces."""
    values = np.linalg.eigvalsh(target)[::-1]
    gap = values[rank - 1] - (values[rank] if rank < len(values) else 0.0)
    if gap <= 0:
        return 1.0
    return min(1.0, 2.0 * float(np.linalg.norm(estimate - target, 2)) / float(gap))


class _DavisKahan(Guarantee):
    """What the three certificates share."""

    kind = "certificate"
    side = "upper"
    metric = "subspace_distance"
    expectation = False
    per_trial = True
    conservative = "the factor 2, and the operator norm of the whole deviation instead of its part seen by U"

    def moments(self, problem: Problem, truth: Truth, data: Dataset) -> tuple[Array, Array]:
        """Estimated and true moment."""
        raise NotImplementedError

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), raw_rows(problem), at_least(problem, 2, "2")]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return davis_kahan(*self.moments(problem, truth, data), problem.rank_in)

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Distance of the leading subspace of the estimated moment, computed here."""
        estimate, _ = self.moments(problem, truth, data)
        return subspace_distance(leading(estimate, problem.rank_in), truth.input_subspace)


def _target(truth: Truth) -> Array:
    return np.einsum("kap,kbp->ab", truth.changes, truth.changes)


@register
class SpectralSplitHalf(_DavisKahan):
    """Davis–Kahan for the split-half spectral start.

    Let P̂ be the symmetrised Σ_i b_i^{(1)}b_i^{(2)ᵀ} of split halves (`split_half_moment`), P = Σ_i W_iW_iᵀ of
    the changes, Û the r leading eigenvectors of P̂. In every trial

        dist(Û, U) ≤ min(1, 2‖P̂ − P‖_op / λ_r(P)).

    Hypotheses: inside the shared model, raw rows, two samples per user. Any covariates and noise.
    Kind: certificate. Source: Davis & Kahan 1970 with the constant 2 (Yu, Wang & Samworth 2015; stated in Duchi,
    Feldman, Hu & Talwar 2022); docs/theory.md, "Spectral starts".
    """

    name = "spectral_split_half"
    tag = "V"
    source = "Davis & Kahan 1970, constant 2 as in Duchi et al. 2022; docs/theory.md#spectral-starts"

    def moments(self, problem: Problem, truth: Truth, data: Dataset) -> tuple[Array, Array]:
        return split_half_moment(data), _target(truth)


@register
class SpectralDistinctPairs(_DavisKahan):
    """Davis–Kahan for the spectral start on all distinct pairs.

    As `spectral_split_half` with P̂ = Σ_i 1/(n_i(n_i−1)) Σ_{j≠l} x_jy_jᵀ y_lx_lᵀ: every pair of samples of a user
    instead of one split. In every trial dist(Û, U) ≤ min(1, 2‖P̂ − P‖_op/λ_r(P)).
    Hypotheses: regression design, inside the shared model, raw rows, two samples per user.
    Kind: certificate. Source: Duchi, Feldman, Hu & Talwar 2022 (estimator and Davis–Kahan with constant 2);
    docs/theory.md, "Spectral starts".
    """

    name = "spectral_distinct_pairs"
    tag = "V"
    source = "Duchi, Feldman, Hu & Talwar 2022; docs/theory.md#spectral-starts"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [*super().conditions(problem), regression(problem)]

    def moments(self, problem: Problem, truth: Truth, data: Dataset) -> tuple[Array, Array]:
        return distinct_pair_moment(data), _target(truth)


@register
class SpectralSecondMoment(_DavisKahan):
    """Davis–Kahan for the squared-response spectral start.

    With M̂ = (1/N)Σ‖y‖²xxᵀ, Γ = Σ n_i W_iW_iᵀ/N of the changes and E M̂ = 2Γ + (tr Γ + pσ²)I, the gap of E M̂ is
    2λ_r(Γ), so the r leading eigenvectors Û of M̂ satisfy in every trial

        dist(Û, U) ≤ min(1, ‖M̂ − E M̂‖_op / λ_r(Γ)).

    Hypotheses: regression design, inside the shared model, raw rows. The inequality needs no law of the
    covariates (E M̂ is just a matrix here); it is informative for covariates N(0, I).
    Kind: certificate. Source: Davis & Kahan 1970, constant 2; the estimator of Tripuraneni, Jin & Jordan 2021
    (arXiv 2002.11684); docs/theory.md, "Spectral starts".
    """

    name = "spectral_second_moment"
    tag = "V"
    source = "Davis & Kahan 1970, constant 2; docs/theory.md#spectral-starts"

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [*super().conditions(problem), regression(problem)]

    def moments(self, problem: Problem, truth: Truth, data: Dataset) -> tuple[Array, Array]:
        shares = np.asarray(problem.counts, float) / sum(problem.counts)
        gamma = np.einsum("k,kap,kbp->ab", shares, truth.changes, truth.changes)
        flat = np.trace(gamma) + problem.dim_out * problem.noise_std**2
        return squared_response_moment(data), 2.0 * gamma + flat * np.eye(problem.dim_in)
