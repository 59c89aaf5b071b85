"""Trials of one cell as one array program, where they are too small to be worth a call each.

The rows are those of `trial.run_trial` (numbers to rounding, `seconds` aside). What an estimator or a trial needs
beyond the plain case stays with that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from colora_theory.engine.streams import DATA, TRUTH, streams
from colora_theory.estimators.base import Estimator
from colora_theory.estimators.stacked_descent import LARGEST_SYSTEM
from colora_theory.model import metrics
from colora_theory.model.problem import Problem
from colora_theory.model.stacked_draws import draw_stack, plain
from colora_theory.results.rows import Row

if TYPE_CHECKING:
    from colora_theory.engine.trial import Recipe, Segment

#: Bytes of a stack's moments: few enough to stay in a cache, many enough for calls to cost little.
_BYTES: Final = 1 << 22
#: Shortest time for a fit, in seconds, that no stack can miss: numbers must not depend on the machine's pace.
_PATIENCE: Final = 600.0
#: Most trials of a stack, and the least that its size allows.
_MOST, _LEAST = 64, 4


def stack_size(recipe: Recipe, segment: Segment) -> int:
    """Return how many trials of a segment to run together at most; 0 where they must be run one by one.

    That never depends on how many trials there are: a trial's numbers, to the last bit, are those of its stack.
    """
    problem = segment.setting
    if not isinstance(problem, Problem) or recipe.guarantees or not metrics.stackable(recipe.metrics):
        return 0
    if not plain(problem) or recipe.timeout < _PATIENCE:
        return 0
    if (problem.rank_in * problem.dim_in) ** 2 > LARGEST_SYSTEM:
        return 0
    each = 8 * problem.dim_in**2 * (problem.num_users + problem.rank_in**2)
    return min(_MOST, max(_LEAST, _BYTES // each))


def stacked_rows(recipe: Recipe, segment: Segment) -> list[Row]:
    """Return the rows of those trials and estimators of a segment that can be run together."""
    problem, words, trials = segment.setting, segment.words, segment.trials
    assert isinstance(problem, Problem)
    truth, data = draw_stack(
        problem,
        streams(recipe.seed, (TRUTH, *words), trials),
        streams(recipe.seed, (DATA, *words), trials),
    )
    rows = []
    for index in segment.estimators:
        start = time.perf_counter()
        spec = recipe.estimators[index]
        if spec.cls.fit_stacked is Estimator.fit_stacked:
            continue
        fit = spec.build(problem, truth).fit_stacked(data)
        if fit is None:
            continue
        seconds = (time.perf_counter() - start) / len(trials)
        measured = metrics.evaluate_stacked(recipe.metrics, problem, truth, fit)
        measured |= {"sweeps": fit.sweeps.astype(float), "seconds": np.full(len(trials), seconds)}
        table = np.array([measured[name] for name in recipe.metrics], dtype=float).T
        known = np.isfinite(table)
        sound = fit.done & np.isfinite(fit.weights).all((1, 2, 3)) & ~np.isinf(table).any(1)
        for at in np.flatnonzero(sound):
            values = tuple(v if ok else None for v, ok in zip(table[at].tolist(), known[at], strict=True))
            rows.append(Row(segment.cell, index, trials[at], "converged", "", values))
    return rows
