"""Shared structure plus something personal: a sparse part, or an own low-rank adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.base import register
from colora_theory.estimators.lora import low_rank_changes
from colora_theory.estimators.personal_parts import SharedPlusPersonal, noise_level, predictions_of
from colora_theory.estimators.proximal import keep_largest, on_support, soft_threshold
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.model.checks import check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.linalg import Array, spectral_norms


@register
@dataclass(frozen=True, kw_only=True)
class LowRankPlusSparse(SharedPlusPersonal):
    """Shared subspace plus a sparse personal part.

    Model       W_i = W_0 + U C_i Vᵀ + D_i with D_i sparse.
    Algorithm   Given the shared part, D_i by a few gradient steps with soft thresholding at `strength` times
                σ̂ √(2 n_i log q), the noise of the largest of q moments, σ̂ from the median residual. With
                `sparsity` given, after the first sweeps with hard thresholding to that many entries and least
                squares on the support.
    Cost        About ten passes over the data per sweep.
    Source      Pal et al. 2024 (AMHT-LRS, PMLR 238): alternating minimisation with hard thresholding.

    Parameters
    ----------
    rank, tol, max_sweeps : of SharedPlusPersonal.
    sparsity : non-zero entries of every D_i.
    strength : multiple of the threshold; `tune` chooses it.
    """

    name: ClassVar[str] = "lowrank_plus_sparse"
    STEPS: ClassVar[int] = 8
    GRID: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)

    sparsity: int | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("strength", self.strength)
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
        lengths = 1.0 / np.maximum(spectral_norms(model.x) ** 2, 1e-300)[:, None, None]
        rate = np.sqrt(2.0 * model.counts * np.log(max(model.d * model.p, 2)))[:, None, None]
        level = self.strength * noise_level(model, shared + personal) * rate
        for _ in range(self.STEPS):
            moments, _ = model.residual_moments(shared + personal)
            moved = personal + lengths * moments
            if self.sparsity is None or not settled:
                personal = soft_threshold(moved, lengths * level)
            else:
                personal = keep_largest(moved, self.sparsity)
        if self.sparsity is not None and settled:
            left = model.with_responses(model.y - predictions_of(model, shared))
            personal = on_support(left, personal, personal != 0.0)
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
    own_rank : rank of the personal part; 0: none. `tune` chooses it among 0, 1, 2, ….
    """

    name: ClassVar[str] = "shared_plus_personal"

    TUNED: ClassVar[str] = "own_rank"
    DRAFT: ClassVar[dict[str, Any]] = {"noise_tol": 0.3, "max_sweeps": 30}  # it crawls
    MOST: ClassVar[int] = 2  #: largest own rank that `tune` considers

    max_sweeps: int = 200
    own_rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("own_rank", self.own_rank, 0)

    def grid(self, data: Dataset) -> tuple[float, ...]:
        """Ranks below that of full fine-tuning, the smallest (most penalised) last."""
        return tuple(range(min(self.MOST, min(data.dim_in, data.dim_out) - 1), -1, -1))

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
        if self.own_rank == 0:
            return np.zeros_like(shared)
        most = min(model.d, model.p)
        if self.own_rank >= most:
            raise InputError(
                f"shared_plus_personal is not defined for own_rank ≥ min(dim_in, dim_out) = {most}, got "
                f"{self.own_rank}, because the personal part alone would fit everything; lower own_rank."
            )
        left = data.with_responses((model.y - predictions_of(model, shared)).reshape(data.responses.shape))
        return low_rank_changes(left, self.own_rank, rng, personal)[0]
