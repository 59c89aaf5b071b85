"""Whether a trial fits into memory, asked before any work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from colora_theory.errors import InputError
from colora_theory.model.problem import Problem
from colora_theory.results.text import size
from colora_theory.studies.study import Study

#: A trial holds the data, and about as much again while they are drawn and fitted.
COPIES: Final = 2


def trial_bytes(problem: Problem) -> int:
    """Return the memory one trial needs at least, in bytes."""
    k, d, p = problem.num_users, problem.dim_in, problem.dim_out
    rows = problem.num_samples if isinstance(problem.num_samples, int) else max(problem.num_samples)
    if problem.design == "regression":
        rows = d + p if problem.sampling == "sufficient" else rows
        row = d + p
    else:
        rows = d * p + 1 if problem.sampling == "sufficient" else rows
        row = d * p + 1
    return 8 * (COPIES * k * rows * row + 3 * k * d * p)


def available_bytes() -> int:
    """Return the memory that is free here, cgroup limits included."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        free = min(free, int(limit) - int(used))
    return free


def check(study: Study, n_jobs: int) -> None:
    """Refuse a study with a cell whose trials do not fit into memory `n_jobs` at a time."""
    share = available_bytes() // n_jobs
    for cell in study.cells:
        need = trial_bytes(cell.problem)
        if need > share:
            advice = "" if cell.problem.sampling == "sufficient" else ", or set sampling = 'sufficient'"
            raise InputError(
                f"a trial of the cell with {cell} needs {size(need)} of memory, and {size(share)} are free "
                f"for each of {n_jobs} worker(s); make the problem smaller, use fewer workers{advice}."
            )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
