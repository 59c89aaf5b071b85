"""Gauss–Newton on the Grassmannians of U and V, the cores eliminated (variable projection)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.estimators.base import register
from colora_theory.estimators.descent import Run, SharedDescent
from colora_theory.estimators.shared_model import Point, SharedModel, sum_products
from colora_theory.linalg import Array, conjugate_gradients

#: Most inner iterations of one step: near the counting threshold an exact step costs more than it brings.
_MOST_INNER = 60


@register
@dataclass(frozen=True, kw_only=True)
class GaussNewton(SharedDescent):
    """Gauss–Newton for U and V jointly, with every user's core eliminated (variable projection).

    Model, objective   Those of `altmin`.
    Algorithm   With Π_i the projector on the features of user i's core and r_i its residual, the step minimises
                Σ_i ‖r_i − (I − Π_i) 𝒜_i(δU C_i Vᵀ + U C_i δVᵀ)‖² by conjugate gradients, preconditioned by
                (Σ n_i C_iC_iᵀ)⁻¹ ⊗ I for U and (Σ n_i C_iᵀC_i)⁻¹ ⊗ I for V. Directions inside the present
                subspaces lie in the range of Π_i; they are projected out against rounding. The inner
                accuracy follows the expected length of the step, so that noiseless errors square from step to
                step; the step is halved until the objective falls.
    Cost        One pass for the point and one per inner iteration, O(N d (r + p)) each.
    Source      Golub & Pereyra 1973 (variable projection, Kaufman's simplification); Luo & Zhang 2021
                (arXiv 2104.12031) for the local quadratic convergence of Riemannian Gauss–Newton.
    """

    name: ClassVar[str] = "gauss_newton"
    KEEP_FEATURES: ClassVar[bool] = True

    def sweep(self, run: Run) -> tuple[Array, Array, bool]:
        """One Gauss–Newton step with backtracking; the new point becomes the run's present one."""
        model, old = run.model, run.point
        change_u, change_v, singular = gauss_newton_step(model, old, run.inner_tolerance)
        for halvings in range(8):
            scale = 0.5**halvings
            u = np.linalg.qr(old.u + scale * change_u)[0]
            v = old.v if change_v is None else np.linalg.qr(old.v + scale * change_v)[0]
            point = model.evaluate(u, v, keep_features=True)
            if point.objective <= old.objective:
                run.arrive(point)
                return point.u, point.v, singular
        return old.u, old.v, singular  # no descent left: the point is stationary to rounding


def gauss_newton_step(
    model: SharedModel, point: Point, accuracy: Callable[[float], float]
) -> tuple[Array, Array | None, bool]:
    """Changes of U and of V (None when V spans the output space), and whether the system was singular.

    `accuracy` says how small a relative residual the inner solve should leave, given the length of the
    preconditioned gradient, which estimates the length of the step itself: with the identity an error e is
    followed by one of order e².
    """
    u, v, cores = point.u, point.v, point.cores
    shared_output = v.shape[1] < model.p
    cut = u.size
    side = (u @ cores).swapaxes(1, 2)
    core_rows = np.matmul(v, cores.swapaxes(1, 2)).swapaxes(1, 2)  # C_i Vᵀ, shape (k, r1, p)
    inverse_u, flat = point.input_inverse
    inverse_v = np.empty((0, 0))
    if shared_output:
        inverse_v, other = point.output_inverse
        flat |= other

    def gather(moments: Array) -> Array:
        parts = [_outside(u, sum_products(moments, core_rows)).ravel()]
        if shared_output:
            parts.append(_outside(v, sum_products(moments.swapaxes(1, 2), side)).ravel())
        return np.concatenate(parts)

    def normal(change: Array) -> Array:
        weights = np.matmul(change[:cut].reshape(u.shape), core_rows)
        if shared_output:
            weights += np.matmul(change[cut:].reshape(v.shape), side).swapaxes(1, 2)
        return gather(model.projected_normal(weights, point))

    def precondition(change: Array) -> Array:
        parts = [(change[:cut].reshape(u.shape) @ inverse_u).ravel()]
        if shared_output:
            parts.append((change[cut:].reshape(v.shape) @ inverse_v).ravel())
        return np.concatenate(parts)

    right = gather(point.moments)
    tol = accuracy(float(np.linalg.norm(precondition(right))))
    change, singular = conjugate_gradients(normal, right, precondition, tol, _MOST_INNER)
    change_v = change[cut:].reshape(v.shape) if shared_output else None
    return change[:cut].reshape(u.shape), change_v, singular or flat


def _outside(basis: Array, matrix: Array) -> Array:
    """Part of the columns outside the span of `basis`."""
    return matrix - basis @ (basis.T @ matrix)
