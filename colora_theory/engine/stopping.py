"""When a cell has enough trials: its Monte Carlo standard errors, looked at only after whole batches."""

from __future__ import annotations

import math
from collections.abc import Callable

from colora_theory.results.moments import Moments
from colora_theory.studies.schema import deciding
from colora_theory.studies.study import Study


class Stopping:
    """Answers whether a cell has reached every `run.target_mcse` for every estimator, as every other trial tells.

    values : values(cell, estimator, metric, trials) returns the stored numbers in trial order.
    """

    def __init__(self, study: Study, values: Callable[[int, int, str, range], list[float]]) -> None:
        self._targets = study.run.target_mcse
        self._estimators = range(len(study.estimators))
        self._values, self._batch = values, study.run.batch
        self._moments: dict[int, dict[tuple[int, str], Moments]] = {}
        self._seen: dict[int, int] = {}

    def __call__(self, cell: int, stop: int) -> bool:
        moments = self._moments.setdefault(cell, {})
        for start in range(self._seen.get(cell, 0), stop, self._batch):
            for estimator in self._estimators:
                for metric in self._targets:
                    batch = self._values(cell, estimator, metric, deciding(start, min(start + self._batch, stop)))
                    moments.setdefault((estimator, metric), Moments()).add(batch)
        self._seen[cell] = stop
        return all(self._met(metric, m) for (_, metric), m in moments.items())

    def _met(self, metric: str, moments: Moments) -> bool:
        if not moments.n:
            return (
                True  # a metric without meaning for this estimator, or nothing but failures: more would not help
            )
        target = self._targets[metric]
        level = target.absolute if target.absolute is not None else (target.relative or 0.0) * abs(moments.mean)
        return moments.mcse <= math.sqrt(2.0) * level  # of all trials, of which half decide
