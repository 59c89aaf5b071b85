"""Means over a grid of two fields; for a success rate the 50 % contour and threshold lines."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import matplotlib as mpl

from colora_theory import guarantees
from colora_theory.errors import InputError
from colora_theory.figures.measures import check_formulas, is_formula, measured, named, of_fields
from colora_theory.figures.panel import apart, claim, edges, empty, quiet_log
from colora_theory.figures.style import label_of
from colora_theory.figures.tables import boundary_line, chosen, threshold_line
from colora_theory.studies.figure_kinds import FigureKind, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from colora_theory.results.results import Results


@register
class Heatmap(FigureKind):
    """One colour per cell: never an average over estimators or over fields that the picture does not show."""

    name: ClassVar[str] = "heatmap"
    needs: ClassVar[tuple[str, ...]] = ("x", "y", "value")
    takes: ClassVar[tuple[str, ...]] = ("levels",)
    shows: ClassVar[str] = "Means over the trials."
    axes: ClassVar[tuple[str, ...]] = ("x", "y")
    measure: ClassVar[str] = "value"
    lines_name_fields: ClassVar[bool] = False
    more_tables: ClassVar[tuple[str, ...]] = ("boundary",)

    def axis_names(self) -> tuple[str, str]:
        return self.figure.x or "", self.figure.y or ""

    def check(self) -> None:
        super().check()
        figure, varied = self.figure, self.study.cells[0].varied
        check_formulas(self.study, figure)
        faceted = {*named(self.study, figure.row), *named(self.study, figure.col)}
        axes = {*named(self.study, figure.x), *named(self.study, figure.y)}
        for name in (figure.x, figure.y):
            if is_formula(self.study, name):
                continue
            values = [cell.varied.get(name or "") for cell in self.study.cells]
            if name not in varied or not all(isinstance(value, int | float) and value > 0 for value in values):
                raise InputError(
                    f"x and y of a heatmap must be varied fields with positive numbers, got {name!r}."
                )
        shown = set(figure.estimators or [e.label for e in self.study.estimators])
        fixed: set[str] = set()
        if figure.lines:
            if len(figure.lines) > 1:
                raise InputError("a heatmap shows one line of lines; use row or col for several.")
            fixed, only = set(figure.lines[0]), figure.lines[0].get("estimator")
            shown = {str(only)} if only else shown
        if len(shown) > 1 and "estimator" not in faceted:
            raise InputError(
                "a heatmap has one colour per cell, and would average over the estimators "
                f"{', '.join(sorted(shown))}; "
                'choose one by estimators = [...], or show them side by side by col = "estimator".'
            )
        for name in set(varied) - axes - faceted - fixed:
            if len({str(cell.varied[name]) for cell in self.study.cells}) > 1:
                raise InputError(
                    f"a heatmap has one colour per cell, and would average over {name}; show its values side by "
                    f"side by row or col = {name!r}, or choose one by lines = [{{ {name} = ... }}]."
                )
        for name in figure.overlay:
            self._check_overlay(name)

    def _check_overlay(self, name: str) -> None:
        guarantee = guarantees.get(name)
        against = named(self.study, self.figure.y)  # of a formula every field in it
        threshold = guarantee.side == "threshold" and guarantee.against in against
        if not threshold and name not in self.figure.levels:
            raise InputError(
                f"guarantee {name!r} is no threshold in {self.figure.y!r}; choose another overlay, another y, or "
                f"give it a level: levels = {{ {name} = ... }}."
            )

    def tables(self, results: Results) -> dict[str, pd.DataFrame]:
        figure = self.figure
        x, y, value = figure.x or "", figure.y or "", figure.value or ""
        table = chosen(measured(results, figure, value)[0], self.study, figure, None)
        tables = {"points": table}
        single = figure.row is None and figure.col is None
        if value == "success" and single:
            tables["boundary"] = boundary_line(table, x, y)
        scaled = is_formula(self.study, x) or is_formula(self.study, y)
        for name in figure.overlay if single or scaled else ():
            line = scaled_threshold if scaled else threshold_line
            tables[f"overlay:{name}"] = line(results, name, figure)
        return tables

    def draw(self, axes: Axes, tables: dict[str, pd.DataFrame]) -> None:
        from matplotlib.patheffects import withStroke

        figure = self.figure
        known = tables["points"].dropna(subset=["mean"])
        if known.empty:
            empty(axes, "no trial gave a number here")
            return
        x, y = figure.x or "", figure.y or ""
        share = figure.value == "success"
        means = self.whole.get("points", known)["mean"].dropna()  # one scale of colours for all panels
        logarithmic = not share and figure.log_y is not False and bool((means > 0).all())
        norm = mpl.colors.LogNorm() if logarithmic else mpl.colors.Normalize()
        norm.autoscale([0.0, 1.0] if share else means)
        for across, up, values in meshes(known, x, y):
            image = axes.pcolormesh(
                across, up, values, cmap="Blues" if share else "cividis", norm=norm, rasterized=True
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(edges(sorted(set(known[x])))[[0, -1]])
        heights = [up for _, up, _ in meshes(known, x, y)]
        axes.set_ylim(min(up[0] for up in heights), max(up[-1] for up in heights))
        for axis, values in ((axes.xaxis, known[x]), (axes.yaxis, known[y])):
            if axis is axes.yaxis and len(heights) > 1:  # columns of their own heights: no value is common to all
                quiet_log(axis)
                continue
            ticks = apart([float(value) for value in sorted(set(values))])
            axis.set_major_locator(mpl.ticker.FixedLocator(ticks))
            axis.set_major_formatter(mpl.ticker.FixedFormatter([f"{value:g}" for value in ticks]))
            axis.set_minor_locator(mpl.ticker.NullLocator())
        axes.grid(visible=False)
        bar = axes.figure.colorbar(image, ax=axes)
        bar.set_label(label_of(figure.value or ""))
        bar.outline.set_visible(False)

        def line(rows: pd.DataFrame, style: Any, colour: str, width: float, text: str) -> None:
            halo = [withStroke(linewidth=width + 1.6, foreground="#ffffff")]
            axes.plot(
                rows[x],
                rows["value"],
                linestyle=style,
                color=colour,
                linewidth=width,
                label=text,
                path_effects=halo,
            )

        dashes = ("-", (0, (4, 1.6)), (0, (1, 1)), (0, (5, 1, 1, 1)))
        colours = ("#000000", "#E69F00", "#009E73", "#CC79A7")
        for index, name in enumerate(figure.overlay):
            rows = tables.get(f"overlay:{name}")
            if rows is not None and len(rows):
                at = f" = {figure.levels[name]:g}" if name in figure.levels else ""
                width = 2.2 if not index else 1.2
                line(rows, dashes[index % 4], colours[index % 4], width, claim(rows, name, at))
        if len(tables.get("boundary", ())):
            line(tables["boundary"], "-", "#D55E00", 1.2, "half of the trials succeed (logistic fit)")

    def said(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        table = tables["points"]
        return [f"From {table['mean'].min():.3g} to {table['mean'].max():.3g} over {len(table)} cells."]


def meshes(table: pd.DataFrame, x: str, y: str) -> list[tuple[Any, Any, Any]]:
    """Edges along x, edges along y and means of the coloured cells.

    One mesh where every x was run at every y; in scaled coordinates, where every x has heights of its own, one for
    every column.
    """
    whole = table.pivot_table(index=y, columns=x, values="mean", sort=True)
    if not whole.isna().to_numpy().any():
        return [(edges(whole.columns), edges(whole.index), whole.to_numpy(float))]
    sides, out = edges(whole.columns), []
    for place, (_, column) in enumerate(whole.items()):
        means = column.dropna()
        out.append((sides[place : place + 2], edges(means.index), means.to_numpy(float)[:, None]))
    return out


def scaled_threshold(results: Results, name: str, figure: Any) -> pd.DataFrame:
    """Where a claim begins in scaled coordinates: the threshold of every cell, by the formulas of x and y."""
    import pandas as pd

    guarantee, rows = guarantees.get(name), []
    for cell in results.study.cells:
        begins = guarantee.value(cell.problem)
        if not math.isfinite(begins):
            continue
        there = dataclasses.replace(cell, setting=cell.problem.replace(**{guarantee.against: int(begins)}))
        at = {axis: of_fields(there, axis) for axis in (figure.x, figure.y)}
        rows.append({**cell.varied, figure.x: at[figure.x], "value": at[figure.y]})
    table = pd.DataFrame(rows).drop_duplicates().sort_values(figure.x) if rows else pd.DataFrame()
    return table.assign(standing=guarantee.standing, name=name)
