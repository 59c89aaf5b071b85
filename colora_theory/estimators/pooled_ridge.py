"""One ridge regression for all users: plain sharing, with its strength chosen from the data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.full_finetuning import Ridge
from colora_theory.model.checks import check_real
from colora_theory.model.dataset import Dataset


@register
@dataclass(frozen=True, kw_only=True)
class PooledRidge(Estimator):
    """Ridge regression of all users' samples as those of one: the model that ignores who is who.

    Objective   Σ_i ‖y_i − 𝒜_i(Δ)‖² + penalty ‖Δ‖_F² over one Δ of any rank.
    Penalty     Given, or chosen by generalised cross-validation on the pooled samples (see `ridge`).
    Algorithm   That of `ridge`, on all samples as one user. Its bias is the spread of the users' weights.
    Cost        One singular value decomposition of all samples, O(N d²).

    Parameters
    ----------
    penalty : a number ≥ 0 (units of Σ_j x_jx_jᵀ); None: cross-validated.
    """

    name: ClassVar[str] = "pooled_ridge"

    penalty: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty is not None:
            check_real("penalty", self.penalty)

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate the common weight; draws nothing."""
        common = Ridge(penalty=self.penalty).fit(data.pooled(), rng)
        changes = np.broadcast_to(common.weights, (data.num_users, data.dim_in, data.dim_out)).copy()
        return dataclasses.replace(common, dense=changes, pretrained=data.pretrained)
