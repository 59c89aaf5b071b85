"""`[run]`: every option of how much and how long, and what it decides.

The engine asks `RunTable` when a cell has enough trials, when a run ends, how long a fit may take and how many
failures are allowed; a new option is a field and its part in one of these answers, in this file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from colora_theory.errors import InputError, known, nearest

if TYPE_CHECKING:
    from colora_theory.results.moments import Moments

Count = Annotated[int, Field(ge=1, le=10**9)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=1e7)]


#: Of every table of a study file: unknown keys are refused, values are not converted.
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Table(BaseModel):
    model_config = STRICT


class TargetTable(_Table):
    """`target_mcse`: a Monte Carlo standard error to reach, relative to the mean or absolute."""

    relative: Positive | None = None
    absolute: Positive | None = None

    @model_validator(mode="after")
    def _one(self) -> TargetTable:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError("must set exactly one of relative and absolute")
        return self

    def level(self, mean: float) -> float:
        """The standard error to reach around this mean."""
        return self.absolute if self.absolute is not None else (self.relative or 0.0) * abs(mean)


class QuickTable(_Table):
    """`quick`: what --quick runs instead."""

    trials: Count = 4
    grid: dict[str, list[Any]] = {}
    data: dict[str, Any] = {}


class RunTable(_Table):
    """`[run]`: how much and how long. No part of what a cell is, so free to change between runs.

    trials per cell; with `target_mcse` a cell ends at the first multiple of `batch` where every target is met
    for every estimator, and at `max_trials` (default `trials`) at the latest. `timeout` is in seconds per fit;
    a run ends, to be resumed, after `max_seconds`.
    `max_failures` allowed rows: a number of them, or below 1 a share of all rows.
    """

    trials: Count = 100
    batch: Annotated[int, Field(ge=2, le=10**6)] = 25
    target_mcse: dict[str, TargetTable] = {}
    max_trials: Count | None = None
    timeout: Seconds = 3600.0  # a method that never ends must not hang a study
    max_seconds: Seconds | None = None
    max_failures: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    quick: QuickTable = QuickTable()

    def check(self, metrics: Collection[str], grid: Collection[str], *, quick: bool) -> None:
        """Raise InputError for options that do not fit the study's metrics and grid."""
        for name in self.target_mcse:
            known(f"run.target_mcse.{name}", name, tuple(metrics))
        if self.max_trials is not None and not self.target_mcse and not quick:
            raise InputError("run.max_trials needs run.target_mcse; set it, or use run.trials.")
        self.quick_form(grid)

    def quick_form(self, grid: Collection[str]) -> dict[str, Any]:
        """The entries that --quick changes. Raises InputError for an axis that [grid] lacks."""
        for name in self.quick.grid:
            if name not in grid:
                raise InputError(f"run.quick.grid.{name} is not in [grid]; {nearest(name, grid)}")
        sets: dict[str, Any] = {f"grid.{name}": values for name, values in self.quick.grid.items()}
        sets |= {f"data.{name}": value for name, value in self.quick.data.items()}
        return {**sets, "run.trials": self.quick.trials, "run.target_mcse": {}}

    @property
    def adaptive(self) -> bool:
        """Whether the trials themselves decide how many there are."""
        return bool(self.target_mcse)

    @property
    def most_trials(self) -> int:
        """The number of trials at which every cell ends."""
        return self.max_trials if self.adaptive and self.max_trials else self.trials

    def cell_ends(self, moments: Iterable[tuple[str, Moments]]) -> bool:
        """Whether a cell has enough trials.

        moments : for every estimator and every metric of `target_mcse`: the metric, and the moments of the trials
        that decide, `deciding`. A metric without meaning for an estimator has no values; more would not help.
        """
        more = math.sqrt(2.0)  # the error of all trials is asked for, and half of them decide
        return all(
            found.mcse <= more * self.target_mcse[metric].level(found.mean) for metric, found in moments if found.n
        )

    def planned_trials(self, needed: int | None) -> int:
        """Trials of a cell when `needed` of them would meet every target; None: not known."""
        if not self.adaptive or needed is None:
            return self.most_trials
        return min(self.most_trials, math.ceil(max(needed, 1) / self.batch) * self.batch)

    def run_ends(self, seconds: float) -> str:
        """Why a run of this many seconds starts no further trial, or ""."""
        if self.max_seconds is not None and seconds >= self.max_seconds:
            return f"run.max_seconds = {self.max_seconds:g} are over"
        return ""

    def allowed_failures(self, rows: int) -> float:
        """Number of failures among `rows` rows that still count as success."""
        return self.max_failures if self.max_failures >= 1 else self.max_failures * rows


def deciding(start: int, stop: int) -> range:
    """Trials that decide about adaptive stopping: the even ones. Verdicts on means and shares use the others.

    Errors are skewed, and a sample that happens to lie low also looks precise: judged on the trials that ended it,
    a cell's mean is biased and true claims are called violated too often.
    """
    return range(start + start % 2, stop, 2)


def judged(trial: Any) -> Any:
    """Whether a trial (or each of an array of trials) is left for verdicts under adaptive stopping."""
    return trial % 2 == 1
