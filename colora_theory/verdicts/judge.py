"""Evidence: what trials say about a claim, as plain functions on arrays (`Claim`, `Sample`, `judge`).

- A certificate must hold in every trial, up to floating-point slack.
- A claim about single trials that may fail with probability δ: exact binomial test of the violation rate, and
  "holds" only if the Clopper–Pearson upper limit is at most δ.
- A claim about the mean: t-test with Hall's correction for skewness, and "holds" only if the interval excludes
  a violation of more than `MARGIN` of the claim.
- A rate, whose constant the source leaves open (`grid_evidence`): the constant is calibrated on every other cell,
  and tested on the rest together with the log-log slope of the observation against the rate.

Failed trials count against the estimator: as violations, or as an infinite error in a mean. Tests that belong
together form a family, whose error rate Holm's method controls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from colora_theory.guarantees.base import ENDLESS

Array: TypeAlias = NDArray[np.float64]

STATUSES: Final = ("holds", "violated", "inconclusive", "vacuous", "not applicable")
#: Level of the family of all tests of a study, where the study sets none.
ALPHA: Final = 0.01
#: "Holds" about a mean: a violation by more than this share of the claim is excluded.
MARGIN: Final = 0.05
#: Fewest trials from which a mean is judged.
MIN_TRIALS: Final = 8
#: Rounding allowed to a certificate: this share of the claim, plus this times the scale of the metric.
RELATIVE_SLACK: Final = 1e-9
ABSOLUTE_SLACK: Final = 1e-12


@dataclass(frozen=True)
class Claim:
    """What is to be tested, stripped of its mathematics.

    side : "upper", "lower" or "equality": how the observation compares with the claimed number.
    form : "always" (every trial), "rate" (every trial but a share `delta`) or "mean".
    tolerance : relative deviation that the statement itself allows. trivial : value that says nothing; NaN: only
    an infinite one does. scale : size of the metric, to which rounding is relative.
    """

    side: str
    form: str
    delta: float = 0.0
    tolerance: float = 0.0
    trivial: float = math.nan
    scale: float = 1.0

    def excess(self, observed: Array, claimed: Array) -> Array:
        """By how much each trial breaks the claim, beyond slack and tolerance; positive means violated."""
        slack = (RELATIVE_SLACK + self.tolerance) * np.abs(claimed) + ABSOLUTE_SLACK * self.scale
        difference = observed - claimed
        if self.side == "equality":
            return np.abs(difference) - slack
        return (difference if self.side == "upper" else -difference) - slack

    def vacuous(self, claimed: Array) -> NDArray[np.bool_]:
        """Which claims say nothing: infinite, or no better than the trivial value."""
        empty = ~(np.abs(claimed) < ENDLESS)
        if self.side == "upper":
            return empty | (claimed >= self.trivial)
        if self.side == "lower":
            return empty | (claimed <= self.trivial)
        return empty


@dataclass(frozen=True, eq=False)
class Sample:
    """The trials of one cell: observed and claimed numbers, shape (n,), failures and trials without a claim."""

    observed: Array
    claimed: Array
    failures: int = 0
    undefined: int = 0
    trials: tuple[int, ...] = ()

    @classmethod
    def of(cls, observed: Any, claimed: Any, failed: Any = None, trials: Any = None) -> Sample:
        """Sort raw numbers: `failed` trials are failures, a NaN claim is none, a NaN observation is a failure."""
        seen = np.atleast_1d(np.asarray(observed, float))
        said = np.broadcast_to(np.asarray(claimed, float), seen.shape)
        bad = np.zeros(seen.shape, bool) if failed is None else np.asarray(failed, bool)
        numbers = np.arange(len(seen)) if trials is None else np.asarray(trials)
        undefined = ~bad & np.isnan(said)
        bad = bad | (~undefined & ~np.isfinite(seen))
        keep = ~bad & ~undefined
        return cls(
            seen[keep], said[keep], int(bad.sum()), int(undefined.sum()), tuple(int(t) for t in numbers[keep])
        )

    @property
    def size(self) -> int:
        """Trials that count: with a claim, failures included."""
        return len(self.observed) + self.failures


@dataclass(frozen=True)
class Verdict:
    """One verdict, for one cell or (cell "") for all cells together.

    tightness is claim/observed for upper bounds and predictions, observed/claim for lower ones: 1 is tight.
    interval bounds the observed mean, the violation rate or the slope. p_value is before Holm, adjusted after.
    """

    guarantee: str
    status: str
    kind: str = ""
    side: str = ""
    metric: str = ""
    estimator: str = ""
    cell: str = ""
    where: str = "overall"
    trials: int = 0
    failures: int = 0
    undefined: int = 0
    violations: int = 0
    observed: float = math.nan
    claimed: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    tightness: float = math.nan
    p_value: float | None = None
    adjusted: float | None = None
    alpha: float = ALPHA
    family: int = 1
    worst: int | None = None
    reason: str = ""
    source: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        raise TypeError("a verdict has five values; compare verdict.status with 'holds' or 'violated'.")

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain values (numbers that are not finite become None)."""
        out: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, tuple):
                out[name] = [x if math.isfinite(x) else None for x in value]
            else:
                out[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        return out

    def __str__(self) -> str:
        who = ", ".join(text for text in (self.estimator, self.where) if text)
        parts = [self.reason]
        if self.trials:
            parts.append(f"{self.trials} trials, {self.failures} failed")
        if self.undefined:
            parts.append(f"{self.undefined} trials without a claim")
        if math.isfinite(self.tightness):
            parts.append(f"tightness {self.tightness:.3g}")
        if self.adjusted is not None and self.p_value is not None:
            parts.append(
                f"p = {self.p_value:.2g}, Holm over {self.family} tests {self.adjusted:.2g}, level {self.alpha:g}"
            )
        return f"{self.guarantee} [{who}]: {self.status} – {'; '.join(p for p in parts if p)}"


def broken(kind: str, reason: str, violations: int) -> str:
    """In how many trials a claim was broken; a dash for a claim about a mean, which single trials cannot break."""
    return str(violations) if kind == "certificate" or "trials break the claim" in reason else "–"


# --- means and rates --------------------------------------------------------------------------------------


def skewed_mean(values: Array, level: float) -> tuple[float, float, float, float]:
    """Return (p that the mean is ≤ 0, p that it is ≥ 0, lower limit, upper limit) for the mean of `values`.

    Hall's (1992) monotone transformation of the t statistic, which removes the leading effect of skewness; the
    limits leave out `level` in all, half on either side.
    """
    n = len(values)
    mean, deviation = float(values.mean()), float(values.std(ddof=1)) if n > 1 else math.inf
    if not deviation > 1e-300:
        sign = float(np.sign(mean))
        return (0.0 if sign > 0 else 1.0), (0.0 if sign < 0 else 1.0), mean, mean
    root = math.sqrt(n)
    skewness = float(((values - mean) ** 3).mean()) / float(values.std()) ** 3
    c, shift = skewness / (3.0 * root), skewness / (6.0 * root)

    def transform(t: float) -> float:
        return t + c * t * t + c * c * t**3 / 3.0 + shift

    def inverse(z: float) -> float:
        y = z - shift
        return (
            y if abs(c) < 1e-12 else (math.copysign(abs(1.0 + 3.0 * c * y) ** (1 / 3), 1.0 + 3.0 * c * y) - 1) / c
        )

    statistic = transform(mean / (deviation / root))
    quantile = float(stats.t.ppf(1.0 - level / 2.0, n - 1))
    above, below = float(stats.t.sf(statistic, n - 1)), float(stats.t.cdf(statistic, n - 1))
    scale = deviation / root
    return above, below, mean - scale * inverse(quantile), mean - scale * inverse(-quantile)


def clopper_pearson(count: int, total: int, level: float) -> tuple[float, float]:
    """Exact two-sided interval of confidence 1 − level for a proportion.

    >>> low, high = clopper_pearson(0, 100, 0.05)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    low = 0.0 if count == 0 else float(stats.beta.ppf(level / 2, count, total - count + 1))
    high = 1.0 if count == total else float(stats.beta.ppf(1 - level / 2, count + 1, total - count))
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


def p_value(claim: Claim, sample: Sample) -> float | None:
    """Probability, if the claim is true, of evidence at least as bad; None where nothing is tested."""
    if claim.form == "always" or sample.size == 0 or (len(sample.claimed) and claim.vacuous(sample.claimed).all()):
        return None
    if claim.form == "rate":
        violations = int((claim.excess(sample.observed, sample.claimed) > 0).sum()) + sample.failures
        return float(stats.binom.sf(violations - 1, sample.size, claim.delta))
    if sample.failures and claim.side != "lower":
        return 0.0  # a failed trial has no finite error, so the mean has none either
    if len(sample.observed) < MIN_TRIALS:
        return None
    return _mean_p(claim, sample)


def _mean_p(claim: Claim, sample: Sample) -> float:
    slack = float((claim.tolerance * np.abs(sample.claimed)).mean())
    slack += RELATIVE_SLACK * float(np.abs(sample.claimed).mean()) + ABSOLUTE_SLACK * claim.scale
    difference = sample.observed - sample.claimed
    above = skewed_mean(difference - slack, 1.0)[0]
    below = skewed_mean(difference + slack, 1.0)[1]
    if claim.side == "upper":
        return above
    return below if claim.side == "lower" else min(1.0, 2.0 * min(above, below))


def judge(
    claim: Claim, sample: Sample, *, alpha: float, family: int = 1, adjusted: float | None = None
) -> Verdict:
    """Return the verdict of one sample at family level `alpha`; `adjusted` is the p-value after Holm."""
    p = p_value(claim, sample)
    if adjusted is None and p is not None:
        adjusted = min(1.0, family * p)
    base = Verdict(
        guarantee="",
        status="inconclusive",
        side=claim.side,
        trials=sample.size,
        failures=sample.failures,
        undefined=sample.undefined,
        p_value=p,
        adjusted=adjusted,
        alpha=alpha,
        family=family,
    )
    if sample.size == 0:
        return replace(base, status="not applicable", reason="no trial in which the claim applies")
    if len(sample.observed):
        excess = claim.excess(sample.observed, sample.claimed)
        observed, claimed = float(sample.observed.mean()), float(sample.claimed.mean())
        size = np.abs(sample.claimed)
        relative = np.divide(excess, size, out=excess.copy(), where=np.isfinite(size) & (size > 0))
        worst = sample.trials[int(np.argmax(relative))] if sample.trials else None
        above, below = (observed, claimed) if claim.side == "lower" else (claimed, observed)
        ratio = above / below if below else math.nan
        base = replace(
            base,
            observed=observed,
            claimed=claimed,
            violations=int((excess > 0).sum()) + sample.failures,
            worst=worst,
            tightness=ratio if math.isfinite(ratio) else math.nan,
        )
        empty = claim.vacuous(sample.claimed)
        if empty.all() and not (excess > 0).any():
            return replace(base, status="vacuous", reason=f"the claim, {claimed:.4g}, says nothing")
    else:
        base = replace(base, violations=sample.failures)
    if claim.form == "mean":
        return _judge_mean(claim, sample, base)
    return _judge_trials(claim, sample, base)


def judge_family(tests: Sequence[tuple[Claim, Sample]], *, alpha: float) -> list[Verdict]:
    """Judge several claims together: the probability that any true one is called violated is at most `alpha`."""
    p_values = [p_value(*test) for test in tests]
    tested = [p for p in p_values if p is not None]
    adjusted = iter(holm(tested))
    return [
        judge(*test, alpha=alpha, family=max(1, len(tested)), adjusted=None if p is None else next(adjusted))
        for test, p in zip(tests, p_values, strict=True)
    ]


def _judge_trials(claim: Claim, sample: Sample, base: Verdict) -> Verdict:
    level = base.alpha / base.family
    low, high = clopper_pearson(base.violations, sample.size, level)
    base = replace(base, interval=(low, high))
    counts = f"{base.violations} of {sample.size} trials break the claim"
    if claim.form == "always":
        status = "violated" if base.violations else "holds"
        return replace(base, status=status, reason=f"{counts} (slack {RELATIVE_SLACK:g} of it)")
    reason = f"{counts}, allowed rate {claim.delta:g}; {100 * (1 - level):.4g} % interval [{low:.3g}, {high:.3g}]"
    if base.adjusted is not None and base.adjusted <= base.alpha:
        return replace(base, status="violated", reason=reason)
    one_sided = clopper_pearson(base.violations, sample.size, 2 * level)[1]
    return replace(base, status="holds" if one_sided <= claim.delta else "inconclusive", reason=reason)


def _judge_mean(claim: Claim, sample: Sample, base: Verdict) -> Verdict:
    if sample.failures:
        text = f"{sample.failures} failed trials have no finite error, so the mean has none"
        return replace(base, status="violated" if claim.side != "lower" else "inconclusive", reason=text)
    if len(sample.observed) < MIN_TRIALS:
        return replace(base, reason=f"needs at least {MIN_TRIALS} trials")
    level = base.alpha / base.family
    low, high = skewed_mean(sample.observed - sample.claimed, level)[2:]
    interval = (base.claimed + low, base.claimed + high)
    relation = {"upper": "≤", "lower": "≥", "equality": "="}[claim.side]
    within = f" within {100 * claim.tolerance:g} %" if claim.tolerance else ""
    reason = (
        f"mean {base.observed:.4g}, claimed {relation} {base.claimed:.4g}{within}; "
        f"{100 * (1 - level):.6g} % interval [{interval[0]:.4g}, {interval[1]:.4g}]"
    )
    base = replace(base, interval=interval, reason=reason)
    if base.adjusted is not None and base.adjusted <= base.alpha:
        return replace(base, status="violated")
    room = (MARGIN + claim.tolerance) * float(np.abs(sample.claimed).mean()) + ABSOLUTE_SLACK * claim.scale
    fits = {"upper": high <= room, "lower": low >= -room, "equality": -room <= low and high <= room}
    return replace(base, status="holds" if fits[claim.side] else "inconclusive")
