"""The kernel of every shared-subspace method: W_i = U C_i Vᵀ on one data set, one pass over the data a product.

A pass walks over blocks of users small enough for the cache and does everything with a block while it is there:
no temporary is ever as large as the data. Where users have small factorizations of their own (`evaluate`), a round
takes more users at a time, so that these are done together. Sensing is regression on vec(A_ij) with a
single response, so both designs share every line but the features of the cores.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from colora_theory.estimators.counting import Counting
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import (
    CACHE_BYTES,
    Array,
    Solved,
    as_rows,
    conjugate_gradients,
    pseudo_inverse,
    pseudo_inverses,
    times_few,
)

#: Cachefuls of covariates in a round: users enough for their factorizations to be batched, still near the cache.
_ROUND = 2
#: Bytes of data that stay in a last-level cache: one block, since more of them would only cost calls.
_NEAR = 1 << 23
#: Bytes of one user's covariates from which on the traffic of memory is what a product costs.
_HEAVY = 1 << 18
#: Relative accuracy of an inner solve down to which products may read single-precision covariates.
_COARSE = 1e-3
#: Largest rank for which sensing features come from one product with U ⊗ V.
_FLAT_RANK = 6


@dataclass(frozen=True, eq=False)
class Point:
    """One point (U, V) with its optimal cores: what a single pass over the data yields.

    Attributes
    ----------
    u, v : orthonormal, shapes (d, r1) and (p, r2).
    cores : shape (k, r1, r2), least squares given U and V.
    moments : X_iᵀ(residual of user i), shape (k, d, p).
    objective : sum of squared residuals of all users.
    deficient : shape (k,), users whose core is not unique.
    projections : where they were asked for, what the cores are fitted to, F of shape (k', m, q), and its
        pseudo-inverses F⁺, for each round of k' users: I − F F⁺ projects on what no core can explain.
    """

    u: Array
    v: Array
    cores: Array
    moments: Array
    objective: float
    deficient: Array
    counts: Array
    projections: list[tuple[Array, Array]] | None = None

    @cached_property
    def weights(self) -> Array:
        """U C_i Vᵀ, shape (k, d, p)."""
        return turned(times_each(self.u, self.cores), self.v)

    @cached_property
    def input_inverse(self) -> tuple[Array, bool]:
        """Inverse of Σ n_i C_iC_iᵀ, and whether it is singular.

        Over isotropic covariates that is the normal operator of the U step on average: the preconditioner.
        """
        return pseudo_inverse(weighted_square(self.counts, self.cores))

    @cached_property
    def output_inverse(self) -> tuple[Array, bool]:
        """Inverse of Σ n_i C_iᵀC_i, and whether it is singular: the same for the V step."""
        return pseudo_inverse(weighted_square(self.counts, self.cores.swapaxes(1, 2)))


class SharedModel:
    """Products of the model with one data set; the pretrained weight is subtracted once.

    Inexact inner solves on large users read a single-precision copy of the covariates, made by the first product
    that may: half the traffic, for half as much memory again. Objectives, gradients and cores never do, so the
    answer is that of double precision; only the way there is not.
    """

    def __init__(self, data: Dataset) -> None:
        self.k, self.d, self.p = data.num_users, data.dim_in, data.dim_out
        self.regression = data.design == "regression"
        m = data.covariates.shape[1]
        self.x = data.covariates.reshape(self.k, m, self.d if self.regression else self.d * self.p)
        self.y = data.residual_responses().reshape(self.k, m, self.p if self.regression else 1)
        self.counts = data.counts.astype(float)
        self.num_observations = data.num_observations
        self.energy = float(np.vdot(self.y, self.y))
        size = self.x.nbytes if self.x.nbytes <= _NEAR else CACHE_BYTES
        step = max(1, size // max(1, self.x[0].nbytes))
        #: Blocks of users that fit in the cache, and rounds of several blocks.
        self.blocks, self.rounds = self._cut(step), self._cut(_ROUND * step)
        self._single = np.empty(self.x.shape, np.float32) if self.x[0].nbytes >= _HEAVY else None
        self._copied = 0

    def with_responses(self, responses: Array) -> SharedModel:
        """The same covariates (not copied) with other responses, shape as `y`."""
        other = copy.copy(self)
        other.y, other.energy = responses, float(np.vdot(responses, responses))
        return other

    def _cut(self, step: int) -> list[slice]:
        return [slice(i, min(i + step, self.k)) for i in range(0, self.k, step)]

    # --- products: each is one pass over the data ---------------------------------------------------------

    def features(self, block: slice, u: Array, v: Array) -> Array:
        """Features of the cores' least squares: X_iU, or rows vec(UᵀA_ijV) for sensing."""
        x = self.x[block]
        k, m = x.shape[:2]
        if self.regression:
            return times_few(x, u)
        if u.shape[1] <= _FLAT_RANK:  # one product with U ⊗ V beats two thin ones
            return times_few(x, np.einsum("ab,cd->acbd", u, v).reshape(x.shape[2], -1))
        inner = (x.reshape(k * m * self.d, self.p) @ v).reshape(k, m, self.d, v.shape[1])
        return as_rows(np.matmul(u.T, inner))

    def rows(self, block: slice, coarse: bool) -> Any:
        """Covariates of some users; for a coarse product in single precision, once they are there."""
        if not coarse or self._single is None:
            return self.x[block]
        if block.start >= self._copied:
            self._single[block], self._copied = self.x[block], block.stop
            return self.x[block]  # which are in the cache
        return self._single[block]

    def predictions(self, block: slice, weights: Array, coarse: bool = False) -> Array:
        """Noiseless responses of weights of shape (k, d, columns), or (k, d, p) for sensing."""
        x, part = self.rows(block, coarse), weights[block]
        return np.asarray(
            x @ (part if self.regression else part.reshape(len(part), -1, 1)).astype(x.dtype, copy=False)
        )

    def adjoint(self, block: slice, residual: Array, coarse: bool = False) -> Array:
        """X_iᵀ r_i as matrices, shape (k, d, columns of r) or (k, d, p) for sensing."""
        x = self.rows(block, coarse)
        product = np.matmul(residual.swapaxes(1, 2).astype(x.dtype, copy=False), x)
        return product.swapaxes(1, 2) if self.regression else product.reshape(-1, self.d, self.p)

    def evaluate(self, u: Array, v: Array, *, ridge: float = 0.0, keep_features: bool = False) -> Point:
        """Best cores given (U, V), with residual moments and objective; `ridge` shrinks the cores."""
        r1, r2 = u.shape[1], v.shape[1]
        cores, moments = np.empty((self.k, r1, r2)), np.empty((self.k, self.d, self.p))
        deficient, objective = np.zeros(self.k, dtype=bool), 0.0
        projections = []
        for block in self.rounds:
            features, y = self.features(block, u, v), self.y[block]
            reduced = self._reduced(y, v)
            if ridge:
                solution = _ridge(features, reduced, ridge)
            else:
                inverse, deficient[block] = pseudo_inverses(features)
                solution = inverse @ reduced
                # refined: accurate at any allowed conditioning
                solution += inverse @ (reduced - features @ solution)
                if keep_features:
                    projections.append((features, inverse))
            residual = y - self._expanded(features @ solution, v)
            cores[block] = solution.reshape(-1, r1, r2)
            moments[block] = self.adjoint(block, residual)
            objective += float(np.vdot(residual, residual))
        return Point(u, v, cores, moments, objective, deficient, self.counts, projections or None)

    def _reduced(self, responses: Array, v: Array) -> Array:
        """Responses as the cores see them: Y V in the regression design (V = I spans everything)."""
        return responses @ v if self.regression and v.shape[1] < self.p else responses

    def _expanded(self, fitted: Array, v: Array) -> Array:
        """Fitted values of the cores as responses: F Vᵀ in the regression design."""
        return fitted @ v.T if self.regression and v.shape[1] < self.p else fitted

    def residual_moments(self, weights: Array) -> tuple[Array, float]:
        """Residual moments X_iᵀ(y_i − 𝒜_i(weights)), shape (k, d, p), and objective of given weights."""
        moments, objective = np.empty((self.k, self.d, self.p)), 0.0
        for block in self.blocks:
            residual = self.y[block] - self.predictions(block, weights)
            moments[block] = self.adjoint(block, residual)
            objective += float(np.vdot(residual, residual))
        return moments, objective

    def normal(self, weights: Array, coarse: bool = False) -> Array:
        """X_iᵀX_i applied to every user's weights, shape (k, d, columns)."""
        out = np.empty_like(weights)
        for block in self.blocks:
            out[block] = self.adjoint(block, self.predictions(block, weights, coarse), coarse)
        return out

    def projected_normal(self, weights: Array, point: Point, coarse: bool = False) -> Array:
        """X_iᵀ(I − Π_i)X_i applied to every user's weights; Π_i projects on the core's features at `point`."""
        assert point.projections is not None
        out = np.empty_like(weights)
        for number, (features, inverse) in enumerate(point.projections):
            first = self.rounds[number].start
            if coarse:
                features, inverse = features.astype(np.float32), inverse.astype(np.float32)
            for block in self.blocks[number * _ROUND : (number + 1) * _ROUND]:
                own = slice(block.start - first, block.stop - first)
                image = self.predictions(block, weights, coarse)
                explained = inverse[own] @ self._reduced(image, point.v)
                image -= self._expanded(features[own] @ explained, point.v)
                out[block] = self.adjoint(block, image, coarse)
        return out

    def solve(
        self,
        normal: Callable[[Array, bool], Array],
        right: Array,
        precondition: Callable[[Array], Array],
        tol: float,
        most: int | None = None,
        sure: bool = False,
    ) -> Solved:
        """Conjugate gradients for a system made of the products above, `normal(change, coarse)`.

        Coarse products serve a coarse `tol`; where they fail (values beyond single precision) exact ones follow.
        `sure`: `tol` is the accuracy of the solution, as the smallest Ritz value tells, not that of the residual.
        """
        if sure and tol > 0.0:
            solved = self.solve(normal, right, precondition, 0.1 * tol)
            if solved.softest >= 0.1 or solved.singular:
                return solved
            tol *= solved.softest
        if tol >= _COARSE and self._single is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                solved = conjugate_gradients(lambda p: normal(p, True), right, precondition, tol, most)
            if not solved.singular and np.isfinite(solved.solution).all():
                return solved
        return conjugate_gradients(lambda p: normal(p, False), right, precondition, tol, most)

    # --- block steps --------------------------------------------------------------------------------------

    def solve_input(self, point: Point, moments: Array, tol: float, *, sure: bool = False) -> tuple[Array, bool]:
        """Change of U that minimises the objective for the point's cores and V; `tol` and `sure` as in `solve`.

        `moments` are the residual moments, the point's own or those of other data. Returns the change, shape
        (d, r1), and whether the normal equations turned out singular.
        """
        cores, v = point.cores, point.v
        reduce = self.regression and v.shape[1] < self.p  # V is orthonormal: its p outputs reduce to r2

        def normal(change: Array, coarse: bool) -> Array:
            if reduce:
                return sum_products(self.normal(times_each(change, cores), coarse), cores)
            image = self.normal(turned(times_each(change, cores), v), coarse)
            return sum_products(image if v.shape[1] == self.p else image @ v, cores)

        inverse, flat = point.input_inverse
        right = sum_products(moments if v.shape[1] == self.p else moments @ v, cores)
        solved = self.solve(normal, right, lambda p: p @ inverse, tol, sure=sure)
        return solved.solution, solved.singular or flat

    def solve_output(
        self, u: Array, cores: Array, v: Array, tol: float, *, sure: bool = False
    ) -> tuple[Array, float, bool]:
        """Change of V for given U and cores, the objective before the step, and whether it was singular."""
        if self.regression:
            rank = v.shape[1]
            gram, right, objective = np.zeros((rank, rank)), np.zeros((rank, self.p)), 0.0
            for block in self.blocks:
                fitted, y = self.features(block, u, v) @ cores[block], self.y[block]
                residual = y - fitted @ v.T
                gram += np.tensordot(fitted, fitted, axes=([0, 1], [0, 1]))
                right += np.tensordot(fitted, residual, axes=([0, 1], [0, 1]))
                objective += float(np.vdot(residual, residual))
            inverse, flat = pseudo_inverse(gram)
            return (inverse @ right).T, objective, flat
        side = u @ cores
        moments, objective = self.residual_moments(np.matmul(side, v.T))

        def normal(change: Array, coarse: bool) -> Array:
            image = self.normal(np.matmul(side, change.T), coarse)
            return sum_products(image.swapaxes(1, 2), side.swapaxes(1, 2))

        inverse, flat = pseudo_inverse(weighted_square(self.counts, cores.swapaxes(1, 2)))
        right = sum_products(moments.swapaxes(1, 2), side.swapaxes(1, 2))
        solved = self.solve(normal, right, lambda p: p @ inverse, tol, sure=sure)
        return solved.solution, objective, solved.singular or flat


def turned(stack: Array, v: Array) -> Array:
    """S_i Vᵀ; V = I, spanning all outputs, costs nothing."""
    return stack if v.shape[1] == len(v) else np.matmul(stack, v.T)


def weighted_square(weights: Array, stack: Array) -> Array:
    """Σ_i w_i S_iS_iᵀ of a stack of shape (k, a, b); shape (a, a)."""
    flat = stack.transpose(1, 0, 2)
    return (flat * weights[:, None]).reshape(len(flat), -1) @ flat.reshape(len(flat), -1).T


def times_each(matrix: Array, stack: Array) -> Array:
    """M S_i for a matrix of shape (a, b) and a stack of shape (k, b, c); shape (k, a, c)."""
    if stack.shape[2] == 1:
        return (stack[:, :, 0] @ matrix.T)[:, :, None]
    return np.matmul(matrix, stack)


def sum_products(left: Array, right: Array) -> Array:
    """Σ_i L_i R_iᵀ for stacks of shape (k, a, c) and (k, b, c); shape (a, b)."""
    if left.shape[2] == 1:
        return left[:, :, 0].T @ right[:, :, 0]
    flat = left.transpose(1, 0, 2).reshape(left.shape[1], -1)  # as np.tensordot, without its overhead
    return flat @ right.transpose(0, 2, 1).reshape(-1, right.shape[1])


def _ridge(features: Array, targets: Array, penalty: float) -> Array:
    transposed = features.swapaxes(1, 2)
    gram = transposed @ features + penalty * np.eye(features.shape[2])
    return np.asarray(np.linalg.solve(gram, transposed @ targets), dtype=np.float64)


def degrees_of_freedom(model: SharedModel, cores: Array) -> int:
    """Free parameters of the shared model at the rank of some cores."""
    _, r1, r2 = cores.shape
    return Counting(model.d, model.p, r1, r2, model.counts, model.regression).degrees_of_freedom


def statistical_error(model: SharedModel, point: Point) -> float:
    """Large-sample root mean square (Frobenius) distance of the estimated subspaces, from the residuals.

    σ̂² [(d − r1) tr(Σ n_i C_iC_iᵀ)⁻¹ + (p − r2) tr(Σ n_i C_iᵀC_i)⁻¹]; 0 when no observation is left over to
    estimate σ² from.
    """
    cores = point.cores
    left = model.num_observations - degrees_of_freedom(model, cores)
    if left <= 0:
        return 0.0
    spread = (model.d - cores.shape[1]) * np.trace(point.input_inverse[0])
    if cores.shape[2] < model.p:
        spread += (model.p - cores.shape[2]) * np.trace(point.output_inverse[0])
    return float(np.sqrt(point.objective / left * spread))
