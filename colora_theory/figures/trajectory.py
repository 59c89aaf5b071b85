"""Courses of iterative methods, sweep by sweep: the first trials of a study run again from their seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from colora_theory import guarantees
from colora_theory.engine.trial import Recipe, Segment, draw
from colora_theory.engine.trial import fit as fit_trial
from colora_theory.errors import InputError
from colora_theory.figures.tables import STANDING, chosen
from colora_theory.model.linalg import Array, subspace_distance, subspace_distance_fro
from colora_theory.studies.study import guarantee_of

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.estimators import Fit
    from colora_theory.model.truth import Truth
    from colora_theory.results.results import Results


def courses(results: Results, figure: Any) -> dict[str, pd.DataFrame]:
    """Tables of a trajectory: "points", and "path:NAME" for every overlaid guarantee with something to say.

    Columns: cell, varied fields, estimator, line, sweep, mean (geometric), low, high (extremes over trials), n.
    y is "subspace_distance", "subspace_distance_fro", "parameter_error" (methods that record their weights) or
    "objective". A study's own settings of a guarantee (its metric) are respected.
    """
    import pandas as pd

    study, recipe = results.study, Recipe.of(results.study)
    settings = {spec.name: guarantee_of(spec) for spec in study.guarantees}
    claims = {name: settings.get(name) or guarantees.get(name) for name in figure.overlay}
    index = pd.DataFrame(
        [{"cell": c.id, **c.varied, "estimator": e.label} for c in study.cells for e in study.estimators]
    )
    wanted = chosen(index, study, figure, None)
    cells, specs = {c.id: c for c in study.cells}, {e.label: e for e in study.estimators}
    found: dict[str, list[dict[str, Any]]] = {"points": [], **{f"path:{name}": [] for name in claims}}
    for entry in wanted.to_dict("records"):
        row = {str(name): value for name, value in entry.items()}
        cell, spec = cells[row["cell"]], specs[row["estimator"]]
        paths: dict[str, list[Array]] = {name: [] for name in found}
        for trial in range(figure.trials):
            if "keep_history" not in spec.cls.parameters():
                raise InputError(f"a trajectory needs iterative estimators, and {spec.label!r} is none.")
            segment = Segment(0, cell.words, cell.problem, (trial,), (0,))
            truth, data = drawn = draw(recipe, cell.words, cell.problem, trial)
            fit = fit_trial(recipe, segment, trial, study.estimators.index(spec), drawn, keep_history=True)
            paths["points"].append(course(figure.y, truth, fit))
            for name, claim in claims.items():
                if spec.name in claim.estimators and claim.applies(cell.problem):
                    path = claim.path(cell.problem, truth, data, fit, figure.y)
                    paths[f"path:{name}"] += [] if path is None else [np.asarray(path, float)]
        for name, several in paths.items():
            found[name] += [{**row, **point} for point in _summary(several)]
    columns = [*wanted.columns, "sweep", "n", "mean", "low", "high"]
    tables = {name: pd.DataFrame(rows, columns=columns) for name, rows in found.items()}
    for name, claim in claims.items():
        tables[f"path:{name}"] = tables[f"path:{name}"].assign(standing=STANDING[claim.kind], name=name)
    return tables


def _summary(paths: list[Array]) -> list[dict[str, Any]]:
    """Geometric mean and extremes at every sweep that all trials reached."""
    out = []
    for sweep in range(min((len(path) for path in paths), default=0)):
        values = np.array([path[sweep] for path in paths])
        values = np.maximum(values[np.isfinite(values)], np.finfo(float).tiny)
        if len(values):
            mean = float(np.exp(np.log(values).mean()))
            out.append({"sweep": sweep, "n": len(values), "mean": mean, "low": values.min(), "high": values.max()})
    return out


def course(metric: str, truth: Truth, fit: Fit) -> Array:
    """One metric along the sweeps of one fit."""
    distances = {"subspace_distance": subspace_distance, "subspace_distance_fro": subspace_distance_fro}
    if metric in distances and "input_subspaces" in fit.history:
        return np.array([distances[metric](u, truth.input_subspace) for u in fit.history["input_subspaces"]])
    if metric == "parameter_error" and "changes" in fit.history:
        return np.array([float(((w - truth.changes) ** 2).sum()) for w in fit.history["changes"]])
    if metric == "objective" and "objective" in fit.history:
        return np.asarray(fit.history["objective"], dtype=float)
    raise InputError(
        f"a trajectory of {metric!r} needs an estimator that records it; shared-subspace methods record "
        "subspace_distance and objective, gradient methods for adapters parameter_error."
    )
