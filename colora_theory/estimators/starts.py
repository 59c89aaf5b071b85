"""Starting subspaces: spectral (method of moments) and random."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from colora_theory.errors import InputError
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, haar

SPECTRAL: Final = ("split_half", "second_moment", "distinct_pairs")
STARTS: Final = (*SPECTRAL, "random")
#: From this dimension on a few eigenvectors are cheaper than a reduction of the whole matrix.
_LARGE: Final = 150


def leading(moment: Array, rank: int) -> Array:
    """Eigenvectors of the `rank` largest eigenvalues, shape (dim, rank); the identity when they are all."""
    dim = len(moment)
    if rank == dim:
        return np.eye(dim)
    return scipy.linalg.eigh(moment, subset_by_index=(dim - rank, dim - 1), check_finite=False)[1][:, ::-1]


def leading_of_product(first: Array, second: Array, rank: int) -> Array:
    """`leading` of FᵀS + SᵀF for F and S of shape (m, dim); in a large dimension without forming it.

    Lanczos needs some forty products with F and S, and is as accurate as the dense eigendecomposition.
    """
    dim = first.shape[1]
    if dim >= _LARGE and 20 * rank <= dim:

        def matvec(z: Array) -> Array:
            return first.T @ (second @ z) + second.T @ (first @ z)

        moment = LinearOperator((dim, dim), matvec=matvec, dtype=float)
        try:
            generic = np.random.default_rng(0).standard_normal(dim)
            found: Any = eigsh(moment, rank, which="LA", v0=generic)  # type: ignore[call-overload]  # stubs miss float operators
            return np.asarray(found[1][:, ::-1], dtype=np.float64)
        except ArpackError:  # such as a moment that is zero
            pass
    half = first.T @ second
    return leading(half + half.T, rank)


def start(data: Dataset, rank: tuple[int, int], kind: str, rng: np.random.Generator | None) -> tuple[Array, Array]:
    """Return starting subspaces U, shape (dim_in, rank_in), and V, shape (dim_out, rank_out)."""
    if kind == "random":
        return random_start(data, rank, rng)
    if kind == "split_half":
        return split_half(data, rank, rng)
    left, right = second_moments(data) if kind == "second_moment" else distinct_pairs(data)
    return leading(left, rank[0]), leading(right, rank[1])


def split_half(
    data: Dataset, rank: tuple[int, int], rng: np.random.Generator | None = None
) -> tuple[Array, Array]:
    """Top eigenvectors of Σ_i n_i (B_i B̃_iᵀ + B̃_i B_iᵀ)/2, B_i and B̃_i the two halves' X_iᵀY_i/n_i.

    Unbiased for Σ_i n_i W_iW_iᵀ under isotropic covariates, whatever the noise. In the regression design V comes
    from Σ Y_iᵀY_i, whose noise is isotropic, and the responses are projected on it first.
    """
    halves = [SharedModel(part) for part in data.split(2, rng)]
    first, second = (_cross(half) / np.sqrt(np.maximum(half.counts, 1.0))[:, None, None] for half in halves)
    v = np.eye(data.dim_out)
    if rank[1] < data.dim_out:
        if data.design == "regression":
            v = leading(_response_moment(halves), rank[1])
            first, second = first @ v, second @ v
        else:
            right = np.tensordot(first, second, axes=([0, 1], [0, 1]))
            v = leading(right + right.T, rank[1])
    first, second = (half.swapaxes(1, 2).reshape(-1, data.dim_in) for half in (first, second))
    return leading_of_product(first, second, rank[0]), v


def second_moments(data: Dataset) -> tuple[Array, Array]:
    """Σ ‖y‖² x xᵀ and Σ y yᵀ (sensing: Σ y² A Aᵀ and Σ y² AᵀA), shapes (d, d) and (p, p); needs samples."""
    if data.sufficient:
        raise InputError(
            "moments of single samples need raw rows, got sufficient rows; use the split_half moment or 'random'."
        )
    model = SharedModel(data)
    left, right = np.zeros((model.d, model.d)), np.zeros((model.p, model.p))
    for block in model.blocks:
        scaled = model.x[block] * np.sqrt((model.y[block] ** 2).sum(2))[:, :, None]
        stack = scaled.reshape(-1, model.d, 1 if model.regression else model.p)
        left += np.tensordot(stack, stack, axes=([0, 2], [0, 2]))
        if not model.regression:
            right += np.tensordot(stack, stack, axes=([0, 1], [0, 1]))
    if model.regression:
        right = _response_moment([model])
    return left, right


def distinct_pairs(data: Dataset) -> tuple[Array, Array]:
    """Σ_i Σ_{j≠l} (x_j y_jᵀ)(x_l y_lᵀ)ᵀ/(n_i − 1), and Σ y yᵀ or its sensing counterpart; needs samples.

    All pairs of a user less the diagonal ones: Σ_{j,l} − Σ_j. Users are weighted by their samples.
    """
    left, right = np.zeros((data.dim_in, data.dim_in)), np.zeros((data.dim_out, data.dim_out))
    for i in range(data.num_users):
        one = data.take(slice(i, i + 1))
        diagonal = second_moments(one)
        cross = _cross(SharedModel(one))[0]
        pairs = max(float(data.counts[i]) - 1.0, 1.0)
        left += (cross @ cross.T - diagonal[0]) / pairs
        right += diagonal[1] if data.design == "regression" else (cross.T @ cross - diagonal[1]) / pairs
    return left, right


def random_start(data: Dataset, rank: tuple[int, int], rng: np.random.Generator | None) -> tuple[Array, Array]:
    """Haar-distributed subspaces."""
    if rng is None:
        raise InputError("a random start draws random numbers; pass rng.")
    u = haar(rng, data.dim_in, rank[0])
    return u, np.eye(data.dim_out) if rank[1] == data.dim_out else haar(rng, data.dim_out, rank[1])


def _cross(model: SharedModel) -> Array:
    """X_iᵀY_i as matrices, shape (k, d, p)."""
    return np.concatenate([model.adjoint(block, model.y[block]) for block in model.blocks])


def _response_moment(models: list[SharedModel]) -> Array:
    """Σ Y_iᵀY_i, shape (p, p)."""
    total: Array = sum(np.tensordot(m.y, m.y, axes=([0, 1], [0, 1])) for m in models)  # type: ignore[assignment]
    return total
