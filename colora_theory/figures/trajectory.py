"""Iterative methods sweep by sweep: the first trials of a study run again from their seeds, with claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import matplotlib as mpl
import numpy as np

from colora_theory import guarantees
from colora_theory.engine.trial import Recipe, Segment, drawn_for
from colora_theory.engine.trial import fit as fit_trial
from colora_theory.errors import InputError
from colora_theory.figures.panel import GREYS, claim, dash, empty, groups, has_positive, looks, quiet_log
from colora_theory.figures.style import plain
from colora_theory.figures.tables import chosen
from colora_theory.model.linalg import Array, subspace_distance, subspace_distance_fro
from colora_theory.studies.figure_kinds import FigureKind, register
from colora_theory.studies.study import guarantee_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from colora_theory.estimators import Fit
    from colora_theory.model.truth import Truth
    from colora_theory.results.results import Results


@register
class Trajectory(FigureKind):
    """Geometric mean over trials along the sweeps, band from the least to the largest; claims dashed.

    y is "subspace_distance", "subspace_distance_fro", "parameter_error" (methods that record their weights) or
    "objective". A study's own settings of a guarantee (its metric) are respected.
    """

    name: ClassVar[str] = "trajectory"
    needs: ClassVar[tuple[str, ...]] = ("y",)
    takes: ClassVar[tuple[str, ...]] = ("trials", "hue")
    claims: ClassVar[str] = "path"
    shows: ClassVar[str] = "Geometric mean and range over trials that were run again."
    records: ClassVar[tuple[str, ...]] = (
        "subspace_distance",
        "subspace_distance_fro",
        "parameter_error",
        "objective",
    )

    def axis_names(self) -> tuple[str, str]:
        return "sweep", self.figure.y or ""

    def check(self) -> None:
        super().check()
        figure = self.figure
        if figure.y not in self.records:
            raise InputError(f"y of a trajectory must be one of {', '.join(self.records)}, got {figure.y!r}.")
        if self.study.source is not None and figure.y != "objective":
            raise InputError(f"{figure.y!r} compares with a truth, and real data have none; use y = 'objective'.")
        shown = set(figure.estimators or [e.label for e in self.study.estimators])
        if figure.lines:
            named = [line.get("estimator") for line in figure.lines]
            shown &= {str(label) for label in named} if all(named) else shown
        for spec in self.study.estimators:
            if spec.label in shown and "keep_history" not in spec.cls.parameters():
                raise InputError(
                    f"a trajectory needs iterative estimators, and {spec.label!r} is none; choose others by "
                    "estimators = [...]."
                )

    def tables(self, results: Results) -> dict[str, pd.DataFrame]:
        """Columns: cell, varied fields, estimator, line, sweep, mean (geometric), low, high (extremes), n."""
        import pandas as pd

        figure, metric = self.figure, self.figure.y or ""
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
                segment = Segment(0, cell.words, cell.setting, (trial,), (0,))
                truth, data = drawn = drawn_for(recipe, segment, trial)
                fit = fit_trial(recipe, segment, trial, study.estimators.index(spec), drawn, keep_history=True)
                paths["points"].append(course(metric, truth, fit))
                for name, theorem in claims.items():
                    if truth is not None and spec.name in theorem.estimators and theorem.applies(cell.problem):
                        path = theorem.path(cell.problem, truth, data, fit, metric)
                        paths[f"path:{name}"] += [] if path is None else [np.asarray(path, float)]
            for name, several in paths.items():
                found[name] += [{**row, **point} for point in _summary(several)]
        columns = [*wanted.columns, "sweep", "n", "mean", "low", "high"]
        tables = {name: pd.DataFrame(rows, columns=columns) for name, rows in found.items()}
        for name, theorem in claims.items():
            tables[f"path:{name}"] = tables[f"path:{name}"].assign(standing=theorem.standing, name=name)
        return tables

    def draw(self, axes: Axes, tables: dict[str, pd.DataFrame]) -> None:
        figure = self.figure
        if tables["points"].empty:
            empty(axes, "nothing was recorded")
            return
        look = self.looks or looks(tables["points"])
        for text, rows in groups(tables["points"]):
            rows = (
                rows[rows["sweep"] > 0] if figure.log_x else rows
            )  # a logarithmic axis has no place for the start
            colour, marker = look[text]
            every: Any = max(1, len(rows) // 12)
            if figure.log_x:
                every = np.unique(np.geomspace(1, len(rows), 10).astype(int) - 1).tolist()
            axes.plot(
                rows["sweep"],
                rows["mean"],
                color=colour,
                marker=marker,
                markevery=every,
                label=text,
            )
            axes.fill_between(rows["sweep"], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0)
        widths = (1.2, 2.4, 0.8)
        for number, name in enumerate(figure.overlay):
            table = tables[f"path:{name}"]
            for index, (_, rows) in enumerate(groups(table)):
                rows = rows[rows["sweep"] > 0] if figure.log_x else rows
                label = claim(rows, name) if not index else "_nolegend_"
                axes.plot(
                    rows["sweep"],
                    rows["mean"],
                    dash(rows),
                    color=GREYS[number % len(GREYS)],
                    linewidth=widths[number % 3],
                    label=label,
                    zorder=4 - number % 3,
                )
        log_y = figure.log_y is not False and has_positive(axes)
        axes.set_yscale("log" if log_y else "linear")
        axes.set_xscale("log" if figure.log_x else "linear")
        if log_y:
            quiet_log(axes.yaxis)
        if not figure.log_x:
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))

    def said(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        out = []
        for text, rows in groups(tables["points"]):
            at, mean = rows["sweep"].to_list(), rows["mean"].to_list()
            out.append(f"{plain(text)}: {mean[0]:.3g} at sweep {at[0]}, {mean[-1]:.3g} at {at[-1]}.")
        return out


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


def course(metric: str, truth: Truth | None, fit: Fit) -> Array:
    """One metric along the sweeps of one fit; only the objective needs no truth."""
    distances = {"subspace_distance": subspace_distance, "subspace_distance_fro": subspace_distance_fro}
    if truth is not None and metric in distances and "input_subspaces" in fit.history:
        return np.array([distances[metric](u, truth.input_subspace) for u in fit.history["input_subspaces"]])
    if truth is not None and metric == "parameter_error" and "weight_changes" in fit.history:
        return np.array([float(((w - truth.changes) ** 2).sum()) for w in fit.history["weight_changes"]])
    if metric == "objective" and "objective" in fit.history:
        return np.asarray(fit.history["objective"], dtype=float)
    raise InputError(
        f"a trajectory of {metric!r} needs an estimator that records it; shared-subspace methods record "
        "subspace_distance and objective, gradient methods for adapters parameter_error."
    )
