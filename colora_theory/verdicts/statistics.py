"""Statistics of verdicts and figures as plain functions: intervals, Holm's method, slopes, phase boundaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import scipy
from scipy import special

from colora_theory.errors import InputError
from colora_theory.model.linalg import Array

#: Level of the Monte Carlo intervals in tables and figures.
LEVEL: Final = 0.95
#: Samples of skewed laws have at least about this share, inverted, of the law's skewness.
UNDERSTATED: Final = 1.5
#: Degrees of freedom below which an observed skewness is too uncertain to gain anything by it.
_FEW: Final = 39.0


def hall(t: float, skewness: float) -> float:
    """Hall's (1992) monotone transformation of a t statistic whose numerator has that `skewness`.

    For the mean of n values it is theirs over √n. The transformation removes the leading effect of skewness.
    """
    c = skewness / 3.0
    return t + c * t * t + c * c * t**3 / 3.0 + skewness / 6.0


def hall_inverse(z: float, skewness: float) -> float:
    """The t statistic that `hall` takes to z."""
    c, y = skewness / 3.0, z - skewness / 6.0
    if abs(c) < 1e-12:
        return y
    return (math.copysign(abs(1.0 + 3.0 * c * y) ** (1 / 3), 1.0 + 3.0 * c * y) - 1) / c


def doubted(skewness: float) -> tuple[float, float]:
    """The least and the largest skewness that an observed one may stand for.

    Samples of skewed laws understate their skewness, the more so the heavier the tail. Each side of a test takes
    the value that makes it cautious; the factor is measured (benchmarks/verdict_levels.py).
    """
    return min(skewness, UNDERSTATED * skewness), max(skewness, UNDERSTATED * skewness)


def skewed_tails(t: float, skewness: float, freedom: float) -> tuple[float, float]:
    """Probabilities of a t statistic at least as large, and at least as small, by Hall's transformation.

    With fewer than 40 values, not below those of the t distribution: a skewness seen in 8 values makes false
    alarms at level 1e-4 five times as frequent as they should be even under a normal law.
    """
    low, high = doubted(skewness)
    large, small = float(scipy.stats.t.sf(hall(t, low), freedom)), float(scipy.stats.t.cdf(hall(t, high), freedom))
    if freedom < _FEW:
        return max(large, float(scipy.stats.t.sf(t, freedom))), max(small, float(scipy.stats.t.cdf(t, freedom)))
    return large, small


def skewed_limits(mean: float, scale: float, skewness: float, freedom: float, level: float) -> tuple[float, float]:
    """Limits for a mean with standard error `scale`: the values whose tails are level/2 on either side."""
    quantile = float(scipy.stats.t.ppf(1.0 - level / 2.0, freedom))
    low, high = doubted(skewness)
    down, up = hall_inverse(quantile, low), hall_inverse(-quantile, high)
    if freedom < _FEW:
        down, up = max(down, quantile), min(up, -quantile)
    return mean - scale * down, mean - scale * up


def skewed_mean(values: Array, level: float) -> tuple[float, float, float, float]:
    """Return (p that the mean is ≤ 0, p that it is ≥ 0, lower limit, upper limit) for the mean of `values`.

    By Hall's transformation; the limits leave out `level` in all, half on either side.
    """
    n = len(values)
    mean, deviation = float(values.mean()), float(values.std(ddof=1)) if n > 1 else math.inf
    if not deviation > 1e-300:
        sign = float(np.sign(mean))
        return (0.0 if sign > 0 else 1.0), (0.0 if sign < 0 else 1.0), mean, mean
    scale = deviation / math.sqrt(n)
    skewness = float(((values - mean) ** 3).mean()) / float(values.std()) ** 3 / math.sqrt(n)
    tails = skewed_tails(mean / scale, skewness, n - 1)
    return (*tails, *skewed_limits(mean, scale, skewness, n - 1, level))


def clopper_pearson(count: int, total: int, level: float) -> tuple[float, float]:
    """Exact two-sided interval of confidence 1 − level for a proportion.

    >>> low, high = clopper_pearson(0, 100, 0.05)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    # binomtest(...).proportion_ci finds the same limits by bisection, to five digits at levels such as 1e-6
    low = 0.0 if count == 0 else float(scipy.stats.beta.ppf(level / 2, count, total - count + 1))
    high = 1.0 if count == total else float(scipy.stats.beta.ppf(1 - level / 2, count + 1, total - count))
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [1.0] * len(p_values), 0.0
    for position, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[int(index)] = running
    return adjusted


def mean_interval(mean: Any, mcse: Any, level: float = LEVEL) -> tuple[Array, Array]:
    """Normal interval of a Monte Carlo mean from its standard error.

    >>> low, high = mean_interval(1.0, 0.1)
    >>> round(float(low), 3), round(float(high), 3)
    (0.804, 1.196)
    """
    half = scipy.stats.norm.ppf(0.5 + level / 2) * np.asarray(mcse, float)
    return np.asarray(mean, float) - half, np.asarray(mean, float) + half


def wilson_interval(successes: Any, trials: Any, level: float = LEVEL) -> tuple[Array, Array]:
    """Wilson score interval of a success rate; stays inside [0, 1] and is honest at 0 and 1.

    >>> low, high = wilson_interval(0, 10)
    >>> round(float(low), 3), round(float(high), 3)
    (0.0, 0.278)
    """
    s, n = np.asarray(successes, float), np.asarray(trials, float)
    z2 = scipy.stats.norm.ppf(0.5 + level / 2) ** 2
    centre = (s + z2 / 2) / (n + z2)
    half = np.sqrt(z2) / (n + z2) * np.sqrt(s * (n - s) / n + z2 / 4)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def log_log_slope(x: Any, mean: Any, error: Any, level: float = 1.0 - LEVEL) -> tuple[float, float, float]:
    """Slope of log mean against log x with its interval (slope, low, high), of confidence 1 − level.

    Weighted by the relative Monte Carlo errors; where the points scatter more than their errors say (curvature,
    lower-order terms), the interval is widened accordingly.

    Parameters
    ----------
    x, mean : positive, shape (n,), n ≥ 2. error : standard errors of the means, shape (n,).

    >>> slope, low, high = log_log_slope([1, 10, 100], [1, 0.1, 0.01], [0.1, 0.01, 0.001])
    >>> round(slope, 6), low < -1 < high
    (-1.0, True)
    """
    x, mean, error = (np.asarray(values, float) for values in (x, mean, error))
    if len(np.unique(x)) < 2 or not ((x > 0) & (mean > 0)).all():
        raise InputError(f"a log-log slope needs at least two different positive points, got x = {x}, y = {mean}.")
    t, y = np.log(x), np.log(mean)
    weight = 1.0 / np.maximum(error / mean, 1e-6) ** 2
    centre = float((weight * t).sum() / weight.sum())
    spread = float((weight * (t - centre) ** 2).sum())
    slope = float((weight * (t - centre) * y).sum() / spread)
    residual = y - (weight * y).sum() / weight.sum() - slope * (t - centre)
    inflation = max(1.0, float((weight * residual**2).sum()) / max(1, len(x) - 2))
    half = float(scipy.stats.norm.ppf(1 - level / 2)) * math.sqrt(inflation / spread)
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

    found = scipy.optimize.minimize(loss, np.zeros(3), jac=True, method="BFGS").x
    found[0] -= special.logit(level)
    return float(found[0]), float(found[1]), float(found[2])
