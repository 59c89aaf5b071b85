"""Exact expectations of the moment matrices that spectral starts are built on.

The moments are computed here from the data, as the theorems state them: an independent route from the estimators'
starts, which need not form them (tests/test_kernels.py compares the starts with sums over samples).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import (
    at_least,
    isotropic,
    isotropic_gaussian,
    no_intercepts,
    raw_rows,
    regression,
)
from colora_theory.model.dataset import Dataset, adjoint
from colora_theory.model.linalg import Array, as_rows
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.truth import Truth


def vector_view(data: Dataset) -> tuple[Array, Array]:
    """Rows (k, m, d) and residual responses (k, m, p) of a regression, or of sensing with one output."""
    return as_rows(data.covariates), as_rows(data.residual_responses())


def squared_response_moment(data: Dataset) -> Array:
    """(1/N) Σ_ij ‖y_ij‖² x_ij x_ijᵀ of the responses less W_0's predictions, shape (d, d)."""
    x, y = vector_view(data)
    weighted = x * np.einsum("kmp,kmp->km", y, y)[:, :, None]
    return np.tensordot(weighted, x, axes=([0, 1], [0, 1])) / float(data.counts.sum())


def half_estimates(data: Dataset) -> list[Array]:
    """b_i of each half of every user's rows, b_i = 𝒜_i*(y_i)/n_i: two arrays of shape (k, d, p)."""
    return [adjoint(h, h.residual_responses()) / h.counts[:, None, None] for h in data.split(2)]


def split_half_moment(data: Dataset) -> Array:
    """Symmetrised Σ_i b_i^{(1)} b_i^{(2)ᵀ}, shape (d, d): unbiased for Σ_i (W_i − W_0)(W_i − W_0)ᵀ."""
    first, second = half_estimates(data)
    product = np.einsum("kap,kbp->ab", first, second)
    return 0.5 * (product + product.T)


def distinct_pair_moment(data: Dataset) -> Array:
    """Σ_i 1/(n_i(n_i−1)) Σ_{j≠l} x_jy_jᵀ y_lx_lᵀ, shape (d, d): unbiased for the same, using every pair."""
    x, y = vector_view(data)
    total = np.einsum("kmd,kmp->kdp", x, y)
    pairs = data.counts * (data.counts - 1.0)
    weighted = x * (np.einsum("kmp,kmp->km", y, y) / pairs[:, None])[:, :, None]
    cross = np.einsum("kap,kbp->ab", total / pairs[:, None, None], total)
    return np.asarray(cross - np.tensordot(weighted, x, axes=([0, 1], [0, 1])))


@register
class SecondMomentIdentity(Guarantee):
    """Expectation of the squared-response moment: the shared subspace sits on top of a flat spectrum.

    With Γ = Σ_i n_i (W_i−W_0)(W_i−W_0)ᵀ/N and M̂ = (1/N) Σ ‖y‖² x xᵀ,

        E M̂ = 2Γ + (tr Γ + p σ²) I.

    Observed: tr(Uᵀ M̂ U); claimed: 2 tr(UᵀΓU) + r1 (tr Γ + p σ²).
    Hypotheses: regression design, covariates N(0, I), no intercepts, raw rows (it uses fourth moments).
    Kind: identity. Source: Isserlis' theorem; docs/theory.md, "Moments".
    """

    name = "second_moment_identity"
    kind = "identity"
    side = "equality"
    metric = "moment_in_subspace"
    source = "Isserlis' theorem; docs/theory.md#moments"
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [regression(problem), isotropic_gaussian(problem), no_intercepts(problem), raw_rows(problem)]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        shares = np.asarray(problem.counts, float) / sum(problem.counts)
        energy = float(np.einsum("k,kab,kab->", shares, truth.changes, truth.changes))
        inside = truth.input_subspace.T @ truth.changes
        inner = float(np.einsum("k,kab,kab->", shares, inside, inside))
        return 2.0 * inner + problem.rank_in * (energy + problem.dim_out * problem.noise_std**2)

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """tr(Uᵀ M̂ U)."""
        u = truth.input_subspace
        return float(np.trace(u.T @ squared_response_moment(data) @ u))


@register
class SplitHalfMoment(Guarantee):
    """Split halves give an unbiased moment: no noise term, whatever σ.

    With b_i = 𝒜_i*(y_i)/n_i on each of two disjoint halves of user i's samples,

        E Σ_i b_i^{(1)} b_i^{(2)ᵀ} = Σ_i (W_i − W_0)(W_i − W_0)ᵀ.

    Observed and claimed: the traces of both sides.
    Hypotheses: covariates with covariance I (any law), no intercepts, raw rows, at least two samples per user.
    Kind: identity. Source: independence of the halves; docs/theory.md, "Moments".
    """

    name = "split_half_moment"
    kind = "identity"
    side = "equality"
    metric = "split_half_trace"
    source = "docs/theory.md#moments"
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [isotropic(problem), no_intercepts(problem), raw_rows(problem), at_least(problem, 2, "2")]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        freedom = problem.covariate_parameter if problem.covariates == "student_t" else None
        message = f"a test of this mean needs sixth moments of the covariates: more than 6 degrees, got {freedom}."
        return [Hypothesis("three moments", freedom is None or freedom > 6, message)]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return float((truth.changes**2).sum())

    def observed(self, problem: Problem, truth: Truth, data: Dataset, fit: Any) -> float:
        """Σ_i ⟨b_i^{(1)}, b_i^{(2)}⟩."""
        first, second = half_estimates(data)
        return float(np.vdot(first, second))
