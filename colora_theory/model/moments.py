"""Second moments of many small data sets of one shape: all that least squares on them needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colora_theory.model.linalg import Array


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of the samples of k users in t trials.

    Attributes
    ----------
    squares : X_iᵀX_i, shape (t, k, d, d).
    halves : X_iᵀY_i over every second sample of a user, the first one included, and over the others (as
        `Dataset.split` deals them), shape (t, 2, k, d, p).
    energy : Σ_i ‖Y_i‖², shape (t,).
    counts : samples of the users, shape (k,).
    """

    squares: Array
    halves: Array
    energy: Array
    counts: NDArray[np.int64]

    @classmethod
    def of(
        cls, trials: Iterable[tuple[Array, Array]], number: int, shape: tuple[int, int], counts: NDArray[np.int64]
    ) -> Moments:
        """Return the moments of a number of trials of d inputs and p outputs (`shape`).

        A trial is its covariates, shape (k, m, d), and responses, (k, m, p); rows beyond the counts are zero.
        Every trial is used before the next one is asked for.
        """
        (d, p), k = shape, len(counts)
        squares, halves, energy = np.empty((number, k, d, d)), np.empty((number, 2, k, d, p)), np.empty(number)
        for t, (x, y) in enumerate(trials):
            transposed = x.swapaxes(1, 2)
            np.matmul(transposed, x, out=squares[t])
            for half in range(2):
                np.matmul(transposed[:, :, half::2], y[:, half::2], out=halves[t, half])
            energy[t] = np.vdot(y, y)
        return cls(squares, halves, energy, counts)

    @cached_property
    def cross(self) -> Array:
        """X_iᵀY_i, shape (t, k, d, p)."""
        return np.asarray(self.halves[:, 0] + self.halves[:, 1])

    def take(self, trials: Any) -> Moments:
        """Return the moments of some trials (indices or mask)."""
        return Moments(self.squares[trials], self.halves[trials], self.energy[trials], self.counts)
