"""Large-sample standard errors of least-squares estimates, from the realised design."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from colora_theory.estimators.shared_model import SharedModel, degrees_of_freedom
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array


def of_least_squares(data: Dataset, changes: Array) -> Array:
    """Standard errors of every user's own least squares, shape (k, d, p): exact given the covariates.

    σ̂² diag((X_iᵀX_i)⁻¹), σ̂² from the residuals of all users who leave any. Infinite where a user's covariates do
    not determine the weight, NaN when no user leaves a residual.
    """
    model = SharedModel(data)
    q = model.x.shape[2]
    error = np.full((model.k, q), np.inf)
    squares, left = 0.0, 0.0
    for i in range(model.k):
        values, right = np.linalg.svd(model.x[i], full_matrices=False)[1:]
        clear = values > values.max(initial=0.0) * max(model.x.shape[1:]) * np.finfo(float).eps
        own = changes[i].reshape(q, -1)
        squares += float(((model.y[i] - model.x[i] @ own) ** 2).sum())
        left += max(float(model.counts[i]) - int(clear.sum()), 0.0) * model.y.shape[2]
        if clear.sum() == q:
            error[i] = ((right / values[:, None]) ** 2).sum(0)
    variance = squares / left if left else np.nan
    columns = error[:, :, None] if model.regression else error.reshape(model.k, model.d, model.p)
    return np.sqrt(variance * np.broadcast_to(columns, (model.k, model.d, model.p)))


def of_shared_model(data: Dataset, u: Array, v: Array, cores: Array) -> Array:
    """Standard errors of the weights U C_i Vᵀ, shape (k, d, p): the Cramér–Rao level at the estimate.

    σ̂² diag(D (JᵀJ)⁺ Dᵀ), J and D the Jacobians of all responses and of the weights in (U, V, cores), the cores
    eliminated user by user; σ̂² from the residuals. NaN when no observation is left over. For many samples or
    little noise: the model's curvature is not in it. Cost O(k (n p + d p) s²), s = d r1 + p r2 shared numbers.
    """
    design = Design(data, u, v, cores)
    k = len(cores)
    left = design.model.num_observations - degrees_of_freedom(design.model, cores)
    if left <= 0:
        return np.full((k, len(u), len(v)), np.nan)
    total, squares = design.total(range(k))
    covariance = np.linalg.pinv(total, rcond=1e-10, hermitian=True)
    variance = np.empty((k, len(u) * len(v)))
    for i in range(k):
        of_shared, _, seen, pseudo = design.jacobians(i)
        moved = of_shared - design.of_core @ (pseudo @ seen)
        variance[i] = ((moved @ covariance) * moved).sum(1) + ((design.of_core @ pseudo) ** 2).sum(1)
    return np.sqrt(squares / left * np.maximum(variance, 0.0)).reshape(k, len(u), len(v))


class Design:
    """Jacobians of the responses at one point (U, V, cores), user by user."""

    def __init__(self, data: Dataset, u: Array, v: Array, cores: Array) -> None:
        self.model, self.u, self.v, self.cores = SharedModel(data), u, v, cores
        r1, r2 = cores.shape[1:]
        self.of_core = np.einsum("ab,oc->aobc", u, v).reshape(len(u) * len(v), r1 * r2)

    def jacobians(self, i: int) -> tuple[Array, Array, Array, Array]:
        """User i's weight by shared numbers, rows, responses by shared numbers, and inverse of core features."""
        d, p, cores, v = len(self.u), len(self.v), self.cores[i], self.v
        of_shared = np.einsum("ae,bo->aoeb", np.eye(d), cores @ v.T).reshape(d * p, -1)
        if cores.shape[1] < p:
            side = np.einsum("ac,oe->aoec", self.u @ cores, np.eye(p)).reshape(d * p, -1)
            of_shared = np.concatenate([of_shared, side], axis=1)
        x = self.model.x[i]
        if self.model.regression:
            x = np.einsum("na,op->noap", x, np.eye(p)).reshape(-1, d * p)
        return of_shared, x, x @ of_shared, np.linalg.pinv(x @ self.of_core)

    def information(self, i: int) -> tuple[Array, float]:
        """What user i tells about the shared numbers, its core eliminated, and its squared residual."""
        _, x, seen, pseudo = self.jacobians(i)
        kept = seen - x @ (self.of_core @ (pseudo @ seen))
        missed = self.model.y[i].ravel() - x @ (self.u @ self.cores[i] @ self.v.T).ravel()
        return kept.T @ kept, float(missed @ missed)

    def total(self, users: Iterable[int]) -> tuple[Array, float]:
        """Sums of both over some users."""
        parts = [self.information(i) for i in users]
        return np.sum([part[0] for part in parts], axis=0), float(sum(part[1] for part in parts))
