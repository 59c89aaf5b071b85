"""Bounds in unit tests: assert that a theorem, a claim of your own or a rate holds, with a stated error level.

    >>> import colora_theory as ct
    >>> problem = ct.Problem(num_users=5, num_samples=30, dim_in=10, rank=2, noise_std=0.1)
    >>> ct.testing.assert_guarantee("local_least_squares_risk", problem, trials=100, seed=0).status
    'inconclusive'
    >>> ct.testing.assert_holds(lambda p: 1.0, problem, estimator="full_finetuning", trials=50, seed=0).status
    'holds'

An assertion fails (AssertionError) only when the claim is violated at level `alpha`, says nothing (vacuous) or
does not apply; with `strict=True` also while the evidence is inconclusive. It returns the verdict otherwise. The
trials use the random streams of studies, so a trial named in a message can be drawn again with `replay`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from colora_theory import estimators, guarantees
from colora_theory.engine.limits import one_blas_thread, quiet
from colora_theory.engine.trial import Recipe, Segment, TrialGuarantee, draw, fit, run_trial
from colora_theory.errors import InputError, nearest
from colora_theory.estimators import Estimator, Fit
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.checks import check_integer
from colora_theory.model.dataset import Dataset
from colora_theory.model.problem import Problem
from colora_theory.model.truth import Truth
from colora_theory.results.rows import FAILURES, Row
from colora_theory.studies.cells import Cell, EstimatorSpec
from colora_theory.verdicts.check import inapplicable, is_scaling, requirement_of
from colora_theory.verdicts.judge import MIN_TRIALS, CellTest, Requirement, Sample, judge_family
from colora_theory.verdicts.scaling import RateTest
from colora_theory.verdicts.verdict import Verdict

__all__ = ["assert_guarantee", "assert_holds", "assert_rate", "replay"]

#: Share of the trials at which a sequential test looks at the evidence, and the share of alpha spent there.
LOOKS: Final = ((0.125, 0.1), (0.25, 0.15), (0.5, 0.25), (1.0, 0.5))
#: Factor on every number of trials; the pytest option --colora-trials sets it.
trial_factor: float = 1.0

EstimatorLike = str | type[Estimator] | Estimator | None


def assert_guarantee(
    name: str | Guarantee,
    problem: Problem,
    *,
    estimator: EstimatorLike = None,
    params: Mapping[str, Any] | None = None,
    trials: int = 400,
    alpha: float = 1e-6,
    seed: int = 0,
    delta: float | None = None,
    sequential: bool = False,
    strict: bool = False,
) -> Verdict:
    """Assert that a guarantee holds for an estimator on `problem`; return the verdict.

    Parameters
    ----------
    name : a registered name, or a Guarantee object of your own.
    estimator : name, class or object; by default the first one that the guarantee speaks about.
    params : parameters of the estimator, when it is given by name or class (rank comes from the problem).
    trials : number of trials; with `sequential` the most, fewer when the evidence is decisive at an early look.
    alpha : probability with which a true claim may fail this assertion (all looks together).
    delta : allowed violation rate; turns a claim about the mean into one about single trials.
    strict : fail also when the evidence is inconclusive.

    Raises AssertionError when violated, vacuous or not applicable, InputError for wrong arguments.
    """
    guarantee = guarantees.get(name) if isinstance(name, str) else name
    if guarantee.side not in ("upper", "lower", "equality"):
        raise InputError(
            f"assert_guarantee checks upper, lower and equality claims; {guarantee.name!r} has side "
            f"{guarantee.side!r}: check it by a study."
        )
    if is_scaling(guarantee):
        raise InputError(f"{guarantee.name!r} is a rate and needs a grid of problems; use assert_rate or a study.")
    if why := inapplicable(guarantee, problem):
        raise AssertionError(f"{guarantee.name}: not applicable – {why}")
    available = [each for each in guarantee.estimators if each in estimators.names()]
    spec = _spec(estimator, params, (available or ["altmin"])[0], guarantee.recording)
    if told := guarantee.told_too_much(spec.cls):
        raise AssertionError(f"{guarantee.name}: not applicable – {told}")
    inside = (TrialGuarantee(guarantee, (0,)),) if guarantee.per_trial or hasattr(guarantee, "observed") else ()
    compared = (guarantee.metric,) if guarantee.metric in metrics.NAMES else ()
    recipe = Recipe(seed, (spec,), compared, inside)
    fixed = None if guarantee.per_trial else guarantee.value(problem)
    required = requirement_of(guarantee, problem, delta)
    return _Assertion(guarantee.name, required, problem, recipe, fixed).decide(trials, alpha, sequential, strict)


def assert_holds(
    claim: Callable[[Problem], float],
    problem: Problem,
    *,
    metric: str = "parameter_error",
    estimator: EstimatorLike = "full_finetuning",
    params: Mapping[str, Any] | None = None,
    side: str = "upper",
    expectation: bool | None = None,
    delta: float | None = None,
    trials: int = 400,
    alpha: float = 1e-6,
    seed: int = 0,
    sequential: bool = False,
    strict: bool = False,
) -> Verdict:
    """Assert a claim of your own: `claim(problem)` bounds (or equals) a metric; return the verdict.

    Parameters
    ----------
    claim : a plain function from a Problem to a number.
    side : "upper", "lower" or "equality".
    expectation : True: the claim is about the mean of the metric (the default without `delta`).
    delta : the claim is about single trials and may fail in this share of them; 0 means never.

    The others are those of `assert_guarantee`.
    """
    if not callable(claim):
        raise InputError(f"claim must be a function of a Problem, got {claim!r}; give lambda problem: ....")
    if side not in ("upper", "lower", "equality"):
        raise InputError(f"side must be upper, lower or equality, got {side!r}; {nearest(str(side), _SIDES)}")
    if delta is not None and not 0 <= delta < 1:
        raise InputError(f"delta must be a share in [0, 1), got {delta!r}.")
    if expectation is None:
        expectation = delta is None
    if expectation == (delta is not None):
        raise InputError("give either expectation=True (a claim about the mean) or delta= (about single trials).")
    _known_metric(metric)
    recipe = Recipe(seed, (_spec(estimator, params),), (metric,))
    claimed = float(claim(problem))
    name = getattr(claim, "__name__", "claim")
    if math.isnan(claimed):
        raise AssertionError(f"{name}: not applicable – the claim is NaN for this problem")
    form = "mean" if delta is None else "share" if delta else "always"
    scale = max(1.0, problem.num_users * problem.signal_norm**2)
    trivial = 0.0 if side == "lower" else math.inf
    required = Requirement(side, form, delta or 0.0, trivial=trivial, scale=scale)
    return _Assertion(name, required, problem, recipe, claimed).decide(trials, alpha, sequential, strict)


def assert_rate(
    metric: str,
    problem: Problem,
    *,
    against: str,
    values: Sequence[Any],
    slope: float,
    estimator: EstimatorLike = "altmin",
    params: Mapping[str, Any] | None = None,
    side: str = "equality",
    trials: int = 100,
    alpha: float = 1e-6,
    seed: int = 0,
    strict: bool = False,
) -> Verdict:
    """Assert that the mean of a metric follows `value ** slope` as one field of the problem takes `values`.

    The constant is calibrated on every other value and tested on the rest, together with the log-log slope
    (tolerances: RATE_MARGIN and SLOPE_MARGIN of `grid_evidence`). side "upper": at most this rate; "lower": at
    least.

    Raises AssertionError when violated (or, with `strict`, inconclusive).
    """
    _known_metric(metric)
    if side not in _SIDES:
        raise InputError(f"side must be upper, lower or equality, got {side!r}; {nearest(side, _SIDES)}")
    if not slope:
        raise InputError("slope must not be 0; a constant level is a claim for assert_holds.")
    samples, failures = [], 0
    spec, what = _spec(estimator, params), f"{metric} ∝ {against}^{slope:g}"
    for value in values:
        changed = problem.replace(**{against: value})
        required = Requirement(side, "mean")
        runs = _Assertion(what, required, changed, Recipe(seed, (spec,), (metric,)), 0.0)
        runs.run(_scaled(trials))
        sample = runs.sample()
        failures += sample.failures
        samples.append(sample.observed)
    if failures:
        raise AssertionError(f"{what}: violated – {failures} failed trials have no finite error (seed = {seed}).")
    rate = np.asarray(values, float) ** slope
    (verdict,) = judge_family([RateTest(side, rate, samples, alpha)])
    verdict = replace(verdict, guarantee=what, metric=metric, where="")
    if verdict.status == "violated" or (strict and verdict.status != "holds"):
        raise AssertionError(f"{verdict}; seed = {seed}")
    return verdict


def replay(
    problem: Problem,
    trial: int,
    *,
    seed: int = 0,
    estimator: EstimatorLike = None,
    params: Mapping[str, Any] | None = None,
) -> tuple[Truth, Dataset, Fit | None]:
    """Draw one trial of an assertion again, and fit it when an estimator is given."""
    spec = _spec(estimator, params)
    recipe, segment = Recipe(seed, (spec,), ()), Segment(0, Cell.of(problem, {}).words, problem, (trial,), (0,))
    with one_blas_thread():
        truth, data = drawn = draw(recipe, segment.words, problem, trial)
        return truth, data, None if estimator is None else fit(recipe, segment, trial, 0, drawn)


# --- machinery ---------------------------------------------------------------------------------------------

_SIDES = ("upper", "lower", "equality")


def _scaled(trials: int) -> int:
    check_integer("trials", trials, MIN_TRIALS)
    return max(MIN_TRIALS, round(trials * trial_factor))


def _known_metric(name: str) -> None:
    known = [each for each in metrics.NAMES if each != "seconds"]
    if name not in known:
        raise InputError(f"unknown metric {name!r}; {nearest(str(name), known)}")


def _spec(
    given: EstimatorLike, params: Mapping[str, Any] | None, default: str = "altmin", recording: Any = None
) -> EstimatorSpec:
    """The estimator as a study would name it, so that the random streams are those of that study."""
    if isinstance(given, Estimator):
        if params:
            raise InputError("params belong to an estimator given by name; this one is built already.")
        return _Given.holding(given)
    cls = given if isinstance(given, type) else estimators.get(given or default)
    recorded = {name: value for name, value in (recording or {}).items() if name in cls.parameters()}
    return EstimatorSpec.of(cls, {**recorded, **(params or {})})


@dataclass(frozen=True)
class _Given(EstimatorSpec):
    """An estimator that is built already; its stream is that of a study with the same parameters."""

    estimator: Estimator | None = field(default=None, repr=False)

    @classmethod
    def holding(cls, estimator: Estimator) -> _Given:
        settings = {f.name: f.default for f in dataclasses.fields(estimator)}
        changed = {n: getattr(estimator, n) for n, default in settings.items() if n != "rank"}
        params = {n: v for n, v in changed.items() if isinstance(v, int | float | str) and v != settings[n]}
        spec = EstimatorSpec.of(type(estimator), params)
        return cls(spec.label, spec.name, spec.params, spec.cls, spec.words, estimator)

    def build(self, problem: Problem, truth: Truth | None) -> Estimator:
        assert self.estimator is not None
        return self.estimator


@dataclass
class _Assertion:
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
            for trial in range(len(self.rows), stop):
                self.rows += run_trial(self.recipe, self.segment, trial, fatal=(InputError, NotImplementedError))

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
        if not 0 < alpha < 1:
            raise InputError(f"alpha must lie strictly between 0 and 1, got {alpha!r}.")
        total = _scaled(trials)
        for share, spent in LOOKS if sequential else ((1.0, 1.0),):
            self.run(max(MIN_TRIALS, round(total * share)))
            (verdict,) = judge_family([CellTest(self.required, self.sample(), alpha * spent)])
            # what must hold in every trial is never certain before the last one, unless it is violated
            certain = ("violated",) if self.required.form == "always" else ("violated", "holds", "vacuous")
            if verdict.status in certain:
                break
        where = ", ".join(f"{key}={value!r}" for key, value in self.problem.content().items())
        verdict = replace(verdict, guarantee=self.name, estimator=self.recipe.estimators[0].name, where=where)
        if verdict.status == "holds" or (verdict.status == "inconclusive" and not strict):
            return verdict
        raise AssertionError(self._message(verdict))

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
