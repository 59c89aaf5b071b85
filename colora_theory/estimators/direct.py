"""Methods with a closed form: every user alone, or with the shared subspaces known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.data import Dataset, numbers
from colora_theory.errors import InputError
from colora_theory.estimators.base import Estimator, Fit, register
from colora_theory.estimators.ranks import given_start
from colora_theory.estimators.shared_model import SharedModel
from colora_theory.linalg import Array, least_squares


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
        )


@register
@dataclass(frozen=True, kw_only=True)
class OracleSubspace(Estimator):
    """Oracle: the shared subspaces are known and only the personal cores are fitted.

    Model       W_i = W_0 + U C_i Vᵀ with U and V given.
    Objective   ‖y_i − 𝒜_i(U C_i Vᵀ)‖² in C_i, user by user; minimum norm when under-determined.
    Cost        One pass over the data, O(N d r).

    Parameters
    ----------
    input_subspace : U, shape (dim_in, rank_in); in a study it is filled from the truth.
    output_subspace : V, shape (dim_out, rank_out); may be left out when rank_out = dim_out.
    """

    name: ClassVar[str] = "oracle_subspace"
    frozen_subspaces: ClassVar[bool] = True
    side_information: ClassVar[tuple[str, ...]] = ("input_subspace", "output_subspace")

    input_subspace: Array | None = None
    output_subspace: Array | None = None

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Fit the cores in the given subspaces; draws nothing."""
        if self.input_subspace is None:
            raise InputError("oracle_subspace needs input_subspace (and output_subspace); pass the known ones.")
        u, v = numbers("input_subspace", self.input_subspace), self.output_subspace
        v = np.eye(data.dim_out) if v is None else numbers("output_subspace", v)
        if u.ndim != 2 or v.ndim != 2:
            raise InputError(
                f"input_subspace and output_subspace must be matrices, got {u.ndim} and {v.ndim} axes."
            )
        u, v = given_start(u, v, (u.shape[1], v.shape[1]), data)
        return fit_in_subspaces(data, u, v)


def fit_in_subspaces(data: Dataset, u: Array, v: Array) -> Fit:
    """Every user's core by least squares in given orthonormal subspaces, minimum norm where under-determined."""
    point = SharedModel(data).evaluate(u, v)
    short = int(point.deficient.sum())
    message = f"{short} of {len(point.cores)} users cannot determine their core; minimum-norm solutions."
    return Fit(
        status="singular" if short else "converged",
        message=message if short else "",
        input_subspace=u,
        output_subspace=v,
        cores=point.cores,
        pretrained=data.pretrained,
    )
