"""The method of moments: subspaces from eigenvectors, cores by least squares, no iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from colora_theory.errors import InputError, nearest
from colora_theory.estimators import stacked_descent
from colora_theory.estimators.base import Estimator, Fit, StackedFit, register
from colora_theory.estimators.frozen_subspace import fit_in_subspaces
from colora_theory.estimators.rank_selection import choose_pair
from colora_theory.estimators.starts import SPECTRAL, start
from colora_theory.model.dataset import Dataset
from colora_theory.model.moments import Moments


@register
@dataclass(frozen=True, kw_only=True)
class Spectral(Estimator):
    """Spectral estimate: top eigenvectors of a moment matrix, then every user's core by least squares.

    Model       That of `altmin`.
    Moments     "split_half": products of X_iᵀY_i over two halves of a user's samples, free of noise bias;
                "second_moment": Σ ‖y‖² x xᵀ, whose expectation is 2Γ + (tr Γ + σ²)I for one output
                (Tripuraneni, Jin & Jordan 2021, arXiv 2002.11684);
                "distinct_pairs": Σ_i Σ_{j≠l} (x_j y_jᵀ)(x_l y_lᵀ)ᵀ/(n_i − 1), every pair of a user's samples
                (Duchi, Feldman, Hu & Talwar 2022). The last two need samples, not sufficient rows.
    Cost        One or two passes over the data and an eigendecomposition, O(N d² + d³) for "second_moment" and
                "distinct_pairs", O(N d + k d² + d³) for "split_half".

    Parameters
    ----------
    rank : r, (rank_in, rank_out), or "auto".
    moment : one of the three above.
    """

    name: ClassVar[str] = "spectral"
    input_invariant: ClassVar[bool] = True

    rank: int | tuple[int, int] | str | None = None
    moment: str = "split_half"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moment not in SPECTRAL:
            raise InputError(
                f"moment must be one of {', '.join(SPECTRAL)}, got {self.moment!r}; "
                f"{nearest(str(self.moment), SPECTRAL)}"
            )

    def fit(self, data: Dataset, rng: np.random.Generator | None = None) -> Fit:
        """Estimate subspaces and cores; `rng` splits sufficient rows."""
        rank = choose_pair(self.rank, data, rng)
        u, v = start(data, rank, self.moment, rng)
        return fit_in_subspaces(data, u, v)

    def fit_stacked(self, data: Moments) -> StackedFit | None:
        """Estimate subspaces and cores in many trials."""
        rank = stacked_descent.shared_rank(self.rank, data)
        if rank is None or self.moment != "split_half":
            return None
        return stacked_descent.in_subspaces(data, stacked_descent.split_half(data, rank))
