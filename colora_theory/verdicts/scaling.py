"""Evidence of several cells together: mean deviations pooled over a grid, and rates along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from colora_theory.verdicts.judge import MARGIN, MIN_TRIALS, RELATIVE_SLACK, Array, Claim, Sample, Verdict

#: "Holds" about a rate after calibration, and about its log-log slope.
RATE_MARGIN: Final = 0.25
SLOPE_MARGIN: Final = 0.1


def pooled_deviation(samples: Sequence[Sample]) -> tuple[float, float] | None:
    """Return the mean relative deviation (observed − claimed)/claimed over several cells, and its error.

    Cells are weighted by their precision. The weights of one half of the trials come from the other half: errors
    are skewed, and a cell that happens to lie low also looks precise. None where fewer than two cells qualify.
    """
    halves = []
    for sample in samples:
        size = float(np.abs(sample.claimed).mean()) if len(sample.claimed) else 0.0
        if len(sample.observed) < 2 * MIN_TRIALS or not 0 < size < math.inf:
            continue
        relative = (sample.observed - sample.claimed) / size
        pair = [(float(h.mean()), float(h.var(ddof=1)) / len(h)) for h in (relative[::2], relative[1::2])]
        if min(variance for _, variance in pair) > 0:
            halves.append(pair)
    if len(halves) < 2:
        return None
    estimates, variances = [], []
    for mine, other in ((0, 1), (1, 0)):
        weights = np.array([1.0 / pair[other][1] for pair in halves])
        weights /= weights.sum()
        estimates.append(float(weights @ [pair[mine][0] for pair in halves]))
        variances.append(float(weights**2 @ [pair[mine][1] for pair in halves]))
    return float(np.mean(estimates)), math.sqrt(sum(variances)) / 2.0


def judge_pooled(
    claim: Claim, deviation: tuple[float, float], *, alpha: float, family: int, adjusted: float | None = None
) -> Verdict:
    """Judge the mean relative deviation of several cells of the same claim about means."""
    centre, error = deviation
    p = pooled_p(claim, deviation)
    adjusted = min(1.0, family * p) if adjusted is None else adjusted
    level = alpha / family
    half = float(stats.norm.ppf(1 - level / 2)) * error
    low, high = centre - half, centre + half
    room = MARGIN + claim.tolerance
    fits = {"upper": high <= room, "lower": low >= -room, "equality": -room <= low and high <= room}
    status = "violated" if adjusted <= alpha else "holds" if fits[claim.side] else "inconclusive"
    reason = (
        f"over all cells {100 * centre:+.2f} % from the claim, {100 * (1 - level):.6g} % interval "
        f"[{100 * low:+.2f} %, {100 * high:+.2f} %]"
    )
    return Verdict(
        guarantee="", status=status, interval=(low, high), p_value=p, adjusted=adjusted, alpha=alpha, reason=reason
    )


def pooled_p(claim: Claim, deviation: tuple[float, float]) -> float:
    """Probability, if the claim is true in every cell, of a mean relative deviation at least as bad."""
    centre, error = deviation
    above = float(stats.norm.sf((centre - claim.tolerance - RELATIVE_SLACK) / error))
    below = float(stats.norm.cdf((centre + claim.tolerance + RELATIVE_SLACK) / error))
    return {"upper": above, "lower": below, "equality": min(1.0, 2.0 * min(above, below))}[claim.side]


# --- rates ------------------------------------------------------------------------------------------------


def log_log_slope(x: Array, mean: Array, error: Array, level: float) -> tuple[float, float, float]:
    """Return slope and limits of log(mean) against log(x), weighted by the relative Monte Carlo errors.

    Where the points scatter more than their errors say, the interval is widened accordingly.
    """
    t, y = np.log(x), np.log(mean)
    weight = 1.0 / np.maximum(error / mean, 1e-6) ** 2
    centre = float((weight * t).sum() / weight.sum())
    spread = float((weight * (t - centre) ** 2).sum())
    slope = float((weight * (t - centre) * y).sum() / spread)
    residual = y - (weight * y).sum() / weight.sum() - slope * (t - centre)
    # scatter beyond the Monte Carlo errors (curvature, lower-order terms) widens the interval
    inflation = max(1.0, float((weight * residual**2).sum()) / max(1, len(x) - 2))
    half = float(stats.norm.ppf(1 - level / 2)) * math.sqrt(inflation / spread)
    return slope, slope - half, slope + half


def judge_rate(side: str, rate: Array, samples: Sequence[Array], *, alpha: float, family: int = 1) -> Verdict:
    """Judge a rate over cells: `rate` is its value up to a constant, `samples` the observations of every cell.

    Cells are sorted by the rate. The constant is the extreme ratio over every other cell (first, third, …); on
    the cells in between the observed mean may not pass constant × rate by more than RATE_MARGIN. The log-log
    slope against the rate, which no constant enters, must be at least 1 (upper), at most 1 (lower) or 1
    (equality) over all cells, up to SLOPE_MARGIN.
    """
    base = Verdict(guarantee="", status="inconclusive", side=side, alpha=alpha, family=family)
    base = replace(base, trials=sum(len(s) for s in samples))
    if len(rate) < 4 or any(len(s) < MIN_TRIALS for s in samples):
        return replace(base, reason=f"needs at least 4 cells of {MIN_TRIALS} trials to calibrate and test")
    order = np.argsort(-rate)
    g = rate[order]
    mean = np.array([float(samples[i].mean()) for i in order])
    error = np.array([float(samples[i].std(ddof=1)) / math.sqrt(len(samples[i])) for i in order])
    if not (mean > 0).all() or g[0] <= 1.2 * g[-1]:
        return replace(base, reason="needs positive means and a rate that varies over the grid")
    level, tested = alpha / family, slice(1, None, 2)
    ratio = mean / g
    tests = len(ratio[tested]) + 1
    quantile = float(stats.norm.ppf(1 - level / tests))
    constant = float(ratio[::2].max() if side != "lower" else ratio[::2].min())
    slope, low, high = log_log_slope(g, mean, error, level / tests)
    passes: list[NDArray[np.bool_]] = []
    if side in ("upper", "equality"):
        passes.append((mean - quantile * error)[tested] > (1 + RATE_MARGIN) * constant * g[tested])
    if side in ("lower", "equality"):
        floor = float(ratio[::2].min())
        passes.append((mean + quantile * error)[tested] < floor * g[tested] / (1 + RATE_MARGIN))
    broken = sum(int(p.sum()) for p in passes)
    too_slow = side in ("upper", "equality") and high < 1 - SLOPE_MARGIN
    too_fast = side in ("lower", "equality") and low > 1 + SLOPE_MARGIN
    slow_ok, fast_ok = low >= 1 - 2 * SLOPE_MARGIN, high <= 1 + 2 * SLOPE_MARGIN
    sure = {"upper": slow_ok, "lower": fast_ok, "equality": slow_ok and fast_ok}[side]
    status = "violated" if broken or too_slow or too_fast else "holds" if sure else "inconclusive"
    reason = (
        f"constant {constant:.3g} calibrated on {len(ratio[::2])} cells, {broken} of the other "
        f"{len(ratio[tested])} break it by more than {100 * RATE_MARGIN:.0f} %; slope against the claimed rate "
        f"{slope:.3f}, {100 * (1 - level / tests):.4g} % interval [{low:.3f}, {high:.3f}]"
    )
    return replace(base, status=status, interval=(low, high), observed=slope, claimed=1.0, reason=reason)
