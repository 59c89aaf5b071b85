"""Whether a trial fits into memory, asked before any work."""

from __future__ import annotations

from colora_theory.errors import InputError
from colora_theory.model.memory import available_bytes, size, trial_bytes
from colora_theory.model.problem import Problem
from colora_theory.studies.cells import Cell
from colora_theory.studies.study import Study


def bytes_of(cell: Cell) -> int:
    """Memory one trial of a cell needs at least; 0 for real data, which are there already."""
    return trial_bytes(cell.setting) if isinstance(cell.setting, Problem) else 0


def check(study: Study, n_jobs: int) -> None:
    """Refuse a study with a cell whose trials do not fit into memory `n_jobs` at a time."""
    share = available_bytes() // n_jobs
    for cell in study.cells:
        need = bytes_of(cell)
        if need > share:
            advice = "" if cell.problem.sampling == "sufficient" else ", or set sampling = 'sufficient'"
            raise InputError(
                f"a trial of the cell with {cell} needs {size(need)} of memory, and {size(share)} are free "
                f"for each of {n_jobs} worker(s); make the problem smaller, use fewer workers{advice}."
            )
