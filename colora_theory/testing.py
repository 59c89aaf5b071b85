"""Bounds in unit tests: assert that a theorem, a claim of your own or a rate holds, with a stated error level.

    >>> import colora_theory as ct
    >>> problem = ct.Problem(num_users=5, num_samples=30, dim_in=10, rank=2, noise_std=0.1)
    >>> ct.testing.assert_guarantee("local_least_squares_risk", problem, trials=100, seed=0).status
    'inconclusive'
    >>> ct.testing.assert_holds(lambda p: 1.0, problem, estimator="full_finetuning", trials=50, seed=0).status
    'holds'

A claim is tested with the power that the trials give: where even a claim that is wrong by 20 % could not have been
caught, a `LowPowerWarning` says so (an error with `strict=True`, or under `-W error`).

An assertion fails (AssertionError) only when the claim is violated at level `alpha`, says nothing (vacuous) or
does not apply; with `strict=True` also while the evidence is inconclusive. It returns the verdict otherwise. The
trials use the random streams of studies, so a trial named in a message can be drawn again with `replay`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from colora_theory import estimators, guarantees
from colora_theory.assertion import LOOKS, Assertion, EstimatorLike, LowPowerWarning, number_of, spec_of
from colora_theory.engine.limits import one_blas_thread
from colora_theory.engine.trial import Recipe, Segment, TrialGuarantee, draw, fit
from colora_theory.errors import InputError, expect, nearest
from colora_theory.estimators import Fit
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.checks import check_flag, check_integer, check_real
from colora_theory.model.dataset import Dataset
from colora_theory.model.problem import Problem
from colora_theory.model.truth import Truth
from colora_theory.studies.cells import Cell
from colora_theory.verdicts.check import inapplicable, is_scaling, requirement_of
from colora_theory.verdicts.judge import MIN_TRIALS, Requirement, judge_family
from colora_theory.verdicts.scaling import RateTest
from colora_theory.verdicts.verdict import Verdict

__all__ = [
    "LOOKS",
    "LowPowerWarning",
    "assert_guarantee",
    "assert_holds",
    "assert_rate",
    "assert_unbreakable",
    "replay",
]

#: Factor on every number of trials; the pytest option --colora-trials sets it.
trial_factor: float = 1.0


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
    expect("name", guarantee, Guarantee, "give the name of a guarantee, or a Guarantee of your own")
    _check(problem, seed, alpha, delta, params, sequential=sequential, strict=strict)
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
    spec = spec_of(estimator, params, (available or ["altmin"])[0], guarantee.recording)
    if told := guarantee.told_too_much(spec.cls):
        raise AssertionError(f"{guarantee.name}: not applicable – {told}")
    inside = (TrialGuarantee(guarantee, (0,)),) if guarantee.per_trial or hasattr(guarantee, "observed") else ()
    compared = (guarantee.metric,) if guarantee.metric in metrics.NAMES else ()
    recipe = Recipe(seed, (spec,), compared, inside)
    fixed = None if guarantee.per_trial else guarantee.value(problem)
    required = requirement_of(guarantee, problem, delta)
    return Assertion(guarantee.name, required, problem, recipe, fixed).decide(
        _scaled(trials), alpha, sequential, strict
    )


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
    _check(problem, seed, alpha, delta, params, sequential=sequential, strict=strict)
    if expectation is not None:
        check_flag("expectation", expectation)
    if not callable(claim):
        raise InputError(f"claim must be a function of a Problem, got {claim!r}; give lambda problem: ....")
    if not isinstance(side, str) or side not in ("upper", "lower", "equality"):
        raise InputError(f"side must be upper, lower or equality, got {side!r}; {nearest(str(side), _SIDES)}")
    if expectation is None:
        expectation = delta is None
    if expectation == (delta is not None):
        raise InputError("give either expectation=True (a claim about the mean) or delta= (about single trials).")
    _known_metric(metric)
    recipe = Recipe(seed, (spec_of(estimator, params),), (metric,))
    claimed = number_of(claim, problem)
    name = getattr(claim, "__name__", "claim")
    if math.isnan(claimed):
        raise AssertionError(f"{name}: not applicable – the claim is NaN for this problem")
    form = "mean" if delta is None else "share" if delta else "always"
    scale = max(1.0, problem.num_users * problem.signal_norm**2)
    trivial = 0.0 if side == "lower" else math.inf
    required = Requirement(side, form, delta or 0.0, trivial=trivial, scale=scale)
    return Assertion(name, required, problem, recipe, claimed).decide(_scaled(trials), alpha, sequential, strict)


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
    _check(problem, seed, alpha, None, params, strict=strict)
    _known_metric(metric)
    if side not in _SIDES:
        raise InputError(f"side must be upper, lower or equality, got {side!r}; {nearest(side, _SIDES)}")
    expect("against", against, str, "name a field of Problem")
    slope = check_real("slope", slope, -math.inf)
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str) or len(values) < 2:
        raise InputError(f"values must be a list of at least two values of {against}, got {values!r:.60}.")
    if not slope:
        raise InputError("slope must not be 0; a constant level is a claim for assert_holds.")
    samples, failures = [], 0
    spec, what = spec_of(estimator, params), f"{metric} ∝ {against}^{slope:g}"
    for value in values:
        changed = problem.replace(**{against: value})
        required = Requirement(side, "mean")
        runs = Assertion(what, required, changed, Recipe(seed, (spec,), (metric,)), 0.0)
        runs.run(_scaled(trials))
        sample = runs.sample()
        failures += sample.failures
        samples.append(sample.observed)
    if failures:
        raise AssertionError(f"{what}: violated – {failures} failed trials have no finite error (seed = {seed}).")
    rate = np.asarray([check_real(f"values of {against}", v, 0.0) for v in values]) ** slope
    (verdict,) = judge_family([RateTest(side, rate, samples, alpha)])
    verdict = replace(verdict, guarantee=what, metric=metric, where="")
    if verdict.status == "violated" or (strict and verdict.status != "holds"):
        raise AssertionError(f"{verdict}; seed = {seed}")
    return verdict


def assert_unbreakable(
    claim: str | Guarantee | Callable[[Problem], float],
    *,
    bounds: Mapping[str, Any] | None = None,
    trials: int = 2000,
    alpha: float = 1e-6,
    seed: int = 0,
    **settings: Any,
) -> Verdict:
    """Assert that a search of `trials` trials finds no problem inside the hypotheses that violates the claim.

    The arguments are those of `ct.attack`; the AssertionError names the problem and holds the study file that
    reproduces it.
    """
    from colora_theory.counterexample import attack

    verdict = attack(claim, bounds=bounds, trials=_scaled(trials), alpha=alpha, seed=seed, **settings)
    if verdict.status == "violated":
        raise AssertionError(f"{verdict}\n\n{verdict.study}")
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
    _check(problem, seed, 0.5, None, params)
    trial = check_integer("trial", trial, 0, 2**32 - 1)
    spec = spec_of(estimator, params)
    recipe, segment = Recipe(seed, (spec,), ()), Segment(0, Cell.of(problem, {}).words, problem, (trial,), (0,))
    with one_blas_thread():
        truth, data = drawn = draw(recipe, segment.words, problem, trial)
        return truth, data, None if estimator is None else fit(recipe, segment, trial, 0, drawn)


# --- machinery ---------------------------------------------------------------------------------------------

_SIDES = ("upper", "lower", "equality")


def _check(problem: Problem, seed: int, alpha: float, delta: float | None, params: Any, **flags: bool) -> None:
    """Refuse arguments of a wrong type or size, in one sentence each."""
    expect("problem", problem, Problem, "build one with ct.Problem(num_users=..., ...)")
    check_integer("seed", seed, 0, 2**1024)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise InputError(f"alpha must lie strictly between 0 and 1, got {alpha!r}.")
    share = isinstance(delta, int | float) and not isinstance(delta, bool) and 0 <= delta < 1
    if delta is not None and not share:
        raise InputError(f"delta must be a share in [0, 1), got {delta!r}.")
    expect("params", params, (Mapping, type(None)), "give the estimator's parameters by name")
    for name, value in flags.items():
        check_flag(name, value)


def _scaled(trials: int) -> int:
    check_integer("trials", trials, MIN_TRIALS)
    return max(MIN_TRIALS, round(trials * trial_factor))


def _known_metric(name: str) -> None:
    known = [each for each in metrics.NAMES if each != "seconds"]
    if not isinstance(name, str) or name not in known:
        raise InputError(f"unknown metric {name!r}; {nearest(str(name), known)}")
