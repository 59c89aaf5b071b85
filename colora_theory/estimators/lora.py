"""Low-rank adapters without shared structure: one for every user, one for all, one behind the frozen layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.altmin import AltMin
from colora_theory.estimators.base import STATUSES, Estimator, Fit, register
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, as_rows, least_squares
from colora_theory.model.ranks import rank_numbers


def adapter_rank(rank: int | tuple[int, int] | None, rows: int, columns: int) -> int:
    """Rank of one personal low-rank matrix: min(rank_in, rank_out), at most its smaller dimension."""
    values = rank_numbers(rank)
    if len(values) == 1 and values[0] > rows:
        raise InputError(f"rank must be at most dim_in = {rows}, got {values[0]}; lower rank.")
    return min(*values, rows, columns)


def low_rank_changes(
    data: Dataset, rank: int, rng: np.random.Generator | None, start: Array | None = None
) -> tuple[Array, str, str]:
    """Best personal Δ_i of the given rank for every user: changes (k, d, p), status and message of all together.

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
        changes = right.swapaxes(1, 2) @ (inverse[:, :, None] * rotated)
        return changes, "converged" if full else "singular", message
    if start is not None and start.any():
        return two_sided_steps(model, np.linalg.svd(start)[2][:, :rank].swapaxes(1, 2)), "converged", ""
    rule, used = AltMin(rank=(rank, rank), noise_tol=1e-8), rng if data.sufficient else None
    plain = data.without_pretrained()
    fits = [rule.fit(plain.take(slice(i, i + 1)), used) for i in range(model.k)]
    worst = max(fits, key=lambda fit: STATUSES.index(fit.status))
    return np.concatenate([fit.weights for fit in fits]), worst.status, worst.message


def two_sided_steps(model: SharedModel, right: Array, rounds: int = 2) -> Array:
    """Sensing, all users at once: Δ_i = A_iB_iᵀ by least squares in A_i and B_i by turns, from B (k, p, q).

    Returns Δ, shape (k, d, p). The factor that is held fixed is made orthonormal, which changes no Δ_i.
    """
    rank = right.shape[2]
    x = model.x.reshape(*model.x.shape[:2], model.d, model.p)
    for _ in range(rounds):
        features = x @ np.linalg.qr(right)[0][:, None]
        left = least_squares(as_rows(features), model.y)[0].reshape(-1, model.d, rank)
        left = np.linalg.qr(left)[0]
        features = x.swapaxes(2, 3) @ left[:, None]
        right = least_squares(as_rows(features), model.y)[0].reshape(-1, model.p, rank)
    return np.asarray(left @ right.swapaxes(1, 2), dtype=np.float64)


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
        changes, status, message = low_rank_changes(data, rank, rng)
        return Fit(status=status, message=message, dense=changes, pretrained=data.pretrained)


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
        inner = dataclasses.replace(data.without_pretrained(), covariates=through)
        changes, status, message = low_rank_changes(inner, rank, rng)
        return Fit(status=status, message=message, dense=np.matmul(w0, changes), pretrained=w0)


@register
@dataclass(frozen=True, kw_only=True)
class PooledLoRA(Estimator):
    """One adapter of rank r for all users: the model that ignores who is who.

    Objective   Σ_i ‖y_i − 𝒜_i(Δ)‖² over one Δ of rank r.
    Algorithm   That of `lora`, on all users' samples as one user. Its bias is the spread of the users' weights.
    Cost        One factorization of all samples, O(N d²).

    Parameters
    ----------
    rank : r, or a pair of which the smaller counts.
    """

    name: ClassVar[str] = "pooled_lora"
    input_invariant: ClassVar[bool] = True

    rank: int | tuple[int, int] | None = None

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate the common adapter; `rng` splits sufficient rows."""
        rank = adapter_rank(self.rank, data.dim_in, data.dim_out)
        changes, status, message = low_rank_changes(data.pooled(), rank, rng)
        return Fit(
            status=status,
            message=message,
            dense=np.broadcast_to(changes, (data.num_users, *changes.shape[1:])).copy(),
            pretrained=data.pretrained,
        )
