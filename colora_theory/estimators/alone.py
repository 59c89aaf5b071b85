"""Methods that tune every user alone: ridge, LoRA, bottleneck adapter, intercept only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.data import Dataset
from colora_theory.errors import InputError
from colora_theory.estimators.altmin import AltMin
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.descent import check_real
from colora_theory.estimators.ranks import rank_numbers
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.linalg import Array, least_squares


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
            history={"penalty": penalty},
        )

    def _choose(self, model: SharedModel, values: Array, rotated: Array) -> float:
        """Minimise the generalised cross-validation score over the grid."""
        energy = (rotated**2).sum(2)
        rest = np.maximum((model.y**2).sum((1, 2)) - energy.sum(1), 0.0)
        scale = float((values**2).mean()) or 1.0
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


def adapter_rank(rank: int | tuple[int, int] | None, rows: int, columns: int) -> int:
    """Rank of one personal low-rank matrix: min(rank_in, rank_out), at most its smaller dimension."""
    values = rank_numbers(rank)
    if len(values) == 1 and values[0] > rows:
        raise InputError(f"rank must be at most dim_in = {rows}, got {values[0]}; lower rank.")
    return min(*values, rows, columns)


def low_rank_changes(
    data: Dataset, rank: int, rng: np.random.Generator | None, start: Array | None = None
) -> tuple[Array, bool, str]:
    """Best personal Δ_i of the given rank for every user: changes (k, d, p), whether all converged, a message.

    Regression is reduced-rank regression, solved exactly: the least-squares fit projected on the leading right
    singular vectors of its fitted values. Sensing runs alternating minimisation on every user; from a `start`
    (k, d, p) it takes two rounds only. `rng` splits sufficient rows and does nothing else, so that
    users do not influence each other.
    """
    model = SharedModel(data)
    if model.regression:
        left, values, right = np.linalg.svd(model.x, full_matrices=False)
        keep = values > values[:, :1] * max(model.x.shape[1:]) * np.finfo(float).eps
        inverse = np.divide(1.0, values, out=np.zeros_like(values), where=keep)
        rotated = (left.swapaxes(1, 2) @ model.y) * keep[:, :, None]
        leading = np.linalg.svd(rotated, full_matrices=False)[2][:, :rank]
        rotated = rotated @ leading.swapaxes(1, 2) @ leading
        full = bool(keep.sum(1).min() == model.d)
        message = "" if full else "a user has fewer samples than inputs; minimum-norm solutions."
        return right.swapaxes(1, 2) @ (inverse[:, :, None] * rotated), full, message
    if start is not None and start.any():
        return two_sided_steps(model, np.linalg.svd(start)[2][:, :rank].swapaxes(1, 2)), True, ""
    rule, used = AltMin(rank=(rank, rank), noise_tol=1e-8), rng if data.sufficient else None
    fits = [rule.fit(_plain(data.take(slice(i, i + 1))), used) for i in range(model.k)]
    bad = [fit for fit in fits if fit.status != "converged"]
    return np.concatenate([fit.weights for fit in fits]), not bad, bad[0].message if bad else ""


def two_sided_steps(model: SharedModel, right: Array, rounds: int = 2) -> Array:
    """Sensing, all users at once: Δ_i = A_iB_iᵀ by least squares in A_i and B_i by turns, from B (k, p, q).

    Returns Δ, shape (k, d, p). The factor that is held fixed is made orthonormal, which changes no Δ_i.
    """
    rank = right.shape[2]
    x = model.x.reshape(*model.x.shape[:2], model.d, model.p)
    for _ in range(rounds):
        features = x @ np.linalg.qr(right)[0][:, None]
        left = least_squares(features.reshape(*x.shape[:2], -1), model.y)[0].reshape(-1, model.d, rank)
        left = np.linalg.qr(left)[0]
        features = x.swapaxes(2, 3) @ left[:, None]
        right = least_squares(features.reshape(*x.shape[:2], -1), model.y)[0].reshape(-1, model.p, rank)
    return np.asarray(left @ right.swapaxes(1, 2), dtype=np.float64)


def _plain(data: Dataset) -> Dataset:
    """The same data with the pretrained weight's predictions subtracted."""
    if data.pretrained is None:
        return data
    return Dataset(
        covariates=data.covariates,
        responses=data.residual_responses(),
        counts=data.counts,
        sufficient=data.sufficient,
    )


def _fit_of(changes: Array, data: Dataset, converged: bool, message: str) -> Fit:
    status = "converged" if converged else ("singular" if "minimum" in message else "stopped")
    return Fit(status=status, message=message, dense=changes, pretrained=data.pretrained)


@register
@dataclass(frozen=True, kw_only=True)
class LoRA(Estimator):
    """LoRA of every user alone: ΔW_i = U_i V_iᵀ of rank r, nothing shared.

    Objective   ‖y_i − 𝒜_i(U_iV_iᵀ)‖², user by user.
    Algorithm   Regression: reduced-rank regression in closed form (Izenman 1975). Sensing: alternating
                minimisation per user. With one output (dim_out = 1) a rank-one Δ is no restriction: it equals
                full fine-tuning.
    Cost        One singular value decomposition per user; sensing: sweeps of O(n d p r).

    Parameters
    ----------
    rank : r; of a pair (rank_in, rank_out) the smaller, the rank of the users' true changes.
    """

    name: ClassVar[str] = "lora"

    rank: int | tuple[int, int] | None = None

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate every user's adapter; `rng` splits sufficient rows."""
        rank = adapter_rank(self.rank, data.dim_in, data.dim_out)
        changes, converged, message = low_rank_changes(data, rank, rng)
        return _fit_of(changes, data, converged, message)


@register
@dataclass(frozen=True, kw_only=True)
class Adapter(Estimator):
    """Bottleneck adapter after the frozen layer, every user alone: ΔW_i = W_0 P_i Q_i of rank r.

    Objective   ‖y_i − 𝒜_i(W_0 P_iQ_i)‖² with P_i (p × r) and Q_i (r × p), user by user.
    Algorithm   The frozen layer's outputs W_0ᵀx are the covariates of a `lora` with p inputs. What lies outside
                the column space of W_0 cannot be learned: that is the point of comparing it.
    Cost        As `lora` with p inputs.
    Source      Houlsby et al. 2019, without the non-linearity.

    Parameters
    ----------
    rank : r, or a pair of which the smaller counts. Not defined without a pretrained weight.
    """

    name: ClassVar[str] = "adapter"

    rank: int | tuple[int, int] | None = None

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate every user's adapter."""
        if data.pretrained is None:
            raise InputError(
                "adapter is not defined without a pretrained weight, because it composes with it; "
                "set pretrained_norm > 0 in the problem, or pass pretrained= with own data."
            )
        w0 = data.pretrained
        rank = adapter_rank(self.rank, data.dim_in, data.dim_out)
        through = data.covariates @ w0 if data.design == "regression" else np.matmul(w0.T, data.covariates)
        inner = Dataset(
            covariates=through,
            responses=data.residual_responses(),
            counts=data.counts,
            sufficient=data.sufficient,
        )
        changes, converged, message = low_rank_changes(inner, rank, rng)
        return _fit_of(np.matmul(w0, changes), data, converged, message)


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
