"""Large-sample standard errors of least-squares estimates, from the realised design."""

from __future__ import annotations

import numpy as np

from colora_theory.estimators.shared_model import SharedModel
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
    eliminated user by user; σ̂² from the residuals. NaN when no observation is left over. For many samples or little
    noise: the curvature of the model is not in it. Cost O(k (n p + d p) s²), s = d r1 + p r2 the shared numbers.
    """
    model = SharedModel(data)
    (k, r1, r2), d, p = cores.shape, model.d, model.p
    free_v = r2 < p
    shared = d * r1 + (p * r2 if free_v else 0)
    total, squares = np.zeros((shared, shared)), 0.0
    of_core = np.einsum("ab,oc->aobc", u, v).reshape(d * p, r1 * r2)

    def jacobians(i: int) -> tuple[Array, Array, Array, Array]:
        """Of user i: of the weight in the shared numbers, the responses' rows, their Jacobian, the cores' inverse."""
        of_shared = np.einsum("ae,bo->aoeb", np.eye(d), cores[i] @ v.T).reshape(d * p, d * r1)
        if free_v:
            side = np.einsum("ac,oe->aoec", u @ cores[i], np.eye(p)).reshape(d * p, p * r2)
            of_shared = np.concatenate([of_shared, side], axis=1)
        x = model.x[i]
        if model.regression:
            x = np.einsum("na,op->noap", x, np.eye(p)).reshape(-1, d * p)
        return of_shared, x, x @ of_shared, np.linalg.pinv(x @ of_core)

    for i in range(k):
        _, x, seen, pseudo = jacobians(i)
        kept = seen - x @ (of_core @ (pseudo @ seen))
        total += kept.T @ kept
        squares += float(((model.y[i].ravel() - x @ (u @ cores[i] @ v.T).ravel()) ** 2).sum())
    left = model.num_observations - (k * r1 * r2 + r1 * (d - r1) + r2 * (p - r2))
    if left <= 0:
        return np.full((k, d, p), np.nan)
    covariance = np.linalg.pinv(total, rcond=1e-10, hermitian=True)
    variance = np.empty((k, d * p))
    for i in range(k):
        of_shared, _, seen, pseudo = jacobians(i)
        moved = of_shared - of_core @ (pseudo @ seen)
        variance[i] = ((moved @ covariance) * moved).sum(1) + ((of_core @ pseudo) ** 2).sum(1)
    return np.sqrt(squares / left * np.maximum(variance, 0.0)).reshape(k, d, p)
