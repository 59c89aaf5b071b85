"""The shared model on the moments of many small data sets at once: one array program instead of many small ones.

The counterpart of `shared_model` for problems whose arithmetic takes less time than calling it. Trials are an
axis of their own, first everywhere; all outputs are shared (V = I). What is not well conditioned is flagged, not
mended: such trials are left to the ordinary code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colora_theory.model.linalg import Array
from colora_theory.model.moments import Moments

#: Condition number of small matrices up to which a trial is well conditioned.
_CONDITION: Final = 2e3
#: Share of the responses' energy that a fit must leave for its objective to be known well from moments.
_LEAST: Final = 1e-5


@dataclass(frozen=True, eq=False)
class StackedPoint:
    """Every trial's U with its optimal cores, as `shared_model.Point`.

    u : shape (t, d, r). images : X_iᵀX_iU, shape (t, k, d, r). inverses : (UᵀX_iᵀX_iU)⁻¹, shape (t, k, r, r).
    cores : shape (t, k, r, p). moments : X_iᵀ(residual of user i), shape (t, k, d, p). objective : shape (t,).
    clear : whether the trial is well conditioned, shape (t,).
    """

    data: Moments
    u: Array
    images: Array
    inverses: Array
    cores: Array
    moments: Array
    objective: Array
    solved: NDArray[np.bool_]

    def take(self, trials: Any) -> StackedPoint:
        """Return the points of some trials (indices or mask)."""
        parts = (getattr(self, each.name)[trials] for each in fields(self) if each.name != "data")
        return StackedPoint(self.data.take(trials), *parts)

    @cached_property
    def input_inverse(self) -> tuple[Array, NDArray[np.bool_]]:
        """Inverse of Σ n_i C_iC_iᵀ, shape (t, r, r), and whether it is well conditioned, shape (t,)."""
        weighted = self.cores * self.data.counts[:, None, None]
        return inverses_of(_users_last(weighted) @ _users_last(self.cores).swapaxes(1, 2))

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Trials that are well conditioned, shape (t,)."""
        return self.solved & self.input_inverse[1]

    @cached_property
    def weights(self) -> Array:
        """U C_i, shape (t, k, d, p)."""
        t, k, r, p = self.cores.shape
        rows = self.cores.swapaxes(2, 3).reshape(t, k * p, r) @ self.u.swapaxes(1, 2)
        return np.asarray(rows.reshape(t, k, p, -1).swapaxes(2, 3))

    @cached_property
    def gradient(self) -> Array:
        """Σ_i X_iᵀ(residual) C_iᵀ: minus half the gradient in U, shape (t, d, r)."""
        return np.asarray(_users_last(self.moments) @ _users_last(self.cores).swapaxes(1, 2))

    def operator(self, projected: bool = False) -> Array:
        """Normal equations of U for these cores, Σ_i C_iC_iᵀ ⊗ X_iᵀX_i, shape (t, r d, r d).

        `projected`: with X_iᵀ(I − Π_i)X_i instead, Π_i the projector on the features X_iU.
        """
        squares = self.data.squares
        if projected:
            squares = squares - (self.images @ self.inverses) @ self.images.swapaxes(2, 3)
        (t, k, d, _), r = squares.shape, self.u.shape[2]
        rows, columns = np.triu_indices(r)
        products = np.einsum("tkqp,tkqp->tqk", self.cores[:, :, rows], self.cores[:, :, columns])
        half = (products @ squares.reshape(t, k, d * d)).reshape(t, len(rows), d, d)
        whole = np.empty((t, r, d, r, d))
        for q, (a, b) in enumerate(zip(rows, columns, strict=True)):
            whole[:, a, :, b] = half[:, q]
            if a != b:
                whole[:, b, :, a] = half[:, q]
        return whole.reshape(t, r * d, r * d)


def evaluate(data: Moments, u: Array) -> StackedPoint:
    """Best cores given every trial's U, with residual moments and objective."""
    t, k, d, _ = data.squares.shape
    r = u.shape[2]
    images = (data.squares.reshape(t, k * d, d) @ u).reshape(t, k, d, r)
    squares = (images.swapaxes(2, 3).reshape(t, k * r, d) @ u).reshape(t, k, r, r)
    squares = 0.5 * (squares + squares.swapaxes(2, 3))
    inverses, clear = inverses_of(squares)
    cross = data.cross
    p = cross.shape[3]
    reduced = (cross.swapaxes(2, 3).reshape(t, k * p, d) @ u).reshape(t, k, p, r).swapaxes(2, 3)
    cores = inverses @ reduced
    left = reduced - squares @ cores
    cores += inverses @ left
    left = reduced - squares @ cores
    objective = data.energy - np.einsum("tkrp,tkrp->t", cores, reduced + left)
    moments = cross - images @ cores
    solved = clear.all(1) & (objective > _LEAST * data.energy)
    return StackedPoint(data, u, images, inverses, cores, moments, objective, solved)


class StackedSolution(NamedTuple):
    """What conjugate gradients found, as `linalg.Solved`, for every trial.

    solution : shape (t, d, r). sound : whether there was curvature in every direction and the end beyond doubt.
    lengths, ratios : step lengths and residual ratios of the iterations; NaN where a trial had ended.
    """

    solution: Array
    sound: NDArray[np.bool_]
    lengths: list[Array]
    ratios: list[Array]

    @property
    def softest(self) -> Array:
        """Smallest Ritz value, as `linalg.Solved.softest`, shape (t,)."""
        if not self.lengths:
            return np.ones(len(self.solution))
        inverse = 1.0 / np.array(self.lengths).T
        ratio, taken = np.array(self.ratios).T[:, :-1], np.isfinite(inverse)
        diagonal = inverse.copy()
        diagonal[:, 1:] += ratio * inverse[:, :-1]
        at = np.arange(inverse.shape[1])
        lanczos = np.zeros((*inverse.shape, len(at)))
        # iterations that a trial did not take are no Ritz values: they come after all others
        last = 2.0 * np.where(taken, diagonal, 0.0).max(1, keepdims=True) + 1.0
        lanczos[:, at, at] = np.where(taken, diagonal, last)
        lanczos[:, at[1:], at[:-1]] = np.where(taken[:, 1:], np.sqrt(ratio) * inverse[:, :-1], 0.0)
        # one trial that is not finite would end the others' too
        lanczos[~np.isfinite(lanczos).all((1, 2))] = np.eye(len(at))
        return np.where(taken.any(1), np.linalg.eigvalsh(lanczos)[:, 0], 1.0)


def conjugate_gradients(operator: Array, right: Array, inverse: Array, tol: Array, most: int) -> StackedSolution:
    """Solve every trial's operator(P) = right, preconditioned by P ↦ P · inverse, as `linalg.conjugate_gradients`.

    operator : shape (t, r d, r d). right : shape (t, d, r). inverse : shape (t, r, r). tol : shape (t,).
    """
    t, d, r = right.shape
    solution, residual = np.zeros_like(right), right.copy()
    direction = residual @ inverse
    size = _dots(residual, direction)
    goal = np.maximum(tol, 1e-15) ** 2 * size
    sound, steepest = size > 0.0, np.zeros(t)
    lengths: list[Array] = []
    ratios: list[Array] = []
    for _ in range(most):
        going = size > goal
        sound &= np.abs(size - goal) > 1e-8 * goal
        if not going.any():
            break
        image = operator @ direction.swapaxes(1, 2).reshape(t, r * d, 1)
        image = image.reshape(t, r, d).swapaxes(1, 2)
        curvature, length = _dots(direction, image), _dots(direction, direction)
        steepest = np.maximum(steepest, curvature / length)
        sound &= ~going | (curvature > 1e-12 * steepest * length)
        step = np.where(going, size / curvature, 0.0)
        solution += step[:, None, None] * direction
        residual -= step[:, None, None] * image
        preconditioned = residual @ inverse
        size, old = np.where(going, _dots(residual, preconditioned), size), size
        ratio = size / old
        lengths.append(np.where(going, step, np.nan))
        ratios.append(np.where(going, ratio, np.nan))
        direction = preconditioned + ratio[:, None, None] * direction
    return StackedSolution(solution, sound, lengths, ratios)


def inverses_of(stack: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Inverses of positive definite matrices, shape (…, q, q), and which are well conditioned, shape (…).

    Gauss–Jordan elimination, a step for all matrices at once.
    """
    q = stack.shape[-1]
    a = np.array(np.moveaxis(stack.reshape(-1, q, q), 0, 2), order="C")  # a copy: elimination is in place
    trace = np.einsum("aan->n", a)
    for j in range(q):
        pivot = 1.0 / a[j, j]
        row, column = a[j] * pivot, a[:, j].copy()
        a -= column[:, None] * row
        a[j], a[:, j] = row, -column * pivot
        a[j, j] = pivot
    clear = trace * np.abs(a).sum((0, 1)) < _CONDITION
    return np.ascontiguousarray(np.moveaxis(a, 2, 0)).reshape(stack.shape), clear.reshape(stack.shape[:-2])


def _users_last(stack: Array) -> Array:
    """(t, k, a, p) as (t, a, k p)."""
    t, k, a, p = stack.shape
    return np.ascontiguousarray(stack.swapaxes(1, 2)).reshape(t, a, k * p)


def _dots(left: Array, right: Array) -> Array:
    return np.einsum("tdr,tdr->t", left, right)
