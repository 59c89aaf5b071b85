"""Evidence of several cells together: mean deviations pooled over a grid, and rates along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from colora_theory.model.linalg import Array
from colora_theory.verdicts.judge import MARGIN, MIN_TRIALS, RELATIVE_SLACK, Requirement, Sample, judge, p_value
from colora_theory.verdicts.statistics import log_log_slope, skewed_limits, skewed_tails
from colora_theory.verdicts.verdict import Verdict

#: "Holds" about a rate after calibration, and about its log-log slope.
RATE_MARGIN: Final = 0.25
SLOPE_MARGIN: Final = 0.1


class Pooled(NamedTuple):
    """Mean relative deviation (observed − claimed)/claimed over several cells, and what its law is judged by.

    error : its standard error. skewness : its own, which falls with the number of trials. freedom : Welch and
    Satterthwaite's degrees of freedom.
    """

    centre: float
    error: float
    skewness: float
    freedom: float


def pooled_deviation(samples: Sequence[Sample]) -> Pooled | None:
    """Pool the relative deviations of several cells; None where fewer than two cells qualify.

    Every trial counts alike. Weights from the observed spread would be more efficient for errors of one shape, but
    errors are skewed: a cell that happens to lie low also looks precise, and weights from other trials of the cell
    still favour cells whose spread is underestimated, at two to five times the nominal level.
    """
    cells = []
    for sample in samples:
        size = float(np.abs(sample.claimed).mean()) if len(sample.claimed) else 0.0
        if len(sample.observed) >= 2 * MIN_TRIALS and 0 < size < math.inf:
            relative = (sample.observed - sample.claimed) / size
            if relative.var() > 0:
                cells.append(relative)
    if len(cells) < 2:
        return None
    sizes = np.array([float(len(x)) for x in cells])
    share = sizes / sizes.sum()
    variance = share**2 * np.array([float(x.var(ddof=1)) for x in cells]) / sizes
    third = np.array([float(((x - x.mean()) ** 3).mean()) for x in cells]) * sizes**2 / ((sizes - 1) * (sizes - 2))
    total = float(variance.sum())
    return Pooled(
        centre=float(share @ [x.mean() for x in cells]),
        error=math.sqrt(total),
        skewness=float(share**3 @ (third / sizes**2)) / total**1.5,
        freedom=total**2 / float((variance**2 / (sizes - 1)).sum()),
    )


def judge_pooled(
    required: Requirement, deviation: Pooled, *, alpha: float, family: int, adjusted: float | None = None
) -> Verdict:
    """Judge the mean relative deviation of several cells of the same claim about means."""
    p = pooled_p(required, deviation)
    adjusted = min(1.0, family * p) if adjusted is None else adjusted
    level, centre = alpha / family, deviation.centre
    low, high = skewed_limits(*deviation, level)
    allowed = MARGIN + required.tolerance
    fits = {"upper": high <= allowed, "lower": low >= -allowed, "equality": -allowed <= low and high <= allowed}
    status = "violated" if adjusted <= alpha else "holds" if fits[required.side] else "inconclusive"
    reason = (
        f"over all cells {100 * centre:+.2f} % from the claim, {100 * (1 - level):.6g} % interval "
        f"[{100 * low:+.2f} %, {100 * high:+.2f} %]"
    )
    return Verdict(
        guarantee="",
        status=status,
        side=required.side,
        form="mean",
        interval=(low, high),
        p_value=p,
        adjusted=adjusted,
        alpha=alpha,
        family=family,
        reason=reason,
    )


def pooled_p(required: Requirement, deviation: Pooled) -> float:
    """Probability, if the claim is true in every cell, of a mean relative deviation at least as bad."""
    slack = required.tolerance + RELATIVE_SLACK
    centre, error, skewness, freedom = deviation
    above = skewed_tails((centre - slack) / error, skewness, freedom)[0]
    below = skewed_tails((centre + slack) / error, skewness, freedom)[1]
    return {"upper": above, "lower": below, "equality": min(1.0, 2.0 * min(above, below))}[required.side]


def together(samples: Sequence[tuple[Requirement, Sample]]) -> tuple[Requirement, Sample]:
    """All trials of claims about single trials as one sample: each may break its claim with probability ≤ δ."""
    total = Sample(
        # whether each trial breaks its claim, so that cells with claims of different size can be pooled
        np.concatenate([np.where(r.excess(s.observed, s.claimed) > 0, 2.0, 0.0) for r, s in samples]),
        np.concatenate([np.ones(len(s.claimed)) for _, s in samples]),
        sum(s.failures for _, s in samples),
        sum(s.undefined for _, s in samples),
    )
    return Requirement("upper", "share", max(r.delta for r, _ in samples)), total


@dataclass(frozen=True, eq=False)
class PooledTest:
    """All cells of one claim together; tests nothing where they cannot be pooled."""

    cells: Sequence[tuple[Requirement, Sample]]
    alpha: float

    @cached_property
    def _deviation(self) -> Pooled | None:
        return pooled_deviation([sample for _, sample in self.cells])

    @property
    def form(self) -> str:
        """Form of the claims."""
        return self.cells[0][0].form if self.cells else "always"

    def p_value(self) -> float | None:
        if len(self.cells) < 2 or self.form == "always":
            return None
        if self.form == "share":
            return p_value(*together(self.cells))
        return None if self._deviation is None else pooled_p(self.cells[0][0], self._deviation)

    def verdict(self, family: int, adjusted: float | None) -> Verdict:
        if adjusted is None:
            return Verdict(guarantee="", status="not applicable", reason="the cells cannot be pooled")
        if self.form == "share":
            return judge(*together(self.cells), alpha=self.alpha, family=family, adjusted=adjusted)
        assert self._deviation is not None
        return judge_pooled(self.cells[0][0], self._deviation, alpha=self.alpha, family=family, adjusted=adjusted)


@dataclass(frozen=True, eq=False)
class RateTest:
    """A rate over the cells of a grid: `rate` up to a constant, `samples` the observations of every cell.

    It is judged at Bonferroni's level; as a member with p = 1 it keeps Holm's steps valid for the others.
    """

    side: str
    rate: Array
    samples: Sequence[Array]
    alpha: float

    def p_value(self) -> float | None:
        return 1.0

    def verdict(self, family: int, adjusted: float | None) -> Verdict:
        return judge_rate(self.side, self.rate, self.samples, alpha=self.alpha, family=family)


def _power(low: float, high: float, level: float) -> str:
    """How far a slope may be from the claimed one before the test notices."""
    half = (high - low) / 2
    seen = SLOPE_MARGIN + half * (1.0 + float(scipy.stats.norm.ppf(0.8) / scipy.stats.norm.ppf(1 - level / 2)))
    return f"a slope {seen:.2f} off is caught with probability 0.8"


# --- rates ------------------------------------------------------------------------------------------------


def judge_rate(side: str, rate: Array, samples: Sequence[Array], *, alpha: float, family: int = 1) -> Verdict:
    """Judge a rate over cells: `rate` is its value up to a constant, `samples` the observations of every cell.

    Cells are sorted by the rate. The constant is the extreme ratio over every other cell (first, third, …); on
    the cells in between the observed mean may not pass constant × rate by more than RATE_MARGIN. The log-log
    slope against the rate, which no constant enters, must be at least 1 (upper), at most 1 (lower) or 1
    (equality) over all cells, up to SLOPE_MARGIN.
    """
    base = Verdict(guarantee="", status="inconclusive", side=side, form="rate", alpha=alpha, family=family)
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
    quantile = float(scipy.stats.norm.ppf(1 - level / tests))
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
        f"{slope:.3f}, {100 * (1 - level / tests):.4g} % interval [{low:.3f}, {high:.3f}]; "
        f"{_power(low, high, level / tests)}"
    )
    return replace(base, status=status, interval=(low, high), observed=slope, claimed=1.0, reason=reason)
