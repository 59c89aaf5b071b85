"""Gauss–Newton on the Grassmannians of U and V, the cores eliminated (variable projection)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.estimators import stacked_descent
from colora_theory.estimators.base import StackedFit, register
from colora_theory.estimators.descent import Run, SharedDescent
from colora_theory.estimators.shared_model import Point, SharedModel, sum_products, times_each, turned
from colora_theory.estimators.stacked_descent import MOST_INNER
from colora_theory.model.linalg import Array, Solved
from colora_theory.model.moments import Moments


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
                step; the step is halved until the objective falls. The distance to the limit, for the stop rule,
                is the length of the preconditioned gradient over the smallest Ritz value of the last solve; where
                samples are few, the steps shorten slowly, or that length is doubtful, two exact sweeps are asked
                as well.
    Cost        One pass for the point and one per inner iteration, O(N d (r + p)) each.
    Source      Golub & Pereyra 1973 (variable projection, Kaufman's simplification); Luo & Zhang 2021
                (arXiv 2104.12031) for the local quadratic convergence of Riemannian Gauss–Newton.
    """

    name: ClassVar[str] = "gauss_newton"
    KEEP_FEATURES: ClassVar[bool] = True
    DOUBTED: ClassVar[float] = 3.0

    noise_tol: float = 0.1  # its distance to the limit is known better, and rather over- than underestimated

    def sweep(self, run: Run) -> tuple[Array, Array, bool]:
        """One Gauss–Newton step with backtracking; the new point becomes the run's present one."""
        model, old = run.model, run.point
        system = NewtonSystem(model, old)
        solved = system.solve(run.inner_tolerance(system.expected))
        change_u, change_v = system.parts(solved.solution)
        singular = solved.singular or system.flat
        for halvings in range(8):
            scale = 0.5**halvings
            u = np.linalg.qr(old.u + scale * change_u)[0]
            v = old.v if change_v is None else np.linalg.qr(old.v + scale * change_v)[0]
            point = model.evaluate(u, v, keep_features=True)
            if point.objective <= old.objective:
                run.arrive(point)
                if not singular and halvings == 0:
                    run.distance_left = NewtonSystem(model, point).expected / solved.softest
                return point.u, point.v, singular
        return old.u, old.v, singular  # no descent left: the point is stationary to rounding

    def fit_stacked(self, data: Moments) -> StackedFit | None:
        """Estimate subspaces and cores in many trials."""
        return stacked_descent.descend(self, data, stacked_descent.newton_step)


class NewtonSystem:
    """The Gauss–Newton equations of (U, V) at one point.

    Attributes
    ----------
    right : right-hand side (minus half the gradient), flat.
    core_rows, side : C_i Vᵀ, shape (k, r1, p), and (U C_i)ᵀ, shape (k, r2, d).
    expected : length of the preconditioned right-hand side, which estimates the length of the step.
    flat : whether the preconditioner itself is singular.
    """

    def __init__(self, model: SharedModel, point: Point) -> None:
        self.model, self.point = model, point
        u, v, cores = point.u, point.v, point.cores
        self.shared_output = v.shape[1] < model.p
        self.core_rows = turned(cores, v)
        self.inverse_u, self.flat = point.input_inverse
        if self.shared_output:
            self.side = times_each(u, cores).swapaxes(1, 2)
            self.inverse_v, other = point.output_inverse
            self.flat |= other
        self.right = self._gather(point.moments)
        self.expected = float(np.linalg.norm(self._precondition(self.right)))

    def solve(self, tol: float) -> Solved:
        """Conjugate gradients to the relative residual `tol`."""
        return self.model.solve(self._normal, self.right, self._precondition, tol, MOST_INNER)

    def parts(self, change: Array) -> tuple[Array, Array | None]:
        """Changes of U and of V (None when V spans the output space), shapes (d, r1) and (p, r2)."""
        u, v = self.point.u, self.point.v
        change_v = change[u.size :].reshape(v.shape) if self.shared_output else None
        return change[: u.size].reshape(u.shape), change_v

    def _joined(self, part_u: Array, part_v: Array | None) -> Array:
        return part_u.ravel() if part_v is None else np.concatenate([part_u.ravel(), part_v.ravel()])

    def _gather(self, moments: Array) -> Array:
        part_v = None
        if self.shared_output:
            part_v = _outside(self.point.v, sum_products(moments.swapaxes(1, 2), self.side))
        return self._joined(_outside(self.point.u, sum_products(moments, self.core_rows)), part_v)

    def _normal(self, change: Array, coarse: bool) -> Array:
        change_u, change_v = self.parts(change)
        weights = times_each(change_u, self.core_rows)
        if change_v is not None:
            weights += times_each(change_v, self.side).swapaxes(1, 2)
        return self._gather(self.model.projected_normal(weights, self.point, coarse))

    def _precondition(self, change: Array) -> Array:
        change_u, change_v = self.parts(change)
        return self._joined(change_u @ self.inverse_u, None if change_v is None else change_v @ self.inverse_v)


def _outside(basis: Array, matrix: Array) -> Array:
    """Part of the columns outside the span of `basis`."""
    return matrix - basis @ (basis.T @ matrix)
