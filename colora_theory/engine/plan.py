"""What a study will cost, from a few trials of every cell."""

from __future__ import annotations

import math
import statistics
from concurrent.futures import wait
from typing import Any, Final

from colora_theory.engine.memory import bytes_of, check
from colora_theory.engine.pools import Pool, open_pool, worker_count
from colora_theory.engine.real_trial import check_data
from colora_theory.engine.trial import Recipe, Segment, run_chunk
from colora_theory.model.memory import size
from colora_theory.results.rows import FAILURES, Row
from colora_theory.results.text import duration, table
from colora_theory.studies.study import Study

#: The precision to plan for when the study sets no target: a Monte Carlo error of 5 % of the mean.
RELATIVE: Final = 0.05
ROW_BYTES: Final = 40
PILOT_SECONDS: Final = 5.0


def plan(study: Study, *, pilot: int = 5, n_jobs: int = 1) -> dict[str, Any]:
    """Run `pilot` trials of every cell (fewer when they are slow) and extrapolate; nothing is stored.

    Returns {"cells": [...], "seconds", "store_bytes", "memory_bytes"}; per cell: cell, varied, seconds_per_trial,
    memory_bytes (of one trial), failed (of the pilot's rows), trials_needed (None when unknown: for the study's
    target_mcse, else for 5 % of the first metric), trials_planned, seconds (wall time on n_jobs workers).
    """
    n_jobs = worker_count(n_jobs)
    check(study, n_jobs)
    check_data(study)
    recipe = Recipe.of(study)
    everyone = tuple(range(len(study.estimators)))
    pool = open_pool("loky", n_jobs, None)
    cells: list[dict[str, Any]] = []
    try:
        for index, cell in enumerate(study.cells):
            segment = Segment(index, cell.words, cell.setting, tuple(range(pilot)), everyone)
            rows, each = _pilot(pool, recipe, segment)
            needed = _needed(study, recipe, rows)
            planned = study.run.planned_trials(needed)
            cells.append(
                {
                    "cell": cell.id,
                    "varied": cell.varied,
                    "seconds_per_trial": each,
                    "memory_bytes": bytes_of(cell),
                    "failed": sum(row.status in FAILURES for row in rows) if each is not None else pilot,
                    "trials_needed": needed,
                    "trials_planned": planned,
                    "seconds": None if each is None else planned * each / n_jobs,
                }
            )
    finally:
        pool.close()
    rows_planned = sum(cell["trials_planned"] for cell in cells) * len(everyone)
    return {
        "cells": cells,
        "seconds": sum(cell["seconds"] or 0.0 for cell in cells),
        "store_bytes": rows_planned * (ROW_BYTES + 9 * len(recipe.columns)),
        "memory_bytes": n_jobs * max(cell["memory_bytes"] for cell in cells),
        "n_jobs": n_jobs,
    }


def _pilot(pool: Pool, recipe: Recipe, segment: Segment) -> tuple[list[Row], float | None]:
    """Return the pilot's rows and the seconds per trial (None when the worker died)."""
    rows: list[Row] = []
    left, seconds, trials = [segment], 0.0, 0
    while left and seconds < PILOT_SECONDS:
        future = pool.submit(run_chunk, recipe, left)
        wait([future])
        outcome = pool.collect(future)
        if isinstance(outcome, str):
            return rows, None
        rows += outcome.rows
        left, seconds, trials = outcome.left, seconds + outcome.seconds, trials + outcome.trials
    return rows, seconds / trials


def _needed(study: Study, recipe: Recipe, rows: list[Row]) -> int | None:
    """Trials at which every target would be met, judging from the pilot's spread."""
    targets = {name: (t.relative, t.absolute) for name, t in study.run.target_mcse.items()}
    targets = targets or {study.metrics[0]: (RELATIVE, None)}
    needed = None
    for name, (relative, absolute) in targets.items():
        column = recipe.columns.index(name)
        for estimator in range(len(study.estimators)):
            values = [v for r in rows if r.estimator == estimator and (v := r.values[column]) is not None]
            if len(values) < 2:
                continue
            if len(set(values)) == 1:  # no spread seen is no spread known
                return None
            level = absolute if absolute is not None else (relative or 0.0) * abs(statistics.fmean(values))
            spread = statistics.stdev(values)
            enough = math.ceil((spread / level) ** 2) if level else None
            if enough is not None:
                needed = max(needed or 2, enough)
    return needed


def as_text(found: dict[str, Any]) -> str:
    """Return the plan as text."""
    rows = [
        [
            cell["cell"],
            ", ".join(f"{name} = {value}" for name, value in cell["varied"].items()),
            "died" if cell["seconds_per_trial"] is None else duration(cell["seconds_per_trial"]),
            size(cell["memory_bytes"]),
            cell["failed"],
            "unknown" if cell["trials_needed"] is None else cell["trials_needed"],
            cell["trials_planned"],
            "unknown" if cell["seconds"] is None else duration(cell["seconds"]),
        ]
        for cell in found["cells"]
    ]
    head = ["cell", "fields", "per trial", "memory", "failed", "trials needed", "planned", "time"]
    total = (
        f"in all: {duration(found['seconds'])} on {found['n_jobs']} worker(s), {size(found['memory_bytes'])} "
        f"of data in memory at a time, a store of {size(found['store_bytes'])}"
    )
    return "\n".join([*table(head, rows), total])
