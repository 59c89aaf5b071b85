"""How far a stored study is: read from the writer's running sums alone, so instant for any number of rows.

Works during a run, and on a mere copy of the store; imports nothing heavy.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from colora_theory.errors import InputError
from colora_theory.results.moments import standard_error
from colora_theory.results.rows import FAILURES
from colora_theory.results.store import connect, damage, is_locked, locate, meta
from colora_theory.results.text import duration, table


def status(path: str | Path) -> dict[str, Any]:
    """Return the state of the results at `path` as plain data.

    Keys: study, path, running, trials (planned per cell), rows, failed, missing (rows at most still to come),
    seconds_left (None when unknown), and cells: one entry per cell and estimator with its varied fields, done,
    failed, missing, statuses, and n, mean, mcse of every metric.
    """
    file = locate(path)
    with damage(file):
        return _state(path, file)


def _state(path: str | Path, file: Path) -> dict[str, Any]:
    connection = connect(file)
    try:
        connection.execute("BEGIN")
        study, progress = meta(connection, "study"), meta(connection, "progress") or {}
        cells = connection.execute("SELECT id, key, varied FROM cell ORDER BY position").fetchall()
        estimators = connection.execute("SELECT id, key FROM estimator ORDER BY position").fetchall()
        tally: dict[tuple[int, int], dict[str, tuple[int, float, float]]] = {}
        for cell, estimator, name, *moments in connection.execute("SELECT * FROM tally"):
            tally.setdefault((cell, estimator), {})[name] = tuple(moments)
    finally:
        connection.close()
    if study is None:
        raise InputError(f"{file} does not say which study it belongs to; it is damaged.")
    run = study["run"]
    planned = run.get("max_trials", run["trials"]) if run["target_mcse"] else run["trials"]
    stopped = progress.get("stopped", {})
    fields = json.loads(f"[{','.join(varied for *_, varied in cells)}]")
    entries = [
        _entry(key, varied, label, tally.get((cell, estimator), {}), study, stopped.get(key, planned))
        for (cell, key, _), varied in zip(cells, fields, strict=True)
        for estimator, label in estimators
    ]
    missing = sum(e["missing"] for e in entries)
    each = progress["seconds"] / progress["trials"] if progress.get("trials") else None
    return {
        "study": study["name"],
        "path": str(path),
        "running": is_locked(file.parent),
        "trials": planned,
        "rows": sum(e["done"] for e in entries),
        "failed": sum(e["failed"] for e in entries),
        "missing": missing,
        "seconds_left": 0.0 if not missing else progress["left"] * each if each else None,
        "cells": entries,
    }


def _entry(
    key: str,
    varied: dict[str, Any],
    label: str,
    tally: dict[str, tuple[int, float, float]],
    study: dict[str, Any],
    planned: int,
) -> dict[str, Any]:
    statuses = {name.removeprefix("status:"): n for name, (n, *_) in tally.items() if name.startswith("status:")}
    done = sum(statuses.values())
    metrics = {}
    for name in study["metrics"]["use"]:
        n, mean, m2 = tally.get(name, (0, math.nan, 0.0))
        mcse = standard_error(n, m2) if n > 1 else None
        metrics[name] = {"n": n, "mean": mean if n else None, "mcse": mcse}
    return {
        "cell": key,
        "varied": varied,
        "estimator": label,
        "done": done,
        "failed": sum(n for word, n in statuses.items() if word in FAILURES),
        "missing": max(planned - done, 0),
        "statuses": dict(sorted(statuses.items())),
        "metrics": metrics,
    }


def as_text(state: dict[str, Any]) -> str:
    """Return the state as text."""
    words = "running" if state["running"] else "not running" if state["missing"] else "finished"
    left = state["seconds_left"]
    total = state["rows"] + state["missing"]
    lines = [
        f"{state['study']} ({state['path']}): {words}; {state['rows']} of {total} rows, {state['failed']} failed"
        + (f", {duration(left)} left at the last speed" if left else "")
    ]
    if "verified" in state:
        known = (
            "every row is as it was written" if state["verified"] else "stored before checksums: nothing to verify"
        )
        lines.append(known)
    rows = []
    for e in state["cells"]:
        varied = ", ".join(f"{name} = {value}" for name, value in e["varied"].items())
        numbers = [
            f"{name} = {m['mean']:.4g} ± {m['mcse']:.1g}" if m["mcse"] is not None else f"{name} = –"
            for name, m in e["metrics"].items()
        ]
        rows.append([e["cell"], varied, e["estimator"], e["done"], e["failed"], e["missing"], ", ".join(numbers)])
    return "\n".join(
        [*lines, *table(["cell", "fields", "estimator", "done", "failed", "missing", "mean ± mcse"], rows)]
    )
