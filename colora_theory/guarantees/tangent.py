"""The linear algebra of the model at the truth: tangent space, Jacobian, Schur complement.

W_i = U C_i Vᵀ moves, to first order, along U_⊥ A C_i Vᵀ + U Γ_i Vᵀ + U C_i Bᵀ V_⊥ᵀ with free A (d−r1, r1),
Γ_i (r1, r2), B (p−r2, r2). The three parts are orthogonal to each other, nothing is counted twice (no gauge),
and after the scaling A = A′ M1^{-1/2}, B = B′ M2^{-1/2} with M1 = Σ C_iC_iᵀ, M2 = Σ C_iᵀC_i, the map from
(A′, Γ, B′) to the change of all weights is an isometry. So every question about JᵀJ relative to DᵀD (J the
Jacobian of the responses, D that of the weights) becomes one about JᵀJ alone in these coordinates. docs/theory.md,
section "Tangent space".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array
from colora_theory.model.problem import Problem
from colora_theory.model.truth import Truth

#: A Gram matrix whose eigenvalues spread at most so far is regular; below ROUNDING it cannot be told from a
#: singular one. In between the numerical rank is undecided, and nothing is claimed.
RANK_TOLERANCE = 1e-11
ROUNDING = 1e-13
#: Users are handled in blocks of about this many bytes of temporary memory.
_BLOCK_BYTES = 2**26


def complement(basis: Array) -> Array:
    """Orthonormal basis of the orthogonal complement of `basis` (d, r), shape (d, d−r)."""
    return np.linalg.qr(basis, mode="complete")[0][:, basis.shape[1] :]


def inverse_root(stack: Array) -> Array | None:
    """Return M^{-1/2} of M = Σ C_iC_iᵀ for a stack (k, a, b); None when M is singular to rounding.

    Where M is badly conditioned, through the singular values of the unfolding: forming M squares its condition.
    """
    values, vectors = np.linalg.eigh(np.einsum("kab,kcb->ac", stack, stack))
    if values[0] > RANK_TOLERANCE * values[-1]:
        return np.asarray((vectors / np.sqrt(values)) @ vectors.T)
    unfolding = stack.transpose(1, 0, 2).reshape(len(values), -1)
    vectors, roots, _ = np.linalg.svd(unfolding, full_matrices=False)
    if len(roots) < len(values) or roots[-1] <= ROUNDING * roots[0]:
        return None
    return np.asarray((vectors / roots) @ vectors.T)


@dataclass(frozen=True, eq=False)
class TangentSystem:
    """JᵀJ at the truth in isometric coordinates, the cores eliminated user by user.

    The shared coordinates are (A′, B′), q = r1(d−r1) + r2(p−r2) of them, A′ first, both in C order.

    Attributes
    ----------
    schur : S, shape (q, q): shared block of JᵀJ after elimination of all cores.
    response : R = Σ_i K_iᵀK_i, shape (q, q), where Γ_i = −K_i (A′, B′) is how core i answers the shared part.
    core_trace : Σ_i tr G_i⁻¹ over the core blocks G_i of JᵀJ; infinite when one is singular.
    split : number of coordinates of A′.
    root_in : M1^{-1/2}.
    core_spread : smallest squared ratio of extreme diagonal entries of the triangular factors of the cores'
        features; 0 when a user has fewer samples than its core has unknowns.
    scale : mean square of all users' covariates in a direction; what is far below it in S is rounding.
    """

    schur: Array
    response: Array
    core_trace: float
    split: int
    root_in: Array
    core_spread: float = 1.0
    scale: float = 0.0

    @property
    def identifiable(self) -> bool:
        """Whether JᵀJ is non-singular: rank J = degrees of freedom, the exact local condition."""
        return np.isfinite(self.core_trace) and self._spread > RANK_TOLERANCE

    @property
    def singular(self) -> bool:
        """Whether JᵀJ is singular beyond doubt; neither this nor `identifiable` when rounding hides its rank."""
        return self.core_spread <= ROUNDING**2 or (np.isfinite(self.core_trace) and self._spread <= ROUNDING)

    @cached_property
    def _spread(self) -> float:
        """Ratio of the least eigenvalue of S to its largest, or to the scale of the data if that is larger."""
        if len(self.schur) == 0:
            return 1.0
        values = np.linalg.eigvalsh(self.schur)
        largest = max(float(values[-1]), self.scale)
        return float(values[0]) / largest if largest > 0 else 0.0

    def weight_trace(self) -> float:
        """tr D (JᵀJ)⁻¹ Dᵀ: the Cramér–Rao number for all weights at noise variance one; NaN if singular."""
        if not self.identifiable:
            return float("nan")
        if len(self.schur) == 0:
            return self.core_trace
        factor = cho_factor(self.schur)
        eye = np.eye(len(self.schur))
        return self.core_trace + float(np.trace(cho_solve(factor, eye + self.response)))

    def subspace_trace(self) -> float:
        """tr of the block of (JᵀJ)⁻¹ for A = A′ M1^{-1/2}: the same for ‖(I−ÛÛᵀ)U‖_F²; NaN if singular."""
        if not self.identifiable:
            return float("nan")
        rank = len(self.root_in)
        inverse = cho_solve(cho_factor(self.schur), np.eye(len(self.schur))[:, : self.split])
        block = inverse[: self.split].reshape(self.split // rank, rank, self.split // rank, rank)
        return float(np.einsum("abac,bd,cd->", block, self.root_in, self.root_in))


def tangent_system(truth: Truth, data: Dataset) -> TangentSystem | None:
    """Build the system of `data` at `truth`; None when an unfolding of the cores is rank deficient.

    Cost O(k m d²) plus O(q²) memory; blocks of users keep the temporary memory constant.
    """
    root_in, root_out = inverse_root(truth.cores), inverse_root(truth.cores.swapaxes(1, 2))
    if root_in is None or root_out is None:
        return None
    build = _regression if data.design == "regression" else _sensing
    energy = float(np.vdot(data.covariates, data.covariates))
    return replace(
        build(truth, data, root_in, root_out),
        scale=energy / math.prod(data.covariates.shape[2:]) / len(truth.cores),
    )


def user_blocks(num_users: int, bytes_per_user: int) -> list[slice]:
    """Slices of users such that one block's temporaries stay near a constant size."""
    step = max(1, _BLOCK_BYTES // max(1, bytes_per_user))
    return [slice(i, min(i + step, num_users)) for i in range(0, num_users, step)]


def _factor(features: Array, counts: NDArray[np.int64]) -> tuple[Array, Array] | float:
    """Batched QR of core features (k, m, q); the `core_spread` alone when some user's are rank deficient."""
    if counts.min() < features.shape[2]:
        return 0.0
    q, r = np.linalg.qr(features)
    diagonal = np.abs(np.diagonal(r, axis1=1, axis2=2))
    largest = diagonal.max(1)
    spread = float(np.divide(diagonal.min(1), largest, out=np.zeros(len(r)), where=largest > 0).min()) ** 2
    return (q, r) if spread > RANK_TOLERANCE else spread


def _deficient(q: int, split: int, root_in: Array, spread: float) -> TangentSystem:
    zero = np.zeros((q, q))
    return TangentSystem(
        schur=zero, response=zero, core_trace=float("inf"), split=split, root_in=root_in, core_spread=spread
    )


def _regression(truth: Truth, data: Dataset, root_in: Array, root_out: Array) -> TangentSystem:
    """Y_iV sees A′ and Γ_i, Y_iV_⊥ sees B′ alone, so that S is block diagonal."""
    u, v, cores = truth.input_subspace, truth.output_subspace, truth.cores
    outside = complement(u)
    (d, r1), (p, r2) = u.shape, v.shape
    split, q = r1 * (d - r1), r1 * (d - r1) + r2 * (p - r2)
    schur_in = np.zeros(((d - r1) ** 2, r1**2))
    response_in = np.zeros_like(schur_in)
    gram_out = np.zeros((r2, r2))
    core_trace = 0.0
    for users in user_blocks(len(cores), 8 * (d * d + 3 * data.covariates.shape[1] * d)):
        x = data.covariates[users]
        inner, outer = x @ u, x @ outside
        factored = _factor(inner, data.counts[users])
        if isinstance(factored, float):
            return _deficient(q, split, root_in, factored)
        basis, triangle = factored
        along = basis.swapaxes(1, 2) @ outer
        outer -= basis @ along
        answer = np.linalg.solve(triangle, along)
        white = root_in @ cores[users]
        weights = (white @ white.swapaxes(1, 2)).reshape(len(x), -1)
        schur_in += (outer.swapaxes(1, 2) @ outer).reshape(len(x), -1).T @ weights
        response_in += (answer.swapaxes(1, 2) @ answer).reshape(len(x), -1).T @ weights
        core_trace += r2 * float((np.linalg.inv(triangle) ** 2).sum())
        seen = triangle @ cores[users]
        gram_out += np.einsum("kab,kac->bc", seen, seen)
    schur, response = np.zeros((q, q)), np.zeros((q, q))
    for total, part in ((schur, schur_in), (response, response_in)):
        total[:split, :split] = part.reshape(d - r1, d - r1, r1, r1).transpose(0, 2, 1, 3).reshape(split, split)
    schur[split:, split:] = np.kron(np.eye(p - r2), root_out @ gram_out @ root_out)
    return TangentSystem(schur=schur, response=response, core_trace=core_trace, split=split, root_in=root_in)


def _sensing(truth: Truth, data: Dataset, root_in: Array, root_out: Array) -> TangentSystem:
    u, v, cores = truth.input_subspace, truth.output_subspace, truth.cores
    outside, beyond = complement(u), complement(v)
    (d, r1), (p, r2) = u.shape, v.shape
    split, q = r1 * (d - r1), r1 * (d - r1) + r2 * (p - r2)
    schur, response, core_trace = np.zeros((q, q)), np.zeros((q, q)), 0.0
    for i, (core, a) in enumerate(zip(cores, data.covariates, strict=True)):
        factored = _factor((u.T @ a @ v).reshape(1, len(a), r1 * r2), data.counts[i : i + 1])
        if isinstance(factored, float):
            return _deficient(q, split, root_in, factored)
        basis, triangle = factored[0][0], factored[1][0]
        first = (outside.T @ a @ (v @ (root_in @ core).T)).reshape(len(a), split)
        second = (beyond.T @ (a.swapaxes(1, 2) @ (u @ core @ root_out))).reshape(len(a), q - split)
        shared = np.concatenate([first, second], axis=1)
        along = basis.T @ shared
        shared -= basis @ along
        answer = np.linalg.solve(triangle, along)
        schur += shared.T @ shared
        response += answer.T @ answer
        core_trace += float((np.linalg.inv(triangle) ** 2).sum())
    return TangentSystem(schur=schur, response=response, core_trace=core_trace, split=split, root_in=root_in)


def cramer_rao_level(problem: Problem, truth: Truth, data: Dataset) -> float:
    """Cramér–Rao level σ² tr(D (JᵀJ)⁻¹ Dᵀ) of the realised design; NaN where the Jacobian is singular."""
    system = tangent_system(truth, data)
    return float("nan") if system is None else problem.noise_std**2 * system.weight_trace()
