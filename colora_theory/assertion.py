"""One assertion about one problem and one estimator: its trials, the streams of a study's, and its decision."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import scipy

from colora_theory import estimators
from colora_theory.engine.limits import one_blas_thread, quiet
from colora_theory.engine.trial import Recipe, Segment, batches, run_batch
from colora_theory.errors import InputError
from colora_theory.estimators import Estimator
from colora_theory.guarantees.base import ENDLESS
from colora_theory.model.problem import Problem
from colora_theory.model.truth import Truth
from colora_theory.results.rows import FAILURES, Row
from colora_theory.sources import Source
from colora_theory.studies.cells import Cell, EstimatorSpec
from colora_theory.verdicts.anytime import judge_anytime
from colora_theory.verdicts.judge import MIN_TRIALS, CellTest, Requirement, Sample, judge_family
from colora_theory.verdicts.verdict import Verdict

#: Shares of the trials at which a sequential assertion looks; its level holds for any number of looks.
LOOKS: Final = tuple(i / 16 for i in range(1, 17))
#: A claim that is this wrong should be caught.
WRONG: Final = 0.2
EstimatorLike = str | type[Estimator] | Estimator | None


def spec_of(
    given: EstimatorLike, params: Mapping[str, Any] | None, default: str = "altmin", recording: Any = None
) -> EstimatorSpec:
    """The estimator as a study would name it, so that the random streams are those of that study."""
    if isinstance(given, Estimator):
        if params:
            raise InputError("params belong to an estimator given by name; this one is built already.")
        return Given.holding(given)
    if isinstance(given, type) and not issubclass(given, Estimator):
        raise InputError(f"estimator must be a name, an Estimator or a class of one, got {given.__name__}.")
    cls = given if isinstance(given, type) else estimators.get(default if given is None else given)
    recorded = {name: value for name, value in (recording or {}).items() if name in cls.parameters()}
    return EstimatorSpec.of(cls, {**recorded, **(params or {})})


@dataclass(frozen=True)
class Given(EstimatorSpec):
    """An estimator that is built already; its stream is that of a study with the same parameters."""

    estimator: Estimator | None = field(default=None, repr=False)

    @classmethod
    def holding(cls, estimator: Estimator) -> Given:
        settings = {f.name: f.default for f in dataclasses.fields(estimator)}
        changed = {n: getattr(estimator, n) for n, default in settings.items() if n != "rank"}
        params = {n: v for n, v in changed.items() if isinstance(v, int | float | str) and v != settings[n]}
        spec = EstimatorSpec.of(type(estimator), params)
        return cls(spec.label, spec.name, spec.params, spec.cls, spec.words, estimator)

    def build(self, setting: Problem | Source, truth: Truth | None) -> Estimator:
        assert self.estimator is not None
        return self.estimator


def number_of(claim: Callable[[Problem], float], problem: Problem) -> float:
    """The number that a person's claim gives; what it raises is raised as it is."""
    claimed = claim(problem)
    try:
        return float(claimed)
    except (TypeError, ValueError):
        raise InputError(f"claim must return a number, got {claimed!r:.60}.") from None


class LowPowerWarning(UserWarning):
    """A claim that is wrong by 20 % could not have been caught with so few trials at this level."""


def least_error_caught(required: Requirement, sample: Sample, alpha: float) -> float:
    """The relative error from which on a claim like this one is caught in about half of such assertions.

    A claim about the mean is caught when the error exceeds the t quantile at `alpha` times the Monte Carlo error;
    one about a share δ of the trials when the share that breaks it is so large that the binomial test rejects (the
    error is then a difference of shares). A claim that must hold in every trial has no such error: 0.
    """
    n = sample.size
    if required.form == "always" or not n:
        return 0.0
    if required.form == "share":
        needed = int(scipy.stats.binom.isf(alpha, n, required.delta)) + 1
        return (needed / n - required.delta) if needed <= n else math.inf
    size = float(np.abs(sample.claimed).mean()) if len(sample.claimed) else math.nan
    if not (0 < size < ENDLESS) or len(sample.observed) < 2:
        return 0.0
    two_sided = alpha / 2 if required.side == "equality" else alpha
    error = float((sample.observed - sample.claimed).std(ddof=1)) / math.sqrt(len(sample.observed))
    return float(scipy.stats.t.isf(two_sided, len(sample.observed) - 1)) * error / size


def _weak(name: str, wrong: float, trials: int, alpha: float) -> str:
    least = f"{100 * wrong:.0f} %" if math.isfinite(wrong) else "any size"
    return (
        f"{name}: {trials} trials at level {alpha:g} have little power: "
        f"a claim that is wrong by less than {least} "
        "would pass as well. Raise trials, or raise alpha."
    )


@dataclass
class Assertion:
    """A claim about one problem and one estimator, and the trials that were run for it."""

    name: str
    required: Requirement
    problem: Problem
    recipe: Recipe
    claimed: float | None  # None: the guarantee's own number, trial by trial
    rows: list[Row] = field(default_factory=list)

    @property
    def segment(self) -> Segment:
        return Segment(0, Cell.of(self.problem, {}).words, self.problem, (), (0,))

    def run(self, stop: int) -> None:
        """Run the trials up to `stop` that are still missing; wrong arguments are raised, failures are rows."""
        with one_blas_thread(), quiet():
            missing = replace(self.segment, trials=tuple(range(len(self.rows), stop)))
            for batch in batches(self.recipe, missing):
                rows = run_batch(self.recipe, batch, fatal=(InputError, NotImplementedError))
                self.rows += sorted(rows, key=lambda row: row.trial)

    def sample(self) -> Sample:
        """What the trials observed and claimed so far."""
        columns = self.recipe.columns
        table = np.array([[math.nan if v is None else v for v in row.values] for row in self.rows], float)
        failed = [row.status in FAILURES for row in self.rows]
        seen = next((i for i, name in enumerate(columns) if name.startswith("observed:")), 0)
        said = self.claimed
        claimed: Any = table[:, columns.index(f"guarantee:{self.name}")] if said is None else said
        return Sample.of(table[:, seen], claimed, failed)

    def decide(self, trials: int, alpha: float, sequential: bool, strict: bool) -> Verdict:
        """Run the trials and return the verdict; AssertionError when it is against the claim."""
        for share in LOOKS if sequential else (1.0,):
            self.run(max(MIN_TRIALS, round(trials * share)))
            verdict = self._judged(alpha, sequential)
            # what must hold in every trial is never certain before the last one, unless it is violated
            certain = ("violated",) if self.required.form == "always" else ("violated", "holds", "vacuous")
            if verdict.status in certain:
                break
        where = ", ".join(f"{key}={value!r}" for key, value in self.problem.content().items())
        verdict = replace(verdict, guarantee=self.name, estimator=self.recipe.estimators[0].name, where=where)
        if verdict.status == "holds" or (verdict.status == "inconclusive" and not strict):
            wrong = least_error_caught(self.required, self.sample(), alpha)
            if wrong > WRONG:
                warnings.warn(LowPowerWarning(_weak(self.name, wrong, len(self.rows), alpha)), stacklevel=3)
            return verdict
        raise AssertionError(self._message(verdict))

    def _judged(self, alpha: float, sequential: bool) -> Verdict:
        """A verdict that may be asked for at every look, or the fixed-sample one."""
        if sequential:
            return judge_anytime(self.required, self.sample(), alpha=alpha)
        (verdict,) = judge_family([CellTest(self.required, self.sample(), alpha)])
        return verdict

    def _message(self, verdict: Verdict) -> str:
        lines = [str(verdict)]
        if verdict.violations and verdict.worst is not None:
            lines.append(f"{verdict.violations} of {verdict.trials} single trials are beyond the claim.")
        if failed := [row for row in self.rows if row.status in FAILURES]:
            lines.append(f"first failed trial {failed[0].trial}: {failed[0].message}")
        if verdict.worst is not None:
            lines.append(
                f"worst trial {verdict.worst}: draw it again with colora_theory.testing.replay(problem, "
                f"{verdict.worst}, seed={self.recipe.seed}, estimator={verdict.estimator!r})"
            )
        return "\n".join(lines)
