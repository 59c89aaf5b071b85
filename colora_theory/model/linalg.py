"""Small exact tools: orthonormal factors, subspace distances, batched least squares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from colora_theory.errors import InputError

Array: TypeAlias = NDArray[np.float64]

#: Above this condition number of a Gram matrix a user's least squares goes through the SVD instead.
_GRAM_CONDITION_LIMIT = 1e8
#: Bytes that stay in a second-level cache between two uses.
CACHE_BYTES: Final = 1 << 21
#: Most columns of a matrix that count as few.
_FEW: Final = 8


def haar(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Draw a Haar-distributed matrix with orthonormal columns, shape (rows, columns)."""
    return haar_of(rng.standard_normal((rows, columns)))


def haar_of(normal: Array) -> Array:
    """Turn independent normal entries into Haar-distributed matrices, shape (…, rows, columns)."""
    q, r = np.linalg.qr(normal)
    signs = np.copysign(1.0, np.diagonal(r, axis1=-2, axis2=-1))  # QR alone fixes them, which is not Haar
    return np.asarray(q * signs[..., None, :])


def orthonormal(matrix: Array) -> Array:
    """Return an orthonormal basis of the column space, shape (…, dim, rank) as `matrix` (QR)."""
    return np.linalg.qr(matrix)[0]


def numbers(where: str, value: Any) -> Array:
    """Return `value` as an array of finite real numbers; raise InputError for whatever else it is."""
    if np.ma.is_masked(value):
        raise InputError(
            f"{where} must be complete, got an array with masked entries; remove or impute those rows."
        )
    try:
        raw = np.asarray(value)
        if raw.dtype.kind not in "biufO":
            raise TypeError
        array = np.asarray(raw, dtype=float)
    except (TypeError, ValueError, OverflowError):
        kind = type(value).__name__ + (f" of {value.dtype}" if isinstance(value, np.ndarray) else "")
        raise InputError(f"{where} must be an array of numbers, got {kind}.") from None
    if array.ndim == 0:
        raise InputError(f"{where} must be an array, got the single value {value!r}.")
    if not np.isfinite(array).all():
        raise InputError(f"{where} must be finite, got NaN or infinity; remove or impute those rows.")
    return array


def _bases(estimate: Array, target: Array) -> tuple[Array, Array]:
    estimate, target = numbers("the estimated subspace", estimate), numbers("the target subspace", target)
    if estimate.ndim != 2 or target.ndim != 2 or len(estimate) != len(target):
        raise InputError(
            f"subspaces must be matrices with equally many rows, got shapes {estimate.shape} and {target.shape}."
        )
    return estimate, target


def subspace_distances(estimates: Array, targets: Array, order: Literal[2, "fro"] = 2) -> Array:
    """`subspace_distance`, or with order "fro" `subspace_distance_fro`, of stacks of bases, shape (…, dim, rank).

    The part of the target outside the estimate is, unlike an inverse cosine, exact down to rounding.
    """
    e, t = orthonormal(estimates), orthonormal(targets)
    transposed = e.swapaxes(-1, -2)
    outside = t - e @ (transposed @ t)
    outside = outside - e @ (transposed @ outside)
    distances = np.linalg.norm(outside, order, axis=(-2, -1))
    return np.asarray(np.minimum(1.0, distances) if order == 2 else distances)


def subspace_distance(estimate: Array, target: Array) -> float:
    """Return ‖(I − ÛÛᵀ)U‖, the sine of the largest principal angle, in [0, 1].

    Parameters
    ----------
    estimate, target : shape (dim, rank) and (dim, rank'), columns spanning the subspaces (any basis). With
        different ranks the value says how much of the target is missed.

    >>> subspace_distance(np.eye(3)[:, :1], np.eye(3)[:, 1:2])
    1.0
    """
    return float(subspace_distances(*_bases(estimate, target)))


def subspace_distance_fro(estimate: Array, target: Array) -> float:
    """Return ‖(I − ÛÛᵀ)U‖_F: root of the summed squared sines of the principal angles."""
    return float(subspace_distances(*_bases(estimate, target), order="fro"))


def as_rows(stack: Array) -> Array:
    """A stack (k, m, …) with the trailing axes flattened, shape (k, m, q); also when there are no rows (m = 0)."""
    return stack.reshape(*stack.shape[:2], math.prod(stack.shape[2:]))


def times_few(stack: Array, matrix: Array) -> Array:
    """X_i M for a stack of shape (k, m, d) and a matrix of few columns, shape (d, q); shape (k, m, q).

    A general matrix product repacks all of X to gain what a few columns never repay: column by column, while a
    user's rows are in the cache, is up to twice as fast.
    """
    if matrix.shape[1] > _FEW or stack[0].nbytes > CACHE_BYTES:
        return np.asarray(stack @ matrix)
    columns = np.ascontiguousarray(matrix.T)[:, :, None]
    return np.asarray(np.matmul(stack[:, None], columns)[..., 0].swapaxes(1, 2))


def least_squares(features: Array, targets: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Solve many small least-squares problems at once; minimum norm where a problem is rank deficient.

    Parameters
    ----------
    features : shape (k, m, q).
    targets : shape (k, m, t).

    Returns
    -------
    solution : shape (k, q, t).
    deficient : shape (k,), True where the features do not have full column rank.

    Normal equations with one step of refinement (Björck's corrected semi-normal equations); a problem whose
    Gram matrix is badly conditioned goes through the SVD.
    """
    transposed = features.swapaxes(1, 2)
    inverse, hard = _gram_inverses(features)
    solution = inverse @ (transposed @ targets)
    solution += inverse @ (transposed @ (targets - features @ solution))
    deficient = np.zeros(len(features), dtype=bool)
    if len(hard):
        solution[hard], deficient[hard] = minimum_norm(features[hard], targets[hard])
    return solution, deficient


def pseudo_inverses(features: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Pseudo-inverses F⁺, shape (k, q, m), of features F: F⁺y solves least squares, F F⁺ projects.

    The second value tells which features lack full column rank, shape (k,).
    """
    inverse, hard = _gram_inverses(features)
    pseudo = inverse @ features.swapaxes(1, 2)
    deficient = np.zeros(len(features), dtype=bool)
    if len(hard):
        unit = np.broadcast_to(np.eye(features.shape[1]), (len(hard), features.shape[1], features.shape[1]))
        pseudo[hard], deficient[hard] = minimum_norm(features[hard], unit)
    return pseudo, deficient


def _gram_inverses(features: Array) -> tuple[Array, NDArray[np.int64]]:
    """Inverses of FᵀF, shape (k, q, q), and which problems are too badly conditioned for them (there: zero)."""
    gram = features.swapaxes(1, 2) @ features
    try:
        inverse = np.linalg.inv(gram)
    except np.linalg.LinAlgError:  # one exactly singular matrix makes NumPy refuse all of them
        inverse = np.array([_inverse_or_zero(one) for one in gram])
    with np.errstate(over="ignore", invalid="ignore"):
        # the condition number, or a little more; not by the inverse's trace, which rounding can make cancel
        condition = np.einsum("kaa->k", gram) * np.abs(inverse).sum((1, 2))
        easy = (condition < _GRAM_CONDITION_LIMIT) & (condition > 0.0)
    hard = np.flatnonzero(~easy)
    if len(hard):
        inverse[hard] = 0.0
    return np.asarray(inverse, dtype=np.float64), hard


def _inverse_or_zero(matrix: Array) -> Array:
    try:
        return np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.zeros_like(matrix)


def minimum_norm(features: Array, targets: Array) -> tuple[Array, NDArray[np.bool_]]:
    """As `least_squares`, by the singular value decomposition: slower, accurate at any conditioning."""
    q = features.shape[2]
    if features.shape[1] == 0:
        return np.zeros((len(features), q, targets.shape[2])), np.ones(len(features), dtype=bool)
    left, values, right = np.linalg.svd(features, full_matrices=False)
    cutoff = max(features.shape[1:]) * np.finfo(float).eps * values[:, :1]
    keep = values > cutoff
    scaled = np.divide(1.0, values, out=np.zeros_like(values), where=keep)
    solution = right.swapaxes(1, 2) @ (scaled[:, :, None] * (left.swapaxes(1, 2) @ targets))
    return solution, keep.sum(1) < q


def pseudo_inverse(weight: Array) -> tuple[Array, bool]:
    """Inverse of a symmetric positive semi-definite matrix on its range, and whether it was singular."""
    values, vectors = np.linalg.eigh(weight)
    keep = values > max(float(values[-1]), 0.0) * len(values) * np.finfo(float).eps
    scaled = vectors[:, keep]
    return (scaled / values[keep]) @ scaled.T, not bool(keep.all())


class Solved(NamedTuple):
    """What conjugate gradients found.

    solution : shape of the right-hand side.
    singular : whether a direction without curvature was met.
    lengths, ratios : step lengths and residual ratios of the iterations, from which `softest` reads the spectrum.
    """

    solution: Array
    singular: bool
    lengths: list[float]
    ratios: list[float]

    @property
    def softest(self) -> float:
        """Smallest Ritz value: estimates, from above, the least eigenvalue of the preconditioned operator.

        0 when the system was singular, 1 (the expected value under a good preconditioner) without iterations.
        """
        if self.singular or not self.lengths:
            return 0.0 if self.singular else 1.0
        inverse, ratio = 1.0 / np.array(self.lengths), np.array(self.ratios[:-1])
        diagonal = inverse + np.concatenate([[0.0], ratio * inverse[:-1]])
        lanczos = np.diag(diagonal) + np.diag(np.sqrt(ratio) * inverse[:-1], -1)
        return float(np.linalg.eigvalsh(lanczos)[0])


def conjugate_gradients(
    normal: Callable[[Array], Array],
    right: Array,
    precondition: Callable[[Array], Array],
    tol: float,
    most: int | None = None,
) -> Solved:
    """Solve normal(P) = right by preconditioned conjugate gradients for an unknown of any shape.

    Parameters
    ----------
    normal : symmetric positive semi-definite operator.
    right : right-hand side in the operator's range, such as the gradient of a least-squares problem.
    precondition : approximate inverse of the operator, symmetric too.
    tol : relative residual, in the norm of the preconditioner, at which to stop; 0 goes on to rounding.
    most : most iterations; None: twice the number of unknowns.

    Starting from zero, the iterates stay in the range of the operator: the minimum-norm solution (in the
    preconditioned norm) when it is singular.
    """
    solution, residual = np.zeros_like(right), right.copy()
    direction = precondition(residual)
    size = start = float(np.vdot(residual, direction))
    steepest = 0.0
    lengths: list[float] = []
    ratios: list[float] = []
    for _ in range(2 * right.size + 10 if most is None else most):
        if size <= max(tol, 1e-15) ** 2 * start or size <= 0.0:
            break
        image = normal(direction)
        curvature, length = float(np.vdot(direction, image)), float(np.vdot(direction, direction))
        steepest = max(steepest, curvature / length)
        if curvature <= 1e-14 * steepest * length:
            return Solved(solution, True, lengths, ratios)
        step = size / curvature
        solution += step * direction
        residual -= step * image
        preconditioned = precondition(residual)
        size, old = float(np.vdot(residual, preconditioned)), size
        lengths.append(step)
        ratios.append(size / old)
        direction = preconditioned + ratios[-1] * direction
    return Solved(solution, False, lengths, ratios)


def bartlett(rng: np.random.Generator, degrees: NDArray[np.int64], dim: int) -> Array:
    """Draw the triangular QR factors of Gaussian matrices with `degrees[i]` rows and `dim` columns.

    Returns shape (k, dim, dim), upper triangular: χ_{n−j} on the diagonal, N(0, 1) above (Bartlett 1933). Rows
    beyond n are zero when n < dim. The cost does not depend on n.
    """
    freedom = np.asarray(degrees)[:, None] - np.arange(dim)
    factor = np.triu(rng.standard_normal((len(freedom), dim, dim)), 1)
    diagonal = np.sqrt(rng.chisquare(np.maximum(freedom, 1)))
    factor[:, np.arange(dim), np.arange(dim)] = diagonal
    factor *= (freedom > 0)[:, :, None]
    return factor


def spectral_norms(stack: Array) -> Array:
    """Largest singular values, shape (k,), of matrices, shape (k, a, b); 0 for matrices without entries."""
    return np.asarray(np.linalg.norm(stack, 2, axis=(1, 2))) if stack.size else np.zeros(len(stack))
