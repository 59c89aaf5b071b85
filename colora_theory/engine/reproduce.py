"""Runs one stored trial again, alone, and compares."""

from __future__ import annotations

import math
from concurrent.futures import wait
from typing import Any, Final

from colora_theory.engine.machine import manifest, same_numbers
from colora_theory.engine.pools import open_pool
from colora_theory.engine.real_trial import check_data
from colora_theory.engine.trial import Recipe, Segment, run_chunk
from colora_theory.errors import InputError
from colora_theory.results.results import Results
from colora_theory.results.rows import Row
from colora_theory.studies.cells import Cell

#: Agreement asked for when machine or versions differ from those of the run; bitwise otherwise.
RELATIVE: Final = 1e-6
ABSOLUTE: Final = 1e-12


def reproduce(results: Results, cell: str, trial: int) -> list[dict[str, Any]]:
    """Run a trial again and return, per estimator: estimator, stored, again, exact, same.

    cell : id (or the beginning of one) as `status` prints it. stored and again are {"status", metric: value};
    `exact` tells whether bitwise equality was asked for, `same` whether it was met. Times are not compared.
    Raises InputError for an unknown cell or a trial that is not stored.
    """
    here = find_cell(results, cell)
    recipe = Recipe.of(results.study)
    data = check_data(results.study)
    if data != (before := results.manifest.get("data_sha256")):
        raise InputError(
            f"the data have the SHA-256 {str(data)[:12]}…, those of the run had {str(before)[:12]}…; bring "
            "them back."
        )
    index = results.study.cells.index(here)
    exact = same_numbers(results.manifest, manifest(results.study.seed))
    pool = open_pool("loky", 1, None)
    out = []
    try:
        for number, spec in enumerate(results.study.estimators):
            stored = results.row(here, spec, trial)
            if stored is None:
                raise InputError(
                    f"trial {trial} of cell {here.id} is not stored for {spec.label!r}; run it first."
                )
            # Alone in a worker: the row may be one of a fit that crashed.
            future = pool.submit(
                run_chunk, recipe, (Segment(index, here.words, here.setting, (trial,), (number,)),)
            )
            wait([future])
            outcome = pool.collect(future)
            again = {"status": "crashed"} if isinstance(outcome, str) else _as_dict(outcome.rows[0], recipe)
            before = {"status": stored[0], **stored[2]}
            same = all(_equal(before[k], again.get(k), exact) for k in before if k != "seconds")
            out.append({"estimator": spec.label, "stored": before, "again": again, "exact": exact, "same": same})
    finally:
        pool.close()
    return out


def find_cell(results: Results, prefix: str) -> Cell:
    """Return the cell whose id begins with `prefix`."""
    found = [cell for cell in results.study.cells if cell.id.startswith(prefix)]
    if len(found) != 1 or not prefix:
        ids = ", ".join(cell.id for cell in results.study.cells[:5])
        raise InputError(f"--cell must begin the id of exactly one cell, got {prefix!r}; ids are {ids}, …")
    return found[0]


def _as_dict(row: Row, recipe: Recipe) -> dict[str, Any]:
    return {"status": row.status, **dict(zip(recipe.columns, row.values, strict=True))}


def _equal(stored: Any, again: Any, exact: bool) -> bool:
    if exact or not isinstance(stored, float) or not isinstance(again, float):
        return bool(stored == again)
    return math.isclose(stored, again, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
