"""Shared structure plus something personal: pooled adapter, sparse and low-rank personal parts."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.data import Dataset
from colora_theory.errors import InputError
from colora_theory.estimators.alone import adapter_rank, low_rank_changes
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.convex import keep_largest, on_support, soft_threshold
from colora_theory.estimators.descent import alternate, check_integer, check_real
from colora_theory.estimators.ranks import resolve_rank
from colora_theory.estimators.robust import equal_voices, noise_level, predictions_of, remaining, target
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.estimators.starts import start
from colora_theory.linalg import Array


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

    rank: int | tuple[int, int] | None = None

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate the common adapter; `rng` splits sufficient rows."""
        rank = adapter_rank(self.rank, data.dim_in, data.dim_out)
        responses = data.residual_responses()
        crowd = Dataset(
            covariates=data.covariates.reshape(1, -1, *data.covariates.shape[2:]),
            responses=responses.reshape(1, -1, *responses.shape[2:]),
            counts=data.counts.sum(keepdims=True),
            sufficient=data.sufficient,
        )
        changes, converged, message = low_rank_changes(crowd, rank, rng)
        return Fit(
            status="converged" if converged else "singular" if "minimum" in message else "stopped",
            message=message,
            dense=np.broadcast_to(changes, (data.num_users, *changes.shape[1:])).copy(),
            pretrained=data.pretrained,
        )


@dataclass(frozen=True, kw_only=True)
class SharedPlusPersonal(Estimator):
    """Base: W_i = W_0 + U C_i Vᵀ + D_i, by turns one sweep of `altmin` for the shared part and one step for D_i.

    Parameters
    ----------
    rank : r or (rank_in, rank_out) of the shared part.
    tol, noise_tol : stop when the weights are estimated to be within `tol` of their limit, relative to their norm,
        or within the fraction `noise_tol` of what noise makes of them (see `robust.target`).
    max_sweeps : most sweeps.
    """

    rank: int | tuple[int, int] | None = None
    tol: float = 1e-8
    noise_tol: float = 1e-2
    max_sweeps: int = 1000

    def __post_init__(self) -> None:
        check_real("tol", self.tol)
        check_real("noise_tol", self.noise_tol)
        check_integer("max_sweeps", self.max_sweeps, 1)

    @abstractmethod
    def personal(
        self,
        model: SharedModel,
        data: Dataset,
        shared: Array,
        personal: Array,
        settled: bool,
        rng: np.random.Generator | None,
    ) -> Array:
        """Return the next D_i, shape (k, d, p), for the shared part U C_i Vᵀ; `settled` after the first sweeps."""

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate shared and personal parts; `rng` splits sufficient rows."""
        rank = resolve_rank(self.rank, data)
        u, v = start(equal_voices(data), rank, "split_half", rng)
        model = SharedModel(data)
        responses = model.y
        shared = personal = np.zeros((model.k, model.d, model.p))
        converged = False
        moves: list[float] = []
        objectives: list[float] = []
        for sweep in range(1, self.max_sweeps + 1):
            model.y = responses - predictions_of(model, personal)
            u, v, _ = alternate(model, model.evaluate(u, v), 0.1)
            point = model.evaluate(u, v)
            model.y = responses
            before, shared = shared + personal, point.weights
            personal = self.personal(model, data, shared, personal, sweep > 10, rng)
            objectives.append(point.objective)
            after = shared + personal
            scale = max(float(np.linalg.norm(after)), 1e-300)
            moves.append(float(np.linalg.norm(after - before)) / scale)
            if sweep > 11 and remaining(moves) <= target(self, model, after, point.cores):
                converged = True
                break
        short = bool(point.deficient.any())
        return Fit(
            status="singular" if short else "converged" if converged else "stopped",
            message="a user cannot determine its core; minimum-norm solutions."
            if short
            else ("" if converged else f"max_sweeps = {self.max_sweeps} reached before the stop rule."),
            dense=shared + personal,
            input_subspace=u,
            output_subspace=v,
            cores=point.cores,
            pretrained=data.pretrained,
            sweeps=sweep,
            history={"objective": np.array(objectives), "personal": personal},
        )


@register
@dataclass(frozen=True, kw_only=True)
class LowRankPlusSparse(SharedPlusPersonal):
    """Shared subspace plus a sparse personal part.

    Model       W_i = W_0 + U C_i Vᵀ + D_i with D_i sparse.
    Algorithm   Given the shared part, D_i by a few gradient steps with soft thresholding at σ̂ √(2 n_i log q), the
                noise of the largest of q moments, σ̂ from the median residual. With `sparsity` given, after the
                first sweeps with hard thresholding to that many entries and least squares on the support.
    Cost        About ten passes over the data per sweep.
    Source      Pal et al. 2024 (AMHT-LRS, PMLR 238): alternating minimisation with hard thresholding.

    Parameters
    ----------
    rank, tol, max_sweeps : of SharedPlusPersonal.
    sparsity : non-zero entries of every D_i.
    """

    name: ClassVar[str] = "lowrank_plus_sparse"
    STEPS: ClassVar[int] = 8

    sparsity: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity is not None:
            check_integer("sparsity", self.sparsity, 1)

    def personal(
        self,
        model: SharedModel,
        data: Dataset,
        shared: Array,
        personal: Array,
        settled: bool,
        rng: np.random.Generator | None,
    ) -> Array:
        """A few thresholded gradient steps from the present D_i."""
        lengths = 1.0 / np.maximum(np.linalg.norm(model.x, 2, axis=(1, 2)) ** 2, 1e-300)[:, None, None]
        rate = np.sqrt(2.0 * model.counts * np.log(max(model.d * model.p, 2)))[:, None, None]
        level = noise_level(model, shared + personal) * rate
        responses = model.y
        for _ in range(self.STEPS):
            moments, _ = model.residual_moments(shared + personal)
            moved = personal + lengths * moments
            if self.sparsity is None or not settled:
                personal = soft_threshold(moved, lengths * level)
            else:
                personal = keep_largest(moved, self.sparsity)
        if self.sparsity is not None and settled:
            model.y = responses - predictions_of(model, shared)
            personal = on_support(model, personal, personal != 0.0)
            model.y = responses
        return personal


@register
@dataclass(frozen=True, kw_only=True)
class SharedPlusAdapter(SharedPlusPersonal):
    """Shared adapter plus an own low-rank adapter: the other reading of collaborative low-rank adaptation.

    Model       W_i = W_0 + U C_i Vᵀ + A_iB_iᵀ, the second part of rank `own_rank` and personal.
    Algorithm   Block descent: one sweep of `altmin` for the shared part, then `lora` on what it leaves.
    Cost        A sweep and one singular value decomposition per user. Convergence is slow where the two parts
                overlap: what one of them could explain as well as the other is handed over bit by bit, and with
                noise many fits end as "stopped".
    Limits      With own_rank ≥ dim_out (always for one output) the personal part is full fine-tuning and nothing
                is shared, so that is refused.

    Parameters
    ----------
    rank, tol, max_sweeps : of SharedPlusPersonal.
    own_rank : rank of the personal part.
    """

    name: ClassVar[str] = "shared_plus_personal"

    max_sweeps: int = 200
    own_rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("own_rank", self.own_rank, 1)

    def personal(
        self,
        model: SharedModel,
        data: Dataset,
        shared: Array,
        personal: Array,
        settled: bool,
        rng: np.random.Generator | None,
    ) -> Array:
        """Best personal adapter for what the shared part leaves."""
        most = min(model.d, model.p)
        if self.own_rank >= most:
            raise InputError(
                f"shared_plus_personal is not defined for own_rank ≥ min(dim_in, dim_out) = {most}, got "
                f"{self.own_rank}, because the personal part alone would fit everything; lower own_rank."
            )
        left = Dataset(
            covariates=data.covariates,
            responses=(model.y - predictions_of(model, shared)).reshape(data.responses.shape),
            counts=data.counts,
            sufficient=data.sufficient,
        )
        return low_rank_changes(left, self.own_rank, rng, personal)[0]
