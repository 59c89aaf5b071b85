"""Lower bounds for every estimator, averaged over the prior: a genie reveals part of the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory.guarantees.base import Guarantee, Hypothesis, register
from colora_theory.guarantees.hypotheses import (
    enough_moments,
    gaussian_cores,
    homogeneous,
    isotropic,
    noisy,
    signal,
)
from colora_theory.model.linalg import Array, as_rows
from colora_theory.model.problem import Problem

if TYPE_CHECKING:
    from colora_theory.model.dataset import Dataset
    from colora_theory.model.truth import Truth


@register
class GenieKnownSubspace(Guarantee):
    """Genie bound, subspaces known: no estimator beats the Bayes risk of the cores, even told the subspaces.

    For cores with iid entries N(0, s²/(r1 r2)) and U, V revealed, every estimator (biased, randomised, told the
    subspaces, but nothing else of the truth) has, averaged over the cores and the noise,

        E Σ_i ‖Ŵ_i − W_i‖_F² ≥ Σ_i r2 tr( (UᵀX_iᵀX_iU/σ² + (r1 r2/s²) I)⁻¹ )         (per trial, regression),

    the same with the features vec(UᵀA_ijV) for sensing. As a function of the problem (isotropic covariates):
    Σ_i r1 r2/(n_i/σ² + r1 r2/s²), which is smaller by Jensen's inequality.
    Hypotheses: Gaussian cores, inside the shared model, σ > 0.
    Kind: bound on the mean (lower). Source: Gaussian posterior variance; docs/theory.md, "Genie bounds".
    """

    name = "genie_known_subspace"
    kind = "bound"
    side = "lower"
    source = "docs/theory.md#genie-bounds"
    conservative = "the genie gives the subspaces away: tight only for many users"
    side_information = ("input_subspace", "output_subspace")
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), gaussian_cores(problem), signal(problem), noisy(problem)]

    def formula(self, problem: Problem) -> float:
        if not isotropic(problem):
            return float("nan")
        size, precision = problem.rank_in * problem.rank_out, 1.0 / problem.noise_std**2
        prior = size / problem.signal_norm**2
        return sum(size / (n * precision + prior) for n in problem.counts)

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        u, v = truth.input_subspace, truth.output_subspace
        prior = problem.rank_in * problem.rank_out / problem.signal_norm**2
        if data.design == "regression":
            features, copies = data.covariates @ u, problem.rank_out
        else:
            features, copies = as_rows(u.T @ data.covariates @ v), 1
        gram = features.swapaxes(1, 2) @ features / problem.noise_std**2
        # by eigenvalues: with little noise the Gram matrix may leave nothing of the prior but rounding
        values = np.maximum(np.linalg.eigvalsh(gram), 0.0)
        return copies * float((1.0 / (values + prior)).sum())


@register
class GenieKnownCores(Guarantee):
    """Genie bound, cores known: no estimator finds a uniformly random subspace faster from the data alone.

    For U uniform on the Stiefel manifold, cores and V revealed, every estimator that is told no more of the truth
    than the cores has, averaged over U, the isotropic covariates and the noise, with λ_b, v_b the eigenpairs of
    Σ_i C_iC_iᵀ, q_b = v_bᵀ(Σ_i n_iC_iC_iᵀ)v_b, q = Σ_b q_b and g = d − (r1+1)/2,

        E Σ_i ‖Ŵ_i − W_i‖_F² ≥ Σ_b λ_b g² / ( [q_b (d − 3r1/4 − 1/2) + q/4]/σ² + g² )        (per truth).

    For r1 = 1 this is c² (d−1)/(n c²/σ² + d − 1), c² = Σ‖C_i‖².
    Hypotheses: inside the shared model, covariates with covariance I, σ > 0.
    Kind: bound on the mean (lower). Source: van Trees' inequality on the Stiefel manifold, ours;
    docs/theory.md, "Genie bounds". (For a Gaussian factor instead of a uniform subspace see
    `gaussian_factor_level`.)
    """

    name = "genie_known_cores"
    kind = "bound"
    side = "lower"
    source = "van Trees' inequality; docs/theory.md#genie-bounds"
    conservative = "the genie gives the cores away: tight only for large dim_in/num_users"
    side_information = ("cores",)
    per_trial = True

    def conditions(self, problem: Problem) -> list[Hypothesis]:
        return [homogeneous(problem), isotropic(problem), noisy(problem)]

    def test_conditions(self, problem: Problem) -> list[Hypothesis]:
        # what the estimators that fit cores by least squares need; shrinking ones have lighter tails
        return [enough_moments(problem, problem.core_unknowns, "unknowns of a core")]

    def realised(self, problem: Problem, truth: Truth, data: Dataset, fit: Any = None) -> float:
        return known_cores_level(truth.cores, np.asarray(problem.counts, float), problem.dim_in, problem.noise_std)


def known_cores_level(cores: Array, counts: Array, d: int, noise_std: float) -> float:
    """The bound of `genie_known_cores` for cores of shape (k, r1, r2)."""
    r = cores.shape[1]
    moments = cores @ cores.swapaxes(1, 2)
    energy, directions = np.linalg.eigh(moments.sum(0))
    weighted = np.einsum("ab,kac,cb,k->b", directions, moments, directions, counts)
    g = d - (r + 1) / 2
    information = (weighted * (d - 0.75 * r - 0.5) + weighted.sum() / 4) / noise_std**2
    return float((energy * g * g / (information + g * g)).sum())


def gaussian_factor_level(cores: Array, covariates: Array, noise_std: float) -> float:
    """Bayes risk Σ_i E‖θ̂_i − Mc_i‖² when M (d, r) has iid entries N(0, 1/d) and the cores (k, r) are known.

    tr((Σ cc^T ⊗ I)(Σ_i c_ic_iᵀ ⊗ X_iᵀX_i/σ² + d I)⁻¹): rigorous for that prior only (a uniform subspace has
    less room: knowing the norms of the columns of M helps, so its risk may be lower).
    """
    d, r = covariates.shape[2], cores.shape[1]
    precision = d * np.eye(d * r)
    for c, x in zip(cores, covariates, strict=True):
        precision += np.kron(np.outer(c, c), x.T @ x) / noise_std**2
    return float(np.trace(np.linalg.solve(precision, np.kron(cores.T @ cores, np.eye(d)))))
