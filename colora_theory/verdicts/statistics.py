"""Statistics of figures: Monte Carlo intervals, log-log slopes, phase boundaries. Plain functions on arrays."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from scipy import optimize, special, stats

from colora_theory.errors import InputError
from colora_theory.model.linalg import Array

#: Level of the Monte Carlo intervals in tables and figures.
LEVEL: Final = 0.95


def mean_interval(mean: Any, mcse: Any, level: float = LEVEL) -> tuple[Array, Array]:
    """Normal interval of a Monte Carlo mean from its standard error.

    >>> low, high = mean_interval(1.0, 0.1)
    >>> round(float(low), 3), round(float(high), 3)
    (0.804, 1.196)
    """
    half = stats.norm.ppf(0.5 + level / 2) * np.asarray(mcse, float)
    return np.asarray(mean, float) - half, np.asarray(mean, float) + half


def wilson_interval(successes: Any, trials: Any, level: float = LEVEL) -> tuple[Array, Array]:
    """Wilson score interval of a success rate; stays inside [0, 1] and is honest at 0 and 1.

    >>> low, high = wilson_interval(0, 10)
    >>> round(float(low), 3), round(float(high), 3)
    (0.0, 0.278)
    """
    s, n = np.asarray(successes, float), np.asarray(trials, float)
    z2 = stats.norm.ppf(0.5 + level / 2) ** 2
    centre = (s + z2 / 2) / (n + z2)
    half = np.sqrt(z2) / (n + z2) * np.sqrt(s * (n - s) / n + z2 / 4)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def log_log_slope(x: Any, y: Any, y_error: Any, level: float = LEVEL) -> tuple[float, float, float]:
    """Slope of log y against log x by weighted least squares, with its interval (slope, low, high).

    Parameters
    ----------
    x, y : positive, shape (n,), n ≥ 2.
    y_error : standard errors of y, shape (n,).

    >>> slope, low, high = log_log_slope([1, 10, 100], [1, 0.1, 0.01], [0.1, 0.01, 0.001])
    >>> round(slope, 6), low < -1 < high
    (-1.0, True)
    """
    x, y, error = (np.asarray(a, float) for a in (x, y, y_error))
    if len(np.unique(x)) < 2 or not ((x > 0) & (y > 0)).all():
        raise InputError(f"a log-log slope needs at least two different positive points, got x = {x}, y = {y}.")
    weight = (y / np.maximum(error, 1e-300)) ** 2
    weight = np.minimum(weight, 1e30)
    centred = np.log(x) - np.average(np.log(x), weights=weight)
    spread = float(np.sum(weight * centred**2))
    slope = float(np.sum(weight * centred * np.log(y)) / spread)
    half = float(stats.norm.ppf(0.5 + level / 2) / math.sqrt(spread))
    return slope, slope - half, slope + half


def phase_boundary(x: Any, y: Any, successes: Any, trials: Any, level: float = 0.5) -> tuple[float, float, float]:
    """Logistic regression of success on log x and log y: (intercept, slope of log x, slope of log y).

    The success rate is `level` where log y = (logit(level) − intercept − slope_x log x)/slope_y. A weak ridge
    penalty keeps the coefficients finite when the two phases separate perfectly.

    >>> x, y = np.meshgrid([10.0, 20, 40, 80], [2.0, 4, 8, 16])
    >>> a, b, c = phase_boundary(x, y, np.where(x * y > 150, 20, 0), 20)
    >>> bool(abs(b / c - 1) < 0.2)
    True
    """
    columns = np.column_stack([np.ones(np.size(x)), np.log(np.ravel(x)), np.log(np.ravel(y))])
    s, n = (np.broadcast_to(np.ravel(a), len(columns)).astype(float) for a in (successes, trials))

    def loss(beta: Array) -> tuple[float, Array]:
        eta = columns @ beta
        value = np.logaddexp(0.0, eta) @ n - eta @ s + 1e-3 * float(beta @ beta)
        return float(value), columns.T @ (n * special.expit(eta) - s) + 2e-3 * beta

    found = optimize.minimize(loss, np.zeros(3), jac=True, method="BFGS").x
    found[0] -= special.logit(level)
    return float(found[0]), float(found[1]), float(found[2])
