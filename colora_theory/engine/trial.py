"""One trial: draw a truth and data, let every estimator fit them, measure. Also runs chunks of trials in a worker.

Random streams are stateless: SeedSequence(study seed, spawn_key = (stream, words of the cell, …, trial)), so a
trial can be re-run alone, anywhere, and all estimators of a trial see the same truth and data.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.linalg  # noqa: F401  (loads its BLAS before threadpoolctl looks for BLAS libraries)
from threadpoolctl import ThreadpoolController

from colora_theory.estimators.base import STATUSES
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.dataset import Dataset
from colora_theory.model.problem import Problem
from colora_theory.model.sampling import sample_data
from colora_theory.model.truth import Truth, sample_truth
from colora_theory.results.rows import Row
from colora_theory.studies.study import EstimatorSpec, Study, guarantee_of

#: First word of every spawn key.
TRUTH, DATA, ESTIMATOR = 0, 1, 2
MESSAGE_LENGTH: Final = 500
CHUNK_SECONDS: Final = 0.5


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one stream."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


@dataclass(frozen=True)
class Claim:
    """A guarantee that is evaluated inside the trial, and the estimators (indices) it speaks about."""

    guarantee: Guarantee
    estimators: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to know of a study, besides the cell."""

    seed: int
    estimators: tuple[EstimatorSpec, ...]
    metrics: tuple[str, ...]
    claims: tuple[Claim, ...]
    timeout: float

    @classmethod
    def of(cls, study: Study) -> Recipe:
        """Return the recipe of `study`."""
        claims: dict[str, Claim] = {}
        for spec in study.guarantees:
            guarantee = guarantee_of(spec)
            if guarantee.per_trial:
                chosen = {
                    i
                    for i, e in enumerate(study.estimators)
                    if (e.label == spec.estimator if spec.estimator else True)
                    and (not guarantee.estimators or e.name in guarantee.estimators)
                }
                chosen |= set(claims[spec.name].estimators) if spec.name in claims else set()
                claims[spec.name] = Claim(guarantee, tuple(sorted(chosen)))
        return cls(study.seed, study.estimators, study.metrics, tuple(claims.values()), study.run.timeout)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers stored for a row."""
        extra = []
        for claim in self.claims:
            extra.append(f"guarantee:{claim.guarantee.name}")
            if hasattr(claim.guarantee, "observed"):
                extra.append(f"observed:{claim.guarantee.name}")
        return (*self.metrics, *extra)


@dataclass(frozen=True)
class Segment:
    """Trials of one cell that a worker is to run with some of the estimators."""

    cell: int
    words: tuple[int, ...]
    problem: Problem
    trials: tuple[int, ...]
    estimators: tuple[int, ...]


class TrialTimeout(BaseException):
    """Raised in a fit that takes too long; a BaseException so that no `except Exception` swallows it."""


def draw(recipe: Recipe, words: Sequence[int], problem: Problem, trial: int) -> tuple[Truth, Dataset]:
    """Return the truth and the data of a trial. The arrays are read-only: all estimators see the same."""
    truth = sample_truth(problem, stream(recipe.seed, TRUTH, *words, trial))
    data = sample_data(problem, truth, stream(recipe.seed, DATA, *words, trial))
    for array in (data.covariates, data.responses, data.counts):
        array.flags.writeable = False
    return truth, data


def run_trial(recipe: Recipe, segment: Segment, trial: int) -> list[Row]:
    """Run the segment's estimators on one trial; whatever goes wrong is a row."""
    empty = (None,) * len(recipe.columns)

    def failure(index: int, status: str, message: str) -> Row:
        return Row(segment.cell, index, trial, status, message[:MESSAGE_LENGTH], empty)

    try:
        with _alarm(recipe.timeout):
            truth, data = draw(recipe, segment.words, segment.problem, trial)
    except TrialTimeout:
        return [failure(i, "timeout", _too_long(recipe, "drawing the data")) for i in segment.estimators]
    except Exception as error:
        message = f"while drawing the data: {describe(error)}"
        return [failure(i, "failed", message) for i in segment.estimators]
    rows = []
    for index in segment.estimators:
        try:
            with _alarm(recipe.timeout):
                rows.append(_fit(recipe, segment, trial, index, truth, data))
        except TrialTimeout:
            rows.append(failure(index, "timeout", _too_long(recipe, "the fit")))
        except (Exception, SystemExit) as error:
            rows.append(failure(index, "failed", describe(error)))
    return rows


def _fit(recipe: Recipe, segment: Segment, trial: int, index: int, truth: Truth, data: Dataset) -> Row:
    spec, problem = recipe.estimators[index], segment.problem
    rng = stream(recipe.seed, ESTIMATOR, *segment.words, *spec.words, trial)
    start = time.perf_counter()
    fit = spec.build(problem, truth).fit(data, rng)
    seconds = time.perf_counter() - start
    if fit.weights.shape != truth.weights.shape:
        raise ValueError(f"the estimate has shape {fit.weights.shape}, the truth {truth.weights.shape}")
    if fit.status not in STATUSES:
        raise ValueError(f"the fit has status {fit.status!r}; allowed: {', '.join(STATUSES)}")
    measured: dict[str, float] = {"seconds": seconds, "sweeps": fit.sweeps}
    status, message = fit.status, fit.message
    if np.isfinite(fit.weights).all():
        measured |= metrics.evaluate(recipe.metrics, problem, truth, fit)
        infinite = [name for name in recipe.metrics if math.isinf(measured[name])]
        if infinite:
            status, message = "nan", f"{', '.join(infinite)} is infinite"
        for claim in recipe.claims:
            if index in claim.estimators:
                guarantee = claim.guarantee
                claimed = guarantee.value(problem, truth=truth, data=data, fit=fit)
                measured[f"guarantee:{guarantee.name}"] = claimed
                if observed := getattr(guarantee, "observed", None):
                    measured[f"observed:{guarantee.name}"] = observed(problem, truth=truth, data=data, fit=fit)
    else:
        status, message = "nan", "the estimate has entries that are not finite"
    values = tuple(_finite(measured.get(name)) for name in recipe.columns)
    return Row(segment.cell, index, trial, status, message[:MESSAGE_LENGTH], values)


def _finite(value: float | None) -> float | None:
    """A number, or None where there is none: a metric without meaning here, or an infinite one (status nan)."""
    return float(value) if value is not None and math.isfinite(value) else None


def describe(error: BaseException) -> str:
    """Return type and message of an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _too_long(recipe: Recipe, what: str) -> str:
    return f"{what} took longer than run.timeout = {recipe.timeout:g} s"


# --- chunks -------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What a worker gives back: rows, the seconds they took, the trials run, and the segments not reached."""

    rows: list[Row]
    seconds: float
    trials: int
    left: list[Segment]


def run_chunk(recipe: Recipe, segments: Sequence[Segment], in_worker: bool = True) -> Outcome:
    """Run trials until all are done or CHUNK_SECONDS are over, with one BLAS thread.

    `in_worker` allows to end this process when a fit outlives its timeout in native code.
    """
    start = time.perf_counter()
    rows: list[Row] = []
    done = 0
    with _pinned(), _quiet(), _soft_timeouts(), _Guard(recipe.timeout if in_worker else None) as guard:
        for number, segment in enumerate(segments):
            for position, trial in enumerate(segment.trials):
                if done and time.perf_counter() - start > CHUNK_SECONDS:
                    rest = replace(segment, trials=segment.trials[position:])
                    left = [rest, *segments[number + 1 :]]
                    return Outcome(rows, time.perf_counter() - start, done, left)
                guard.renew()
                rows += run_trial(recipe, segment, trial)
                done += 1
    return Outcome(rows, time.perf_counter() - start, done, [])


_controller: tuple[int, ThreadpoolController] | None = None


@contextmanager
def _pinned() -> Iterator[None]:
    """One BLAS thread: with more, sums are taken in another order and results differ in the last bits."""
    global _controller
    if _controller is None or _controller[0] != len(sys.modules):  # a new module may have brought a new BLAS
        _controller = (len(sys.modules), ThreadpoolController())
    with _controller[1].limit(limits=1):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """No floating-point warnings: what they announce is stored as the row's status."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Timeouts come in two layers. The alarm raises TrialTimeout between two Python instructions and leaves the worker
# alive. Native code that does not return never sees it; for that a timer of the C library ends the process, and
# the sweep records the row. In a thread (Dask) there are no alarms, so only the second layer works.

_alarms = False


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")


@contextmanager
def _soft_timeouts() -> Iterator[None]:
    global _alarms
    if not _main_thread():
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        raise TrialTimeout

    before = signal.signal(signal.SIGALRM, ring)
    _alarms = True
    try:
        yield
    finally:
        _alarms = False
        signal.signal(signal.SIGALRM, before)


class _alarm:
    """Raise TrialTimeout in the body after `seconds`, and again every second should the body swallow it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        if _alarms:
            signal.setitimer(signal.ITIMER_REAL, self._seconds, 1.0)

    def __exit__(self, *exc: object) -> None:
        if _alarms:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


class _Guard:
    """End this process when a trial hangs in native code, long after its alarm should have rung."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout, self._set_at = timeout, -math.inf

    def __enter__(self) -> _Guard:
        self._sink = os.open(os.devnull, os.O_WRONLY) if self._timeout else -1
        return self

    def renew(self) -> None:
        # Setting the timer costs a thread, so not for every tiny trial.
        if self._timeout and time.perf_counter() - self._set_at > self._timeout / 4:
            self._set_at = time.perf_counter()
            faulthandler.dump_traceback_later(2 * self._timeout + 1, exit=True, file=self._sink)

    def __exit__(self, *exc: object) -> None:
        if self._timeout:
            faulthandler.cancel_dump_traceback_later()
            os.close(self._sink)
