"""When a cell has enough trials: its Monte Carlo standard errors, looked at only after whole batches."""

from __future__ import annotations

from collections.abc import Callable

from colora_theory.results.moments import Moments
from colora_theory.studies.run_options import deciding
from colora_theory.studies.study import Study


class Stopping:
    """Asks the study's `[run]` whether a cell has enough trials, as every other trial tells.

    values : values(cell, estimator, metric, trials) returns the stored numbers in trial order.
    """

    def __init__(self, study: Study, values: Callable[[int, int, str, range], list[float]]) -> None:
        self._run = study.run
        self._estimators = range(len(study.estimators))
        self._values = values
        self._moments: dict[int, dict[tuple[int, str], Moments]] = {}
        self._seen: dict[int, int] = {}

    def __call__(self, cell: int, stop: int) -> bool:
        moments = self._moments.setdefault(cell, {})
        for start in range(self._seen.get(cell, 0), stop, self._run.batch):
            for estimator in self._estimators:
                for metric in self._run.target_mcse:
                    batch = self._values(
                        cell, estimator, metric, deciding(start, min(start + self._run.batch, stop))
                    )
                    moments.setdefault((estimator, metric), Moments()).add(batch)
        self._seen[cell] = stop
        return self._run.cell_ends((metric, found) for (_, metric), found in moments.items())
