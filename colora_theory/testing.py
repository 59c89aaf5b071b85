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

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from colora_theory import estimators, guarantees
from colora_theory.engine.trial import DATA, ESTIMATOR, TRUTH, describe, stream
from colora_theory.errors import InputError, nearest
from colora_theory.estimators import Estimator, Fit
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.dataset import Dataset
from colora_theory.model.problem import Problem
from colora_theory.model.sampling import sample_data
from colora_theory.model.truth import Truth, sample_truth
from colora_theory.studies.study import Cell
from colora_theory.verdicts.check import claim_of, inapplicable, is_scaling
from colora_theory.verdicts.judge import MIN_TRIALS, Claim, Sample, Verdict, judge
from colora_theory.verdicts.scaling import judge_rate

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
    chosen = _estimator(estimator, params, guarantee.estimators, problem, guarantee.recording)
    runner = _Runner(problem, chosen, seed)
    if why := inapplicable(guarantee, problem):
        raise AssertionError(f"{guarantee.name}: not applicable – {why}")
    claim, fixed = claim_of(guarantee, problem, delta), None
    if not guarantee.per_trial:
        fixed = guarantee.value(problem)
    observe = getattr(guarantee, "observed", None)

    def measure(truth: Truth, data: Dataset, fit: Fit) -> tuple[float, float]:
        claimed = fixed if fixed is not None else guarantee.value(problem, truth=truth, data=data, fit=fit)
        seen = observe(problem, truth, data, fit) if observe else _metric(guarantee.metric, problem, truth, fit)
        return seen, claimed

    return _decide(guarantee.name, claim, runner, measure, trials, alpha, sequential, strict)


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
    runner = _Runner(problem, _estimator(estimator, params, (), problem), seed)
    claimed = float(claim(problem))
    name = getattr(claim, "__name__", "claim")
    if math.isnan(claimed):
        raise AssertionError(f"{name}: not applicable – the claim is NaN for this problem")
    form = "mean" if delta is None else "rate" if delta else "always"
    scale = max(1.0, problem.num_users * problem.signal_norm**2)
    trivial = 0.0 if side == "lower" else math.inf
    tested = Claim(side, form, delta or 0.0, trivial=trivial, scale=scale)

    def measure(truth: Truth, data: Dataset, fit: Fit) -> tuple[float, float]:
        return _metric(metric, problem, truth, fit), claimed

    return _decide(name, tested, runner, measure, trials, alpha, sequential, strict)


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
    for value in values:
        changed = problem.replace(**{against: value})
        runner = _Runner(changed, _estimator(estimator, params, (), changed), seed)

        def measure(truth: Truth, data: Dataset, fit: Fit, problem: Problem = changed) -> tuple[float, float]:
            return _metric(metric, problem, truth, fit), 0.0

        rows = list(runner.run(0, _scaled(trials), measure))
        failures += sum(math.isnan(row[0]) for row in rows)
        samples.append(np.array([row[0] for row in rows]))
    what = f"{metric} ∝ {against}^{slope:g}"
    if failures:
        raise AssertionError(f"{what}: violated – {failures} failed trials have no finite error (seed = {seed}).")
    rate = np.asarray(values, float) ** slope
    verdict = replace(judge_rate(side, rate, samples, alpha=alpha), guarantee=what, metric=metric, where="")
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
    if estimator is None:
        return (*_Runner(problem, None, seed).draw(trial), None)
    runner = _Runner(problem, _estimator(estimator, params, (), problem), seed)
    truth, data = runner.draw(trial)
    return truth, data, runner.fit(trial, truth, data)


# --- machinery ---------------------------------------------------------------------------------------------

_SIDES = ("upper", "lower", "equality")


def _scaled(trials: int) -> int:
    if trials < MIN_TRIALS:
        raise InputError(f"trials must be at least {MIN_TRIALS}, got {trials}; raise it.")
    return max(MIN_TRIALS, round(trials * trial_factor))


def _known_metric(name: str) -> None:
    known = [each for each in metrics.NAMES if each != "seconds"]
    if name not in known:
        raise InputError(f"unknown metric {name!r}; {nearest(name, known)}")


def _metric(name: str, problem: Problem, truth: Truth, fit: Fit) -> float:
    return float(fit.sweeps) if name == "sweeps" else metrics.evaluate([name], problem, truth, fit)[name]


class _Built:
    """An estimator still to be built, because an oracle's side information comes from each trial's truth."""

    def __init__(self, cls: type[Estimator], params: dict[str, Any]) -> None:
        self.cls, self.params = cls, params
        self.words = (0,)

    def build(self, truth: Truth) -> Estimator:
        side = {name: getattr(truth, name) for name in self.cls.side_information}
        return self.cls.from_params(**{**self.params, **side})


def _estimator(
    given: EstimatorLike,
    params: Mapping[str, Any] | None,
    default: tuple[str, ...],
    problem: Problem,
    recording: Mapping[str, Any] | None = None,
) -> _Built | Estimator:
    if isinstance(given, Estimator):
        if params:
            raise InputError("params belong to an estimator given by name; this one is built already.")
        return given
    if given is None:
        available = [name for name in default if name in estimators.names()]
        given = available[0] if available else "altmin"
    cls = estimators.get(given) if isinstance(given, str) else given
    recorded = {name: value for name, value in (recording or {}).items() if name in cls.parameters()}
    settings = {**recorded, **(params or {})}
    if "rank" in cls.parameters():
        settings.setdefault("rank", problem.rank)
    return _Built(cls, settings)


class _Runner:
    """Trials of one problem and one estimator, on the random streams that studies use."""

    def __init__(self, problem: Problem, estimator: _Built | Estimator | None, seed: int) -> None:
        self.problem, self.estimator, self.seed = problem, estimator, seed
        self.words = Cell.of(problem, {}).words
        self.messages: dict[int, str] = {}

    def draw(self, trial: int) -> tuple[Truth, Dataset]:
        truth = sample_truth(self.problem, stream(self.seed, TRUTH, *self.words, trial))
        return truth, sample_data(self.problem, truth, stream(self.seed, DATA, *self.words, trial))

    def fit(self, trial: int, truth: Truth, data: Dataset) -> Fit:
        built = self.estimator.build(truth) if isinstance(self.estimator, _Built) else self.estimator
        assert built is not None
        return built.fit(data, stream(self.seed, ESTIMATOR, *self.words, trial))

    def run(
        self, start: int, stop: int, measure: Callable[[Truth, Dataset, Fit], tuple[float, float]]
    ) -> Iterator[tuple[float, float, bool]]:
        """Yield observed, claimed, failed for each trial; an exception in a fit is a failed trial."""
        for trial in range(start, stop):
            truth, data = self.draw(trial)
            try:
                fit = self.fit(trial, truth, data)
                if not np.isfinite(fit.weights).all():
                    raise FloatingPointError("the estimate has entries that are not finite")
            except (InputError, NotImplementedError):
                raise
            except Exception as error:
                self.messages[trial] = describe(error)
                yield math.nan, math.nan, True
                continue
            yield (*measure(truth, data, fit), False)


def _decide(
    name: str,
    claim: Claim,
    runner: _Runner,
    measure: Callable[[Truth, Dataset, Fit], tuple[float, float]],
    trials: int,
    alpha: float,
    sequential: bool,
    strict: bool,
) -> Verdict:
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie strictly between 0 and 1, got {alpha!r}.")
    rows: list[tuple[float, float, bool]] = []
    total = _scaled(trials)
    for share, spent in LOOKS if sequential else ((1.0, 1.0),):
        stop = max(MIN_TRIALS, round(total * share))
        rows += runner.run(len(rows), stop, measure)
        observed, claimed, failed = zip(*rows, strict=True)
        verdict = judge(claim, Sample.of(observed, claimed, failed), alpha=alpha * spent)
        # what must hold in every trial is never certain before the last one, unless it is violated
        decisive = ("violated",) if claim.form == "always" else ("violated", "holds", "vacuous")
        if verdict.status in decisive:
            break
    verdict = replace(verdict, guarantee=name, estimator=_label(runner.estimator), where=_short(runner.problem))
    if verdict.status == "holds" or (verdict.status == "inconclusive" and not strict):
        return verdict
    raise AssertionError(_message(verdict, runner))


def _label(estimator: _Built | Estimator | None) -> str:
    return estimator.cls.name if isinstance(estimator, _Built) else getattr(estimator, "name", "")


def _short(problem: Problem) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in problem.content().items())


def _message(verdict: Verdict, runner: _Runner) -> str:
    lines = [str(verdict)]
    if verdict.violations and verdict.worst is not None:
        lines.append(f"{verdict.violations} of {verdict.trials} single trials are beyond the claim.")
    if runner.messages:
        trial, text = next(iter(runner.messages.items()))
        lines.append(f"first failed trial {trial}: {text}")
    if verdict.worst is not None:
        lines.append(
            f"worst trial {verdict.worst}: draw it again with colora_theory.testing.replay(problem, "
            f"{verdict.worst}, seed={runner.seed}, estimator={_label(runner.estimator)!r})"
        )
    return "\n".join(lines)
