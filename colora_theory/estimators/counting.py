"""Equations and unknowns of the shared model: what counting alone says about a fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Counting(NamedTuple):
    """Sizes that decide: inputs d, outputs p, ranks r1 and r2, samples of every user, and the design."""

    d: int
    p: int
    r1: int
    r2: int
    counts: NDArray[np.int64]
    regression: bool

    @property
    def degrees_of_freedom(self) -> int:
        """Free parameters of the shared model: r1(d − r1) + r2(p − r2) + k r1 r2."""
        return self.r1 * (self.d - self.r1) + self.r2 * (self.p - self.r2) + len(self.counts) * self.r1 * self.r2

    @property
    def num_observations(self) -> int:
        """Scalar responses."""
        return int(self.counts.sum()) * (self.p if self.regression else 1)

    def equations(self, most: float = np.inf) -> tuple[int, int]:
        """Unknowns that all users share, and equations about them beyond those for the users' own cores.

        In the regression design a sample tells min(r1, r2) things about U. `most`: samples of a user that count.
        """
        if self.regression:
            shared, own, each = self.r1 * (self.d - self.r1), self.r1, min(self.r1, self.r2)
        else:
            shared = self.r1 * (self.d - self.r1) + self.r2 * (self.p - self.r2)
            own, each = self.r1 * self.r2, 1
        return shared, each * int(np.clip(self.counts - own, 0, most).sum())

    @property
    def undetermined(self) -> str:
        """Why counting alone rules out a unique answer, or "".

        Every user's own core takes its samples first; in the regression design what is left speaks about U only
        through the r2 outputs inside V.
        """
        unknowns = self.degrees_of_freedom
        if self.num_observations < unknowns:
            return f"{self.num_observations} observations cannot determine {unknowns} degrees of freedom."
        # a user sees nothing of the shared unknowns but their image in its own weight
        seen = self.d - self.r1
        if not self.regression:
            seen = min(self.r1, self.r2) * (seen + self.p - self.r2)
        shared, spare = self.equations(seen)
        if spare < shared:
            return f"{spare} equations beyond the users' cores cannot determine {shared} unknowns shared by all."
        return ""

    def scarce(self, per_core_row: float, per_unknown: float) -> bool:
        """Whether samples are few: per row of a core on average, or equations per unknown that all users share."""
        own = self.r1 * (1 if self.regression else self.r2)
        few = bool(self.counts.mean() <= per_core_row * own)
        if per_unknown:
            shared, spare = self.equations()
            few |= spare <= per_unknown * shared
        return few
