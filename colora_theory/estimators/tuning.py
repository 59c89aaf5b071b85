"""Choosing a penalty by cross-validation over every user's rows: one helper for all methods that have one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from colora_theory.errors import InputError
from colora_theory.estimators.base import Estimator, Fit
from colora_theory.model.checks import check_word
from colora_theory.model.dataset import Dataset, predict
from colora_theory.model.linalg import Array

#: Most folds; users with fewer rows are held out one row at a time.
FOLDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Tuned(Estimator):
    """Base of methods that may choose one parameter by cross-validation.

    A subclass names the parameter (`TUNED`) and its values (`GRID`, the most penalised last), and may say what
    makes its fits to folds cheaper (`DRAFT`).

    Parameters
    ----------
    tune : "none"; "cv", the value with the least squared prediction error over folds of every user's rows; or
        "cv_1se", the most penalised value whose excess error is within one standard error over users of that.
    """

    TUNED: ClassVar[str] = "strength"
    GRID: ClassVar[tuple[float, ...]] = ()
    DRAFT: ClassVar[dict[str, Any]] = {}

    tune: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_word("tune", self.tune, ("none", "cv", "cv_1se"))

    def grid(self, data: Dataset) -> tuple[float, ...]:
        """Values that compete, the most penalised last."""
        return self.GRID

    def tuned_fit(self, data: Dataset, rng: np.random.Generator | None) -> Fit:
        """Fit at the value chosen, which `Fit.history` holds under "tuned"."""
        value = choose(self, data, rng)
        changes: dict[str, Any] = {} if value is None else {self.TUNED: value}
        plain = dataclasses.replace(self, tune="none", **changes)
        fit = plain.fit(data, rng)
        chosen = getattr(plain, self.TUNED)
        return dataclasses.replace(fit, history=dataclasses.replace(fit.history, tuned=float(chosen)))


def choose(rule: Tuned, data: Dataset, rng: np.random.Generator | None = None) -> Any:
    """The value of `rule.TUNED` that cross-validation prefers; None where no user has two samples."""
    values = rule.grid(data)
    if data.counts.max() < 2 or len(values) < 2:
        return values[0] if len(values) == 1 else None
    settings: list[dict[str, Any]] = [{**rule.DRAFT, "tune": "none", rule.TUNED: value} for value in values]
    candidates = [dataclasses.replace(rule, **each) for each in settings]
    errors = np.zeros((len(values), data.num_users))
    for train, test in folds(data, FOLDS, rng):
        for j, candidate in enumerate(candidates):
            errors[j] += squared_errors(test, candidate.fit(train, rng).weights)
    means = errors.mean(1)
    best = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
    if rule.tune == "cv_1se" and data.num_users > 1:
        excess = errors - errors[best]
        allowed = excess.std(1, ddof=1) / np.sqrt(data.num_users)
        best = int(np.flatnonzero(excess.mean(1) <= allowed)[-1])
    return values[best]


def folds(
    data: Dataset, count: int = FOLDS, rng: np.random.Generator | None = None
) -> Iterator[tuple[Dataset, Dataset]]:
    """Pairs (rows to fit, rows held out), every user's rows dealt to `count` folds in turn.

    No more folds than the largest number of rows of a user. Raises InputError where nobody has two samples, and
    for sufficient rows without `rng`.
    """
    if data.counts.max() < 2:
        raise InputError("cross-validation needs a user with at least two samples; add rows, or tune = 'none'.")
    parts = data.split(min(count, int(data.counts.max())), rng)
    for j, test in enumerate(parts):
        rest = parts[:j] + parts[j + 1 :]
        yield _joined(rest), test


def _joined(parts: list[Dataset]) -> Dataset:
    """Rows of several parts together, every user's padding behind its samples."""
    x, y = (
        np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("covariates", "responses")
    )
    if not parts[0].sufficient:
        live = [np.arange(part.covariates.shape[1]) < part.counts[:, None] for part in parts]
        order = np.argsort(~np.concatenate(live, axis=1), axis=1, kind="stable")
        users = np.arange(len(x))[:, None]
        x, y = x[users, order], y[users, order]
    counts = np.sum([part.counts for part in parts], axis=0)
    return dataclasses.replace(parts[0], covariates=x, responses=y, counts=counts)


def squared_errors(data: Dataset, weights: Array) -> Array:
    """Sum of squared prediction errors of every user, shape (num_users,); infinite beyond all numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        residual = data.responses - predict(data.covariates, weights)
        sums = (residual**2).sum(axis=tuple(range(1, residual.ndim)))
    return np.where(np.isnan(sums), np.inf, sums)
