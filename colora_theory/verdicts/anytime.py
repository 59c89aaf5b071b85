"""Verdicts that may be looked at after every trial: test martingales instead of fixed-sample tests.

An e-process is a non-negative process that starts at one and has mean at most one, at any stopping time, while the
claim is true; by Ville's inequality it ever reaches 1/α with probability at most α. So evidence may be looked at
as often as one likes, and a run may stop, or go on, because of what was seen.

- A claim about single trials that may fail with probability δ: likelihood ratios of larger failure probabilities
  against δ, averaged over a grid (and of smaller ones, for "holds").
- An upper bound m on the mean of a non-negative error: the product of 1 + λ(X_t/m − 1), averaged over λ in [0, 1).
  Nothing but the mean is needed: a heavy tail, or a variance that does not exist, costs power and never the level.
- A mean from below, and "holds": there is no such process without a bound on the tail. The normal mixture of
  Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2021 (arXiv 2103.06476) is used, an asymptotic confidence sequence
  that needs a variance and `START` trials; a guarantee's test conditions say where there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from colora_theory.model.linalg import Array
from colora_theory.verdicts.judge import ABSOLUTE_SLACK, MARGIN, RELATIVE_SLACK, Requirement, Sample, first_look
from colora_theory.verdicts.verdict import ALPHA, Verdict

#: Fewest trials before the asymptotic sequence says anything.
START: Final = 100
#: Bets on a mean: shares of the wealth that are put on an error above the claim.
_BETS: Final = np.geomspace(0.01, 0.6, 12)
#: Failure probabilities, as positions between δ and 1 (and between 0 and δ), that compete with δ.
_GRID: Final = np.geomspace(0.01, 0.95, 24)


def share_evidence(broken: int, total: int, delta: float) -> tuple[float, float]:
    """Log e-values against "at most δ" and "at least δ", after `broken` of `total` trials broke a claim."""

    def log_ratio(q: Array) -> float:
        with np.errstate(divide="ignore"):
            logs = broken * np.log(q / delta) + (total - broken) * (np.log1p(-q) - math.log1p(-delta))
        top = float(logs.max())
        return top + math.log(float(np.exp(logs - top).mean()))

    return log_ratio(delta + (1.0 - delta) * _GRID), log_ratio(delta * (1.0 - _GRID))


def mean_evidence(relative: Array) -> float:
    """Largest log e-value so far against "the mean of X/m is at most one", X/m = `relative` ≥ 0 in trial order."""
    logs = np.cumsum(np.log1p(_BETS[:, None] * (np.maximum(relative, 0.0) - 1.0)), axis=1)
    top = logs.max(axis=0)
    return float((top + np.log(np.exp(logs - top).mean(axis=0))).max())


def mean_sequence(values: Array, alpha: float) -> tuple[float, float]:
    """Asymptotic confidence sequence of a mean at confidence 1 − α, intersected over time: (low, high)."""
    n = np.arange(1, len(values) + 1)
    mean = np.cumsum(values) / n
    deviation = np.sqrt(np.maximum(np.cumsum(values**2) / n - mean**2, 0.0))
    best = math.sqrt((-2.0 * math.log(alpha) + math.log(-2.0 * math.log(alpha) + 1.0)) / START)
    spread = n * best**2 + 1.0
    radius = deviation * np.sqrt(2.0 * spread / (n * best) ** 2 * np.log(np.sqrt(spread) / alpha))
    late = slice(START - 1, None)
    if len(values) < START:
        return -math.inf, math.inf
    return float((mean - radius)[late].max()), float((mean + radius)[late].min())


@dataclass(frozen=True, eq=False)
class AnytimeTest:
    """One cell judged by evidence that may be looked at any time; a member of a family by Bonferroni's rule."""

    required: Requirement
    sample: Sample
    alpha: float = ALPHA

    def p_value(self) -> float | None:
        """1 where something is tested; None otherwise."""
        empty = not self.sample.size or self.required.vacuous(self.sample.claimed).all()
        return None if self.required.form == "always" or empty else 1.0

    def verdict(self, family: int, adjusted: float | None) -> Verdict:
        """Its verdict at its share of the family's level."""
        found = judge_anytime(self.required, self.sample, alpha=self.alpha / family)
        return replace(found, alpha=self.alpha, family=family)


def judge_anytime(required: Requirement, sample: Sample, *, alpha: float) -> Verdict:
    """The verdict of one sample in trial order, valid however often and whenever it is asked for.

    A true claim is ever called violated with probability at most `alpha` over the whole run (asymptotically for
    means from below). "holds" excludes a violation of more than MARGIN, as in the fixed-sample test.
    """
    base = replace(first_look(required, sample), alpha=alpha)
    if base.status != "inconclusive":
        return base
    broken = base.violations
    if required.form == "always":
        reason = f"{broken} of {sample.size} trials break the claim"
        return replace(base, status="violated" if broken else "holds", reason=reason)
    if required.form == "share":
        against, for_it = share_evidence(broken, sample.size, required.delta)
        status = "violated" if against >= -math.log(alpha) else "holds" if for_it >= -math.log(alpha) else ""
        reason = (
            f"{broken} of {sample.size} trials break the claim, allowed share {required.delta:g}; evidence "
            f"against it e^{against:.3g}, for it e^{for_it:.3g}, looked at any time"
        )
        return replace(base, status=status or "inconclusive", reason=reason)
    return _mean(required, sample, base)


def _mean(required: Requirement, sample: Sample, base: Verdict) -> Verdict:
    if required.side != "lower" and sample.failures:
        text = f"{sample.failures} failed trials have no finite error, so the mean has none"
        return replace(base, status="violated", reason=text)
    scale = np.abs(sample.claimed)
    slack = (required.tolerance + RELATIVE_SLACK) * scale + ABSOLUTE_SLACK * required.scale
    level = base.alpha / 2 if required.side == "equality" else base.alpha
    low, high = mean_sequence(sample.observed - sample.claimed, level)
    upward = -math.inf
    if required.side != "lower" and (sample.observed >= 0).all() and (sample.claimed + slack > 0).all():
        upward = mean_evidence(sample.observed / (sample.claimed + slack))
    above = upward >= -math.log(level)
    below = required.side != "upper" and high < -float(slack.mean())
    allowed = float(scale.mean()) * (MARGIN + required.tolerance) + ABSOLUTE_SLACK * required.scale
    fits = {"upper": high <= allowed, "lower": low >= -allowed, "equality": -allowed <= low and high <= allowed}
    status = "violated" if above or below else "holds" if fits[required.side] else "inconclusive"
    interval = base.claimed + low, base.claimed + high
    reason = (
        f"mean {base.observed:.4g}, claimed {base.claimed:.4g}; looked at any time, {100 * (1 - level):.6g} % "
        f"confidence sequence [{interval[0]:.4g}, {interval[1]:.4g}], evidence of more e^{upward:.3g}"
    )
    return replace(base, status=status, interval=interval, reason=reason)
