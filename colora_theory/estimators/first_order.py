"""A first-order method on the factors themselves: limited-memory quasi-Newton from a random start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy

from colora_theory.errors import InputError
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.ranks import resolve_rank
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array


@register
@dataclass(frozen=True, kw_only=True)
class FirstOrder(Estimator):
    """L-BFGS on the factorised squared loss with a penalty that balances the factors, from a random start.

    Model       W_i = W_0 + B v_i, one output; B is d × r, not orthonormal.
    Objective   1/(2N) Σ_i ‖y_i − X_i B v_i‖² + balance ‖BᵀB − Σ_i v_iv_iᵀ‖_F².
    Algorithm   L-BFGS (SciPy) from independent standard normal entries, until the objective falls by less than
                `tol` relative to its size, or no entry of the gradient exceeds `gradient_tol`. SciPy's own
                tolerances, the defaults here, end early; zeros run it to the end.
    Cost        One pass over the data per iteration; users with more than d samples enter by their Gram matrix.
    Source      Tripuraneni, Jin & Jordan 2021 (arXiv 2002.11684), section on experiments.

    Parameters
    ----------
    rank : r. max_sweeps : most iterations. balance : weight of the penalty (1/8 in the source).
    tol, gradient_tol : as above.
    """

    name: ClassVar[str] = "first_order"

    rank: int | tuple[int, int] | None = None
    tol: float = 2.220446049250313e-09
    gradient_tol: float = 1e-5
    max_sweeps: int = 1000
    balance: float = 0.125

    def __post_init__(self) -> None:
        for name in ("tol", "gradient_tol", "balance"):
            check_real(name, getattr(self, name))
        check_integer("max_sweeps", self.max_sweeps, 1)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate B and all v_i; `rng` draws the start."""
        rank, _ = resolve_rank(self.rank, data)
        if data.design != "regression" or data.dim_out != 1:
            raise InputError(f"first_order needs the vector model (dim_out = 1), got dim_out = {data.dim_out}.")
        if rng is None:
            raise InputError("first_order starts at random; pass rng.")
        k, d = data.num_users, data.dim_in
        slopes = _slopes(data)
        total = max(float(data.counts.sum()), 1.0)

        def loss(flat: Array) -> tuple[float, Array]:
            b, v = flat[: d * rank].reshape(d, rank), flat[d * rank :].reshape(k, rank)
            squares, slope = slopes(v @ b.T)
            skew = b.T @ b - v.T @ v
            value = squares / (2.0 * total) + self.balance * float((skew**2).sum())
            down = slope.T @ v / total + 4.0 * self.balance * b @ skew
            inner = slope @ b / total - 4.0 * self.balance * v @ skew
            return value, np.concatenate([down.ravel(), inner.ravel()])

        start = rng.standard_normal((d + k) * rank)
        options = {"maxiter": self.max_sweeps, "ftol": self.tol, "gtol": self.gradient_tol, "maxfun": 10**9}
        found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)  # type: ignore[call-overload]  # stubs know no options of a method
        b, v = found.x[: d * rank].reshape(d, rank), found.x[d * rank :].reshape(k, rank)
        u, triangle = np.linalg.qr(b)
        stopped = int(found.nit) >= self.max_sweeps
        return Fit(
            status="stopped" if stopped else "converged",
            message=f"max_sweeps = {self.max_sweeps} reached before the stop rule." if stopped else "",
            input_subspace=u,
            output_subspace=np.eye(1),
            cores=(v @ triangle.T)[:, :, None],
            pretrained=data.pretrained,
            sweeps=int(found.nit),
        )


def _slopes(data: Dataset) -> Callable[[Array], tuple[float, Array]]:
    """Weights of shape (k, d) ↦ Σ‖y_i − X_iw_i‖² and X_iᵀ(X_iw_i − y_i), shape (k, d)."""
    x, y = data.covariates, data.residual_responses()[:, :, 0]
    if x.shape[1] <= x.shape[2]:

        def by_rows(weights: Array) -> tuple[float, Array]:
            residual = (x @ weights[:, :, None])[:, :, 0] - y
            return float(np.vdot(residual, residual)), (residual[:, None, :] @ x)[:, 0]

        return by_rows
    gram = np.matmul(x.swapaxes(1, 2), x)
    moments, energy = (y[:, None, :] @ x)[:, 0], float(np.vdot(y, y))

    def by_gram(weights: Array) -> tuple[float, Array]:
        image = (gram @ weights[:, :, None])[:, :, 0]
        return float(np.vdot(weights, image - 2.0 * moments)) + energy, image - moments

    return by_gram
