"""A trial on real data: one random split, every fit made once, errors on the rows held out."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.base import Fit
from colora_theory.estimators.predicted_error import predicted_errors
from colora_theory.model import metrics
from colora_theory.model.linalg import Array
from colora_theory.sources import Source, Split

if TYPE_CHECKING:
    from colora_theory.studies.study import Study


def check_data(study: Study) -> str | None:
    """Refuse a study whose real data are not there, or too few for a cell; return their SHA-256 (None: drawn)."""
    found: set[str] = set()
    for cell in study.cells:
        if isinstance(cell.setting, Source):
            try:
                cell.setting.check()
                found.add(cell.setting.fingerprint())
            except InputError as error:
                raise InputError(f"the data of the cell with {cell}: {error}") from None
    several = hashlib.sha256(" ".join(sorted(found)).encode()).hexdigest()
    return None if not found else found.pop() if len(found) == 1 else several


class RealTrial:
    """The split of one trial and the fits to it: a metric may refer to another method's fit to the same rows.

    fit : makes the fit of an estimator, by its index; it must not depend on when it is asked.
    alone, posterior : indices of the estimators that held_out_ratio and predicted_error refer to, or None.
    """

    def __init__(
        self, split: Split, fit: Callable[[int, Split], Fit], alone: int | None, posterior: int | None
    ) -> None:
        self._split, self._make, self._alone, self._posterior = split, fit, alone, posterior
        self._fits: dict[int, tuple[Fit, float]] = {}
        for data in (split.train, split.held_out):
            for array in (data.covariates, data.responses, data.counts):
                array.flags.writeable = False

    def fit(self, index: int) -> tuple[Fit, float]:
        """The fit of an estimator and the seconds it took."""
        if index not in self._fits:
            start = time.perf_counter()
            found = self._make(index, self._split)
            self._fits[index] = found, time.perf_counter() - start
        return self._fits[index]

    def measured(self, names: tuple[str, ...], index: int) -> tuple[dict[str, float], str]:
        """The metrics of one fit among `names`, and why one is absent (the fit is kept)."""
        fit = self.fit(index)[0]
        error = self._error(fit)
        out, absent = {**self._split.notes, "held_out_error": error}, []
        if "held_out_ratio" in names and self._alone is not None:
            try:
                alone = self._error(self.fit(self._alone)[0])
                out["held_out_ratio"] = error / alone if alone else math.nan
            except Exception as reason:
                absent.append(f"tuning alone failed ({reason})")
        if "predicted_error" in names and self._posterior is not None:
            try:
                users = self._split.held_out.counts > 0
                posterior = self.fit(self._posterior)[0]
                out["predicted_error"] = _mean(predicted_errors(fit, posterior, self._split.train)[users])
            except Exception as reason:
                absent.append(f"no error is predicted ({reason})")
        return {name: out[name] for name in names if name in out}, " ".join(absent)

    def _error(self, fit: Fit) -> float:
        held_out = self._split.held_out
        return _mean(metrics.held_out_errors(held_out, fit)[held_out.counts > 0])


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else math.nan
