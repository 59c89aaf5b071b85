"""One least-squares step along the tangent space, with cores held fixed, and the exact law of its noise.

docs/theory.md, section "Split data", Step 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import LinAlgError, cholesky
from scipy.linalg.lapack import dpotri

from colora_theory.guarantees.concentration import quadratic_form_chernoff, quadratic_form_upper
from colora_theory.guarantees.tangent import user_blocks
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array

#: Shares of the smallest Ritz value that are tried as lower bounds of the smallest eigenvalue.
_SHARES: Final = (0.99, 0.95, 0.85, 0.6, 0.3)
#: Up to so many unknowns all eigenvalues are computed, for a sharper limit.
_FEW: Final = 1500


@dataclass(frozen=True)
class TangentStep:
    """Ā = A + E with E = H⁻¹(noise) + H⁻¹(m); lengths are in the norm ‖·M^{1/2}‖_F.

    Attributes
    ----------
    change : Ā, shape (d − r, r).
    length : ‖ĀM^{1/2}‖_F.
    noise : limit of the operator norm of the Gaussian part of E.
    energy : limit of its length.
    floor : proved lower bound of the least eigenvalue of H′.
    """

    change: Array
    length: float
    noise: float
    energy: float
    floor: float


def normal_equations(basis: Array, outside: Array, data: Dataset, white: Array) -> tuple[Array, Array]:
    """H′ = Σ w_iw_iᵀ ⊗ N_iᵀM_iN_i and Σ N_iᵀM_iY_i w_iᵀ, shapes (q, q) and (d − r, r).

    N_i = X_iB̃_⊥, M_i projects out X_iB̃, w_i are the whitened cores, shape (k, r, p). Entry (a, b) of A′ is number
    a·r + b.
    """
    r, rest = basis.shape[1], outside.shape[1]
    gram, right = np.zeros((rest * rest, r * r)), np.zeros((rest, r))
    for users in user_blocks(len(white), 8 * (rest * rest + 3 * data.covariates.shape[1] * data.dim_in)):
        x = data.covariates[users]
        q = np.linalg.qr(x @ basis)[0]
        n = x @ outside
        n -= q @ (q.swapaxes(1, 2) @ n)
        w = white[users]
        pairs = (w @ w.swapaxes(1, 2)).reshape(len(x), -1)
        gram += (n.swapaxes(1, 2) @ n).reshape(len(x), -1).T @ pairs
        right += np.einsum("kcp,kap->ca", n.swapaxes(1, 2) @ data.responses[users], w)
    full = gram.reshape(rest, rest, r, r).transpose(0, 2, 1, 3).reshape(rest * r, rest * r)
    return np.ascontiguousarray(full), right


def inverse_and_floor(matrix: Array) -> tuple[Array, float] | None:
    """H⁻¹ and a proved lower bound of λ_min(H); None when H is not safely positive definite.

    A Ritz value is only a guess (it lies above λ_min); that H − λI has a Cholesky factor proves λ, less what
    rounding may hide: the factor is exact for a matrix that differs by at most about (q + 1)ε·tr H (Higham 2002,
    Theorem 10.3).
    """
    try:
        factor = cholesky(matrix, lower=True, check_finite=False)
    except LinAlgError:
        return None
    inverse, info = dpotri(factor, lower=1)
    if info:
        return None
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    vector = np.random.default_rng(0).standard_normal(len(inverse))
    for _ in range(40):
        vector = inverse @ (vector / np.linalg.norm(vector))
    ritz = 1.0 / float(np.linalg.norm(vector))
    hidden = 4.0 * (len(matrix) + 1) * np.finfo(float).eps * float(np.trace(matrix))
    for share in _SHARES:
        shifted = matrix.copy()
        shifted[np.diag_indices(len(matrix))] -= share * ritz + hidden
        try:
            cholesky(shifted, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            continue
        return inverse, share * ritz
    return None


def noise_limits(inverse: Array, floor: float, root: Array, failure: float) -> tuple[float, float]:
    """Limits of ‖E‖_op and ‖EM^{1/2}‖_F for EM^{1/2} ~ N(0, H′⁻¹); each fails with probability ≤ `failure`.

    The second, and one bound of the first, from eigenvalues or traces; the other, since H′ ⪰ λI, by Anderson's
    inequality and Chevet's: ‖GM^{-1/2}‖, G with independent entries of variance 1/λ. H alone decides between them.
    """
    r, x, top = len(root), math.log(1.0 / failure), 1.0 / floor
    rest = len(inverse) // r
    blocks = np.einsum("abac->bc", inverse.reshape(rest, r, rest, r))
    flattest = float(np.linalg.norm(root, 2))
    if len(inverse) <= _FEW:
        energy = quadratic_form_chernoff(np.minimum(np.abs(np.linalg.eigvalsh(inverse)), top), x)
    else:
        energy = quadratic_form_upper(float(np.trace(blocks)), float(np.vdot(inverse, inverse)), top, x)
    trace, largest = float(np.trace(root @ blocks @ root)), top * flattest**2
    by_trace = quadratic_form_upper(trace, trace * largest, largest, x)
    by_norm = flattest * (math.sqrt(rest) + math.sqrt(2.0 * x)) + float(np.linalg.norm(root))
    return min(math.sqrt(by_trace), math.sqrt(top) * by_norm), math.sqrt(energy)


def tangent_step(
    basis: Array, outside: Array, data: Dataset, cores: Array, root: Array, high: float, failure: float
) -> TangentStep | None:
    """Least squares for A with the cores held fixed; None where its equations are singular or too few."""
    r, rest = basis.shape[1], outside.shape[1]
    if int((data.counts - r).sum()) * min(r, data.dim_out) <= r * rest or rest == 0:
        return None
    matrix, right = normal_equations(basis, outside, data, root @ cores)
    solved = inverse_and_floor(matrix)
    if solved is None:
        return None
    inverse, floor = solved
    change = (inverse @ right.reshape(-1)).reshape(rest, r)
    noise, energy = noise_limits(inverse, floor, root, failure)
    return TangentStep(change @ root, float(np.linalg.norm(change)), high * noise, high * energy, floor)
