"""Every user tuned alone, without a rank: least squares, ridge, intercept only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators import stacked_descent
from colora_theory.estimators.base import Estimator, Fit, StackedFit, register
from colora_theory.estimators.sampling_errors import of_least_squares
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.trace import Trace
from colora_theory.model.checks import check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, least_squares
from colora_theory.model.moments import Moments


@register
@dataclass(frozen=True, kw_only=True)
class FullFineTuning(Estimator):
    """Full fine-tuning: every user's weight by its own least squares, minimum norm when under-determined.

    Model       W_i = W_0 + Δ_i, Δ_i free.
    Objective   ‖y_i − 𝒜_i(Δ_i)‖², user by user; where it has many minimisers, the one of least ‖Δ_i‖_F.
    Cost        One factorization per user, O(n d²).
    Status      "singular" when some user has fewer samples than unknowns (or collinear covariates).
    """

    name: ClassVar[str] = "full_finetuning"

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate every user's weight alone; draws nothing."""
        model = SharedModel(data)
        changes = np.empty((model.k, model.d, model.p))
        deficient = np.zeros(model.k, dtype=bool)
        for block in model.rounds:
            solution, deficient[block] = least_squares(model.x[block], model.y[block])
            changes[block] = solution.reshape(-1, model.d, model.p)
        short = int(deficient.sum())
        return Fit(
            status="singular" if short else "converged",
            message=f"{short} of {model.k} users lack full column rank; minimum-norm solutions." if short else "",
            dense=changes,
            pretrained=data.pretrained,
            uncertainty=partial(of_least_squares, data, changes),
        )

    def fit_stacked(self, data: Moments) -> StackedFit | None:
        """Estimate every user's weight in many trials."""
        return stacked_descent.alone(data)


@register
@dataclass(frozen=True, kw_only=True)
class Ridge(Estimator):
    """Ridge regression of every user alone.

    Objective   ‖y_i − 𝒜_i(Δ_i)‖² + penalty ‖Δ_i‖_F², user by user.
    Penalty     Given, or chosen for all users together by generalised cross-validation, that is by the least
                Σ_i n_i RSS_i/(n_i − df_i)², which is rotation invariant and needs only sufficient statistics
                (Golub, Heath & Wahba 1979).
    Cost        One singular value decomposition per user.

    Parameters
    ----------
    penalty : a number ≥ 0 (units of Σ_j x_jx_jᵀ); None: cross-validated over `GRID` × mean squared singular value.
    """

    name: ClassVar[str] = "ridge"
    GRID: ClassVar[tuple[float, ...]] = tuple(10.0**e for e in np.arange(-8.0, 4.25, 0.25))

    penalty: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty is not None:
            check_real("penalty", self.penalty)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate every user's weight; draws nothing."""
        model = SharedModel(data)
        left, values, right = np.linalg.svd(model.x, full_matrices=False)
        rotated = left.swapaxes(1, 2) @ model.y
        penalty = self.penalty
        if penalty is None:
            penalty = self._choose(model, values, rotated)
        filters = np.divide(values, values**2 + penalty, out=np.zeros_like(values), where=values > 0)
        if penalty == 0.0:
            filters[values <= values[:, :1] * max(model.x.shape[1:]) * np.finfo(float).eps] = 0.0
        changes = right.swapaxes(1, 2) @ (filters[:, :, None] * rotated)
        short = penalty == 0.0 and bool((filters > 0).sum(1).min() < model.x.shape[2])
        return Fit(
            status="singular" if short else "converged",
            message="no penalty and too few samples; minimum-norm solutions." if short else "",
            dense=changes.reshape(model.k, model.d, model.p),
            pretrained=data.pretrained,
            history=Trace(penalty=penalty),
        )

    def _choose(self, model: SharedModel, values: Array, rotated: Array) -> float:
        """Minimise the generalised cross-validation score over the grid."""
        energy = (rotated**2).sum(2)
        rest = np.maximum((model.y**2).sum((1, 2)) - energy.sum(1), 0.0)
        scale = float((values**2).mean()) if values.size else 1.0
        scale = scale or 1.0
        best, chosen = np.inf, scale
        for factor in self.GRID:
            shrink = values**2 / (values**2 + factor * scale)
            residual = ((1.0 - shrink) ** 2 * energy).sum(1) + rest
            left = model.counts - shrink.sum(1)
            used = model.counts > 0
            score = float((model.counts[used] * residual[used] / np.maximum(left[used], 1e-9) ** 2).sum())
            if score < best:
                best, chosen = score, factor * scale
        return chosen


@register
@dataclass(frozen=True, kw_only=True)
class BitFit(Estimator):
    """BitFit: only a personal intercept is tuned, W_i = W_0.

    Objective   Σ_j ‖y_ij − W_0ᵀx_ij − b_i‖²: b_i is the mean residual of user i.
    Cost        One pass over the responses.
    Source      Ben Zaken, Goldberg & Ravfogel 2022 (arXiv 2106.10199).
    """

    name: ClassVar[str] = "bitfit"

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate every user's intercept; draws nothing."""
        if data.design == "sensing":
            raise InputError("bitfit is not defined for sensing, because a scalar response has no output bias.")
        if data.sufficient:
            raise InputError("bitfit is not defined for sufficient rows, because they do not keep the means.")
        means = data.residual_responses().sum(1) / np.maximum(data.counts, 1)[:, None]
        empty = bool((data.counts == 0).any())
        return Fit(
            status="singular" if empty else "converged",
            message="a user has no samples; its intercept is 0." if empty else "",
            dense=np.zeros((data.num_users, data.dim_in, data.dim_out)),
            intercepts=means,
            pretrained=data.pretrained,
        )
