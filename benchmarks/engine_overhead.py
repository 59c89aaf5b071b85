"""Measures what the sweep engine costs: everything that is not drawing data and fitting.

    python benchmarks/engine_overhead.py            # overhead and speed-up, about 1 minute
    python benchmarks/engine_overhead.py --rows 1000000   # also: store and summarise that many rows

Prints one line per measurement with its target.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from colora_theory.engine import pools as workers
from colora_theory.engine.run import run
from colora_theory.engine.trial import Recipe
from colora_theory.estimators import Estimator, Fit
from colora_theory.estimators.base import register
from colora_theory.model import metrics
from colora_theory.model.sampling import sample_data
from colora_theory.model.truth import sample_truth
from colora_theory.results.results import Results
from colora_theory.results.rows import Row
from colora_theory.results.status import status
from colora_theory.results.writer import Writer
from colora_theory.studies.study import Study


@register
@dataclass(frozen=True, kw_only=True)
class Spin(Estimator):
    """Computes for a fixed processor time (so a busy machine does not blur the measurement)."""

    name = "spin"
    seconds: float = 0.005

    def fit(self, data: Any, rng: np.random.Generator | None = None) -> Fit:
        """Spin, then return zeros."""
        stop = time.process_time() + self.seconds
        while time.process_time() < stop:
            pass
        return Fit(status="converged", dense=np.zeros((data.num_users, data.dim_in, data.dim_out)))


def study(trials: int, cells: int = 1, **estimator: Any) -> Study:
    """A study of tiny problems whose fits take a known time."""
    return Study.from_dict(
        {
            "schema": 1,
            "name": "overhead",
            "seed": 1,
            "problem": {"num_samples": 2, "dim_in": 2, "rank": 1, "num_users": 2},
            "grid": {"noise_std": [0.1 + i for i in range(cells)]},
            "estimator": [estimator],
            "metrics": {"use": ["parameter_error", "subspace_distance"]},
            "run": {"trials": trials},
        }
    )


def processor_seconds(pid: int) -> float:
    """User and system time of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work_seconds(task: Study, trials: int = 300) -> float:
    """Processor seconds that drawing, fitting and measuring a trial take without any engine around them."""
    cell, spec = task.cells[0], task.estimators[0]
    rng = np.random.default_rng(0)
    with threadpool_limits(1):
        start = time.process_time()
        for _ in range(trials):
            truth = sample_truth(cell.problem, rng)
            data = sample_data(cell.problem, truth, rng)
            fit = spec.build(cell.problem, truth).fit(data, rng)
            metrics.evaluate(task.metrics, cell.problem, truth, fit)
        return (time.process_time() - start) / trials


def overhead(folder: Path, trials: int, cells: int) -> tuple[float, float]:
    """Return what the engine adds to the work, as shares of it: in processor time (worker and parent), and in
    wall time (which other programs on the machine disturb).
    """
    task = study(trials, cells, name="spin", params={"seconds": 0.005})
    run(study(2, 1, name="spin", params={"seconds": 0.001}), folder / "warm", n_jobs=1)  # workers have started
    (worker,) = workers._executors[0]._processes
    start, before = time.perf_counter(), processor_seconds(worker) + processor_seconds(os.getpid())
    run(task, folder / f"overhead-{cells}", n_jobs=1)
    wall = time.perf_counter() - start
    used = processor_seconds(worker) + processor_seconds(os.getpid()) - before
    work = work_seconds(task) * trials * cells
    return used / work - 1, wall / work - 1


def speed_up(folder: Path, trials: int) -> float:
    """Return how much faster two workers are than one on a compute-bound study."""
    seconds = []
    for jobs in (1, 2):
        run(study(4, 1, name="spin", params={"seconds": 0.001}), folder / f"warm{jobs}", n_jobs=jobs)
        start = time.perf_counter()
        run(study(trials, 4, name="spin", params={"seconds": 0.02}), folder / f"speed{jobs}", n_jobs=jobs)
        seconds.append(time.perf_counter() - start)
    return seconds[0] / seconds[1]


def many_rows(folder: Path, rows: int) -> None:
    """Write rows through the store's writer, then open, summarise and ask for the status."""
    cells = 10
    task = study(rows // cells, cells, name="full_finetuning")
    about = {"study": task.resolved(), "manifest": {}, "quick": False, "cells": [c.id for c in task.cells]}
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    writer = Writer(folder / "rows", task, Recipe.of(task).columns, about)
    for cell in range(cells):
        for first in range(0, rows // cells, 500):
            numbers = rng.lognormal(size=(min(500, rows // cells - first), 2)).tolist()
            writer.add([Row(cell, 0, first + i, "converged", "", (a, b)) for i, (a, b) in enumerate(numbers)])
    writer.close()
    seconds = time.perf_counter() - start
    tell(f"storing {rows} rows, µs per row", 1e6 * seconds / rows, 200.0, "µs")
    for name, action, limit in (
        ("status", lambda: status(folder / "rows"), 1.0),
        ("summary", lambda: Results.open(folder / "rows").summary(), 10.0),
    ):
        start = time.perf_counter()
        action()
        tell(f"{name} of {rows} rows", time.perf_counter() - start, limit, "s")
    tell("peak memory so far", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 500.0, "MB")
    size = (folder / "rows" / "results.sqlite").stat().st_size
    tell("size of the store per row", size / rows, 200.0, "B")


def tell(what: str, value: float, target: float, unit: str = "", *, least: bool = False) -> None:
    """Print one measurement."""
    good = value >= target if least else value <= target
    relation = "≥" if least else "≤"
    print(
        f"{what:48} {value:10.4g} {unit:3} (target {relation} {target:g}) {'ok' if good else 'MISSED'}", flush=True
    )


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--rows", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if chosen.rows:
            many_rows(Path(name), chosen.rows)
        for cells in (1, 100):
            shares = []
            for repeat in range(chosen.repeats):
                shares.append(overhead(Path(name) / str(repeat), chosen.trials // cells, cells))
            used, wall = (statistics.median(column) for column in zip(*shares, strict=True))
            tell(f"overhead at 5 ms per trial, {cells} cell(s), processor", 100 * used, 5.0, "%")
            tell("  the same in wall time", 100 * wall, 5.0, "%")
        gains = [speed_up(Path(name) / f"s{i}", chosen.trials // 8) for i in range(chosen.repeats)]
        tell("speed-up on 2 workers, median", statistics.median(gains), 1.8, "×", least=True)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: wall times need an idle machine")


if __name__ == "__main__":
    sys.exit(main())
