"""One trial: draw a truth and data (or split real ones), let every estimator fit them, measure. Studies,
assertions, trajectories and `reproduce` run trials through this module. Also runs chunks of trials in a worker.

A stream's key is (stream, words of the cell, …, trial), so a trial can be re-run alone, anywhere, and all
estimators of a trial see the same truth and data.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from colora_theory.engine.limits import Guard, TrialTimeout, alarms, one_blas_thread, quiet, within
from colora_theory.engine.real_trial import RealTrial
from colora_theory.engine.stacked_trials import stack_size, stacked_rows
from colora_theory.engine.streams import DATA, ESTIMATOR, TRUTH, stream
from colora_theory.estimators.base import STATUSES, Fit
from colora_theory.estimators.frozen_subspace import serve
from colora_theory.guarantees import Guarantee
from colora_theory.model import metrics
from colora_theory.model.dataset import Dataset
from colora_theory.model.problem import Problem
from colora_theory.model.repeated_draws import DRAWS
from colora_theory.model.sampling import sample_data
from colora_theory.model.truth import Truth, sample_truth
from colora_theory.results.rows import Row
from colora_theory.sources import Source, Split
from colora_theory.studies.cells import EstimatorSpec
from colora_theory.studies.study import Study, guarantee_of

MESSAGE_LENGTH: Final = 500
CHUNK_SECONDS: Final = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialGuarantee:
    """A guarantee that is evaluated inside the trial, and the estimators (indices) it speaks about."""

    guarantee: Guarantee
    estimators: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to know of a study, besides the cell."""

    seed: int
    estimators: tuple[EstimatorSpec, ...]
    metrics: tuple[str, ...]
    guarantees: tuple[TrialGuarantee, ...] = ()
    timeout: float = math.inf
    alone: int | None = None
    posterior: int | None = None

    @classmethod
    def of(cls, study: Study) -> Recipe:
        """Return the recipe of `study`."""
        inside: dict[str, TrialGuarantee] = {}
        for spec in study.guarantees:
            guarantee = guarantee_of(spec)
            if guarantee.per_trial:
                chosen = {
                    i
                    for i, e in enumerate(study.estimators)
                    if (e.label == spec.estimator if spec.estimator else True)
                    and (not guarantee.estimators or e.name in guarantee.estimators)
                    and not guarantee.told_too_much(e.cls)
                }
                chosen |= set(inside[spec.name].estimators) if spec.name in inside else set()
                inside[spec.name] = TrialGuarantee(guarantee, tuple(sorted(chosen)))
        told = study.alone, study.posterior
        return cls(study.seed, study.estimators, study.metrics, tuple(inside.values()), study.run.timeout, *told)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers stored for a row."""
        extra = []
        for each in self.guarantees:
            extra.append(f"guarantee:{each.guarantee.name}")
            if hasattr(each.guarantee, "observed"):
                extra.append(f"observed:{each.guarantee.name}")
        return (*self.metrics, *extra)


@dataclass(frozen=True)
class Segment:
    """Trials of one cell that a worker is to run with some of the estimators."""

    cell: int
    words: tuple[int, ...]
    setting: Problem | Source
    trials: tuple[int, ...]
    estimators: tuple[int, ...]


def draw(recipe: Recipe, words: Sequence[int], problem: Problem, trial: int) -> tuple[Truth, Dataset]:
    """Return the truth and the data of a trial. The arrays are read-only: all estimators see the same."""
    if problem.draws != "own":
        truth, data = DRAWS[problem.draws](problem, trial)
    else:
        truth = sample_truth(problem, stream(recipe.seed, TRUTH, *words, trial))
        data = sample_data(problem, truth, stream(recipe.seed, DATA, *words, trial))
    for array in (data.covariates, data.responses, data.counts):
        array.flags.writeable = False
    return truth, data


def drawn_for(recipe: Recipe, segment: Segment, trial: int) -> tuple[Truth | None, Dataset]:
    """Return what `fit` takes: the truth (None for real data) and the data that the estimators of a trial see."""
    if isinstance(segment.setting, Problem):
        return draw(recipe, segment.words, segment.setting, trial)
    return None, segment.setting.split(stream(recipe.seed, DATA, *segment.words, trial)).train


def real_trial(recipe: Recipe, segment: Segment, source: Source, trial: int) -> RealTrial:
    """Return a trial on real data: its split, and the fits to it as they are asked for."""
    split = source.split(stream(recipe.seed, DATA, *segment.words, trial))

    def made(index: int, split: Split) -> Fit:
        return fit(recipe, segment, trial, index, (None, split.train))

    return RealTrial(split, made, recipe.alone, recipe.posterior)


def fit(
    recipe: Recipe, segment: Segment, trial: int, index: int, drawn: tuple[Truth | None, Dataset], **changes: Any
) -> Fit:
    """Return the fit of one estimator in one trial; `changes` replace parameters (recording more, say).

    Raises ValueError for an estimate of another shape than the data ask for, or with an unknown status.
    """
    spec, (truth, data) = recipe.estimators[index], drawn
    rng = stream(recipe.seed, ESTIMATOR, *segment.words, *spec.words, trial)
    estimator = spec.build(segment.setting, truth)
    found = (dataclasses.replace(estimator, **changes) if changes else estimator).fit(data, rng)
    if found.status not in STATUSES:
        raise ValueError(f"the fit has status {found.status!r}; allowed: {', '.join(STATUSES)}")
    needed = (data.num_users, data.dim_in, data.dim_out)
    if found.weights.shape != needed:
        raise ValueError(f"the estimate has shape {found.weights.shape}, users' weights {needed}")
    return found if data.newcomer is None else serve(found, data.newcomer)


def run_trial(recipe: Recipe, segment: Segment, trial: int, fatal: tuple[type[Exception], ...] = ()) -> list[Row]:
    """Run the segment's estimators on one trial; whatever goes wrong is a row, except what is `fatal`."""
    empty = (None,) * len(recipe.columns)

    def failure(index: int, status: str, message: str) -> Row:
        return Row(segment.cell, index, trial, status, message[:MESSAGE_LENGTH], empty)

    try:
        drawn = within(recipe.timeout, lambda: _drawn(recipe, segment, trial))
    except TrialTimeout:
        return [failure(i, "timeout", _too_long(recipe, "drawing the data")) for i in segment.estimators]
    except fatal:
        raise
    except Exception as error:
        message = f"while drawing the data: {describe(error)}"
        return [failure(i, "failed", message) for i in segment.estimators]
    rows = []
    for index in segment.estimators:
        try:
            row = within(recipe.timeout, lambda index=index: _measured(recipe, segment, trial, index, drawn))  # type: ignore[misc]
        except TrialTimeout:
            row = failure(index, "timeout", _too_long(recipe, "the fit"))
        except fatal:
            raise
        except (Exception, SystemExit) as error:
            row = failure(index, "failed", describe(error))
        rows.append(row)
    return rows


def _drawn(recipe: Recipe, segment: Segment, trial: int) -> tuple[Truth, Dataset] | RealTrial:
    if isinstance(segment.setting, Problem):
        return draw(recipe, segment.words, segment.setting, trial)
    return real_trial(recipe, segment, segment.setting, trial)


def _measured(
    recipe: Recipe, segment: Segment, trial: int, index: int, drawn: tuple[Truth, Dataset] | RealTrial
) -> Row:
    start = time.perf_counter()
    if isinstance(drawn, RealTrial):
        found, seconds = drawn.fit(index)
    else:
        found = fit(recipe, segment, trial, index, drawn)
        seconds = time.perf_counter() - start
    measured: dict[str, float] = {"seconds": seconds, "sweeps": found.sweeps}
    status, message = found.status, found.message
    if np.isfinite(found.weights).all():
        if isinstance(drawn, RealTrial):
            compared, absent = drawn.measured(recipe.metrics, index)
            message = " ".join(filter(None, [message, absent]))
        else:
            assert isinstance(segment.setting, Problem)
            compared = metrics.evaluate(recipe.metrics, segment.setting, drawn[0], found)
        measured |= compared
        infinite = [name for name in recipe.metrics if math.isinf(measured.get(name, 0.0))]
        if infinite:
            status, message = "nan", f"{', '.join(infinite)} is infinite"
        for each in recipe.guarantees:
            if index in each.estimators and isinstance(drawn, tuple) and isinstance(segment.setting, Problem):
                claims, absent = _claimed(each.guarantee, segment.setting, *drawn, found)
                measured |= claims
                message = " ".join(filter(None, [message, absent]))
    else:
        status, message = "nan", "the estimate has entries that are not finite"
    values = tuple(_finite(measured.get(name)) for name in recipe.columns)
    return Row(segment.cell, index, trial, status, message[:MESSAGE_LENGTH], values)


def _claimed(
    guarantee: Guarantee, problem: Problem, truth: Truth, data: Dataset, found: Fit
) -> tuple[dict[str, float], str]:
    """What a guarantee claims for one trial, what it observed, and why either is absent (the fit is kept)."""
    out, absent = {}, []
    for what, ask in (("guarantee", guarantee.value), ("observed", getattr(guarantee, "observed", None))):
        if ask is None:
            continue
        try:
            out[f"{what}:{guarantee.name}"] = ask(problem, truth=truth, data=data, fit=found)
        except Exception as error:
            absent.append(f"{guarantee.name} claims nothing here ({describe(error)})")
    return out, " ".join(absent[:1])


def _finite(value: float | None) -> float | None:
    """A number, or None where there is none: a metric without meaning here, or an infinite one (status nan)."""
    return float(value) if value is not None and math.isfinite(value) else None


def describe(error: BaseException) -> str:
    """Return type and message of an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _too_long(recipe: Recipe, what: str) -> str:
    return f"{what} took longer than run.timeout = {recipe.timeout:g} s"


# --- chunks -------------------------------------------------------------------------------------------------


def batches(recipe: Recipe, segment: Segment) -> list[Segment]:
    """Divide a segment into the trials that are run together: many small plain ones, or one."""
    size = max(1, stack_size(recipe, segment))
    return [replace(segment, trials=segment.trials[i : i + size]) for i in range(0, len(segment.trials), size)]


def run_batch(recipe: Recipe, segment: Segment, fatal: tuple[type[Exception], ...] = ()) -> list[Row]:
    """Run a batch together where that can be done, and by `run_trial` what that leaves undone.

    An error of the batch as a whole, which its trials then tell one by one or do not have, is logged as debugging.
    """
    rows: list[Row] = []
    if stack_size(recipe, segment):
        try:
            rows = within(recipe.timeout, lambda: stacked_rows(recipe, segment))
        except (TrialTimeout, Exception) as error:
            _log.debug("trials run one by one: %s", describe(error))
    done = {(row.trial, row.estimator) for row in rows}
    for trial in segment.trials:
        left = tuple(index for index in segment.estimators if (trial, index) not in done)
        if left:
            rows += run_trial(recipe, replace(segment, trials=(trial,), estimators=left), trial, fatal)
    return rows


class Outcome(NamedTuple):
    """What a worker gives back: rows, the seconds they took, the trials run, and the segments not reached."""

    rows: list[Row]
    seconds: float
    trials: int
    left: list[Segment]


def run_chunk(recipe: Recipe, segments: Sequence[Segment], in_worker: bool = True, note: str = "") -> Outcome:
    """Run trials until all are done or CHUNK_SECONDS are over, with one BLAS thread.

    `in_worker` allows to end this process when a fit outlives its timeout in native code; what it was doing is
    then left in the file `note`.
    """
    start = time.perf_counter()
    rows: list[Row] = []
    done = 0
    with one_blas_thread(), quiet(), alarms(), Guard(recipe.timeout if in_worker else None, note) as guard:
        for number, segment in enumerate(segments):
            for batch in batches(recipe, segment):
                if done and time.perf_counter() - start > CHUNK_SECONDS:
                    rest = replace(segment, trials=segment.trials[segment.trials.index(batch.trials[0]) :])
                    left = [rest, *segments[number + 1 :]]
                    return Outcome(rows, time.perf_counter() - start, done, left)
                guard.renew()
                rows += run_batch(recipe, batch)
                done += len(batch.trials)
    return Outcome(rows, time.perf_counter() - start, done, [])
