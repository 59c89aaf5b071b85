"""Monte Carlo means and their standard errors, from running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence


def standard_error(n: int, m2: float) -> float:
    """Standard error of a mean of n values with the sum m2 of squared deviations; infinite below two values."""
    return math.sqrt(m2 / (n - 1) / n) if n > 1 else math.inf


class Moments:
    """Count, mean and sum of squared deviations, in trial order."""

    def __init__(self) -> None:
        self.n, self.mean, self.m2 = 0, 0.0, 0.0

    def add(self, values: Sequence[float]) -> None:
        """Add a batch."""
        if not values:
            return
        n = len(values)
        mean = math.fsum(values) / n
        m2 = math.fsum((v - mean) ** 2 for v in values)
        delta, total = mean - self.mean, self.n + n
        self.m2 += m2 + delta * delta * self.n * n / total
        self.mean += delta * n / total
        self.n = total

    @property
    def mcse(self) -> float:
        """Standard error of the mean; infinite below two values."""
        return standard_error(self.n, self.m2)
