"""What trials say about a claim, as plain functions on arrays (`Requirement`, `Sample`, `judge`, `judge_family`).

- A certificate must hold in every trial, up to floating-point slack.
- A claim about single trials that may fail with probability δ: exact binomial test of the share of violations, and
  "holds" only if the Clopper–Pearson upper limit is at most δ.
- A claim about the mean: t-test with Hall's correction for skewness, and "holds" only if the interval excludes
  a violation of more than `MARGIN` of the claim.
- Several cells together, and rates whose constant the source leaves open: `scaling`.

Failed trials count against the estimator: as violations, or as an infinite error in a mean. Tests that belong
together form a family, whose error rate Holm's method controls (`judge_family`, the one way in which studies and
assertions judge).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

from colora_theory.guarantees.base import ENDLESS
from colora_theory.model.linalg import Array
from colora_theory.verdicts.statistics import clopper_pearson, holm, skewed_mean
from colora_theory.verdicts.verdict import ALPHA, Verdict

#: "Holds" about a mean: a violation by more than this share of the claim is excluded.
MARGIN: Final = 0.05
#: Fewest trials from which a mean is judged.
MIN_TRIALS: Final = 8
#: Rounding allowed to a certificate: this share of the claim, plus this times the scale of the metric.
RELATIVE_SLACK: Final = 1e-9
ABSOLUTE_SLACK: Final = 1e-12


@dataclass(frozen=True)
class Requirement:
    """What trials must satisfy: a claim stripped of its mathematics.

    side : "upper", "lower" or "equality": how the observation compares with the claimed number.
    form : "always" (every trial), "share" (every trial but a share `delta`) or "mean".
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


def p_value(required: Requirement, sample: Sample) -> float | None:
    """Probability, if the claim is true, of evidence at least as bad; None where nothing is tested."""
    if (
        required.form == "always"
        or sample.size == 0
        or (len(sample.claimed) and required.vacuous(sample.claimed).all())
    ):
        return None
    if required.form == "share":
        violations = int((required.excess(sample.observed, sample.claimed) > 0).sum()) + sample.failures
        return float(scipy.stats.binom.sf(violations - 1, sample.size, required.delta))
    if sample.failures and required.side != "lower":
        return 0.0  # a failed trial has no finite error, so the mean has none either
    if len(sample.observed) < MIN_TRIALS:
        return None
    return _mean_p(required, sample)


def _mean_p(required: Requirement, sample: Sample) -> float:
    slack = float((required.tolerance * np.abs(sample.claimed)).mean())
    slack += RELATIVE_SLACK * float(np.abs(sample.claimed).mean()) + ABSOLUTE_SLACK * required.scale
    difference = sample.observed - sample.claimed
    above = skewed_mean(difference - slack, 1.0)[0]
    below = skewed_mean(difference + slack, 1.0)[1]
    if required.side == "upper":
        return above
    return below if required.side == "lower" else min(1.0, 2.0 * min(above, below))


def first_look(required: Requirement, sample: Sample) -> Verdict:
    """What a sample shows without any test: counts, means, tightness; and the verdict where no test is needed."""
    base = Verdict(
        guarantee="",
        status="inconclusive",
        side=required.side,
        form=required.form,
        trials=sample.size,
        failures=sample.failures,
        undefined=sample.undefined,
        violations=sample.failures,
    )
    if sample.size == 0:
        return replace(base, status="not applicable", reason="no trial in which the claim applies")
    if not len(sample.observed):
        return base
    excess = required.excess(sample.observed, sample.claimed)
    observed, claimed = float(sample.observed.mean()), float(sample.claimed.mean())
    size = np.abs(sample.claimed)
    relative = np.divide(excess, size, out=excess.copy(), where=np.isfinite(size) & (size > 0))
    above, below = (observed, claimed) if required.side == "lower" else (claimed, observed)
    ratio = above / below if below else math.nan
    base = replace(
        base,
        observed=observed,
        claimed=claimed,
        violations=int((excess > 0).sum()) + sample.failures,
        worst=sample.trials[int(np.argmax(relative))] if sample.trials else None,
        tightness=ratio if math.isfinite(ratio) else math.nan,
    )
    if required.vacuous(sample.claimed).all() and not (excess > 0).any():
        return replace(base, status="vacuous", reason=f"the claim, {claimed:.4g}, says nothing")
    return base


def judge(
    required: Requirement, sample: Sample, *, alpha: float, family: int = 1, adjusted: float | None = None
) -> Verdict:
    """Return the verdict of one sample at family level `alpha`; `adjusted` is the p-value after Holm."""
    p = p_value(required, sample)
    if adjusted is None and p is not None:
        adjusted = min(1.0, family * p)
    base = replace(first_look(required, sample), p_value=p, adjusted=adjusted, alpha=alpha, family=family)
    if base.status != "inconclusive":
        return base
    if required.form == "mean":
        return _judge_mean(required, sample, base)
    return _judge_trials(required, sample, base)


def _judge_trials(required: Requirement, sample: Sample, base: Verdict) -> Verdict:
    level = base.alpha / base.family
    low, high = clopper_pearson(base.violations, sample.size, level)
    base = replace(base, interval=(low, high))
    counts = f"{base.violations} of {sample.size} trials break the claim"
    if required.form == "always":
        status = "violated" if base.violations else "holds"
        return replace(base, status=status, reason=f"{counts} (slack {RELATIVE_SLACK:g} of it)")
    reason = (
        f"{counts}, allowed rate {required.delta:g}; {100 * (1 - level):.4g} % interval [{low:.3g}, {high:.3g}]"
    )
    if base.adjusted is not None and base.adjusted <= base.alpha:
        return replace(base, status="violated", reason=reason)
    one_sided = clopper_pearson(base.violations, sample.size, 2 * level)[1]
    return replace(base, status="holds" if one_sided <= required.delta else "inconclusive", reason=reason)


def _judge_mean(required: Requirement, sample: Sample, base: Verdict) -> Verdict:
    if sample.failures:
        text = f"{sample.failures} failed trials have no finite error, so the mean has none"
        return replace(base, status="violated" if required.side != "lower" else "inconclusive", reason=text)
    if len(sample.observed) < MIN_TRIALS:
        return replace(base, reason=f"needs at least {MIN_TRIALS} trials")
    level = base.alpha / base.family
    low, high = skewed_mean(sample.observed - sample.claimed, level)[2:]
    interval = (base.claimed + low, base.claimed + high)
    relation = {"upper": "≤", "lower": "≥", "equality": "="}[required.side]
    within = f" within {100 * required.tolerance:g} %" if required.tolerance else ""
    reason = (
        f"mean {base.observed:.4g}, claimed {relation} {base.claimed:.4g}{within}; "
        f"{100 * (1 - level):.6g} % interval [{interval[0]:.4g}, {interval[1]:.4g}]"
    )
    base = replace(base, interval=interval, reason=reason)
    if base.adjusted is not None and base.adjusted <= base.alpha:
        return replace(base, status="violated")
    allowed = (MARGIN + required.tolerance) * float(
        np.abs(sample.claimed).mean()
    ) + ABSOLUTE_SLACK * required.scale
    fits = {"upper": high <= allowed, "lower": low >= -allowed, "equality": -allowed <= low and high <= allowed}
    return replace(base, status="holds" if fits[required.side] else "inconclusive")


# --- families of tests ------------------------------------------------------------------------------------


class FamilyTest(Protocol):
    """A member of a family: a cell, several cells pooled, or a rate over a grid."""

    @property
    def alpha(self) -> float:
        """Level of the family as this member reads it."""
        ...

    def p_value(self) -> float | None:
        """Its p-value; None where nothing is tested, 1 where the test is Bonferroni's within the family."""
        ...

    def verdict(self, family: int, adjusted: float | None) -> Verdict:
        """Its verdict in a family of so many tests, with its p-value after Holm."""
        ...


@dataclass(frozen=True, eq=False)
class CellTest:
    """The test of one cell."""

    required: Requirement
    sample: Sample
    alpha: float = ALPHA

    def p_value(self) -> float | None:
        return p_value(self.required, self.sample)

    def verdict(self, family: int, adjusted: float | None) -> Verdict:
        return judge(self.required, self.sample, alpha=self.alpha, family=family, adjusted=adjusted)


def judge_family(tests: Sequence[FamilyTest]) -> list[Verdict]:
    """Judge several claims together: any true one is called violated with probability at most their alpha."""
    p_values = [test.p_value() for test in tests]
    tested = [p for p in p_values if p is not None]
    adjusted = iter(holm(tested))
    family = max(1, len(tested))
    return [
        test.verdict(family, None if p is None else next(adjusted))
        for test, p in zip(tests, p_values, strict=True)
    ]
